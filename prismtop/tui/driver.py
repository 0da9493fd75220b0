"""Textual's terminal driver with `CellDiff` in front of the terminal, and able to lose it."""

from __future__ import annotations

import os
import sys
from typing import IO, Any, cast

from textual.drivers.linux_driver import LinuxDriver

from prismtop.tui.terminal import CellDiff


class _MayBeGone:
    """A terminal whose writes fail in silence once it is gone.

    Otherwise Textual's writing thread ends with the first of them, and whoever writes next waits for room in
    its queue for ever.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write, or not."""
        try:
            return self._file.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        try:
            self._file.flush()
        except (OSError, ValueError):
            pass

    def fileno(self) -> int:
        """File number of the terminal."""
        return self._file.fileno()


class ThriftyDriver(LinuxDriver):
    """A `LinuxDriver` that sends only the cells that changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cells = CellDiff()
        if self._file is not None:
            self._file = cast("Any", _MayBeGone(self._file))

    def write(self, data: str) -> None:
        """Write to the terminal what `data` changes on it."""
        reduced = self._cells.reduce(data)
        if reduced:
            super().write(reduced)

    def forget(self) -> None:
        """The terminal's content is unknown (resized, redraw asked for): send everything again."""
        self._cells.forget()

    def _sigcont_application(self, *_: object) -> None:
        # A terminal that goes away sends SIGHUP and SIGCONT: there is nothing to come back to.
        if not terminal_lost():
            super()._sigcont_application()


def terminal_lost() -> bool:
    """Whether standard input was a terminal that is gone now."""
    if sys.__stdin__ is None or sys.__stdin__.closed:
        return False
    try:
        os.tcgetpgrp(sys.__stdin__.fileno())
    except OSError as error:
        import errno

        return error.errno == errno.EIO
    return False
