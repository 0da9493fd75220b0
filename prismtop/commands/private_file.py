"""Files that commands write for their user alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from prismtop.errors import UnavailableError
from prismtop.safe_text import safe_text


def open_private(path: str | Path, *, append: bool = False) -> TextIO:
    """A text file to write, which only its owner can read when it is new; no symbolic link is followed.

    Args:
        append: to what is there; else that goes.

    Raises:
        UnavailableError: it cannot be written.
    """
    how = os.O_APPEND if append else os.O_TRUNC
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(f"{safe_text(str(path))} cannot be written: {error.strerror}.") from None
    return os.fdopen(fd, "w", encoding="utf-8")
