"""Textual's terminal driver with `CellDiff` in front of the terminal."""

from __future__ import annotations

from typing import Any

from textual.drivers.linux_driver import LinuxDriver

from prismtop.tui.terminal import CellDiff


class ThriftyDriver(LinuxDriver):
    """A `LinuxDriver` that sends only the cells that changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cells = CellDiff()

    def write(self, data: str) -> None:
        """Write to the terminal what `data` changes on it."""
        reduced = self._cells.reduce(data)
        if reduced:
            super().write(reduced)

    def forget(self) -> None:
        """The terminal's content is unknown (resized, redraw asked for): send everything again."""
        self._cells.forget()
