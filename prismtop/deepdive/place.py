"""Where a capture's trace goes, and whether there is room for it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from prismtop.errors import UnavailableError
from prismtop.model import CaptureRequest
from prismtop.safe_text import safe_file_name, safe_text
from prismtop.trace.recorder import state_dir
from prismtop.trace.segments import check_free, free_name, refusal

BYTES_PER_BATCH = 1 << 20
"""Of one process while it is fetched and merged: up to 0.4 MB a batch of a profile as text, twice."""
_SCRATCH = "prismtop-deepdive-"
_OF_PID = re.compile(re.escape(_SCRATCH) + r"(\d+)-\w+")
LEAST_BYTES = 128 << 20
MOST_BYTES = 2 << 30
"""A window of so many batches ends by its time."""


def place_for(request: CaptureRequest, directory: Path | None, engine: str, processes: int) -> Path:
    """The file that a capture will write.

    Args:
        directory: of captures without a name; None is the state directory of the platform.
        processes: captured.

    Raises:
        PrismtopError: the name is taken or no trace's, the directory is not ours, or the disk is too full.
    """
    if request.path:
        path = Path(request.path).expanduser()
    else:
        stem = f"deepdive-{time.strftime('%Y%m%d-%H%M%S')}-{safe_file_name(engine, 40)}"
        path = free_name(directory or state_dir(), stem, "captures")
    check_free(path)
    need = max(LEAST_BYTES, min(MOST_BYTES, request.batches * BYTES_PER_BATCH) * processes)
    for folder in (path.parent, Path(tempfile.gettempdir())):
        _check_room(folder, need)
    return path


def scratch() -> Path:
    """A new directory for the files of one capture; those that a killed prismtop left behind go. Raises
    OSError.
    """
    folder = Path(tempfile.gettempdir())
    for left in folder.glob(f"{_SCRATCH}*"):
        found = _OF_PID.fullmatch(left.name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            with contextlib.suppress(OSError):  # anybody may put a name there, and remove it meanwhile
                if os.lstat(left).st_uid == os.getuid():
                    shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=folder))


def _check_room(folder: Path, need: int) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise refusal(folder, error) from None
    if free < need:
        raise UnavailableError(
            f"{safe_text(str(folder))} has {free / 1e6:.0f} MB free, a capture may need {need / 1e6:.0f}.",
            fix="Make room, capture fewer batches, or name a file elsewhere.",
        )
