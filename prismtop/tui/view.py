"""What the screen shows of what was collected: pause, selection, scrolling, rate. No Textual in here.

Collection never stops: `accept` always takes the newest `Frame`. Two things can stand still in front of it:
the whole view (`pause`), and the list alone (`held`) as soon as the selection leaves the newest batch: rows
that pass at a hundred a second cannot be pointed at.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from prismtop.model import Batch, Frame

RATES_HZ = (0.2, 0.5, 1.0, 2.0, 4.0, 10.0)
"""What + and - step through."""

STALE_NS = 3_000_000_000
"""A frame older than this is marked: the collector is late or stuck."""

WARNINGS_KEPT = 100


@dataclass
class View:
    """State of the screen. Only event handlers change it.

    Attributes:
        latest: the newest frame collected; None before the first.
        frame: the frame shown.
        paused_ns: CLOCK_MONOTONIC of the pause; None while the view moves.
        held: rows of a list that stands still, newest first; None while it follows the newest batch.
        cursor: selected row, 0 is the newest of the rows.
        top: first visible row.
        height: visible rows.
        compact: fewer panels.
        ui_hz: redraws per second.
        warnings: newest last, without repeats.
    """

    ui_hz: float = 2.0
    latest: Frame | None = None
    frame: Frame | None = None
    paused_ns: int | None = None
    held: tuple[Batch, ...] | None = None
    cursor: int = 0
    top: int = 0
    height: int = 1
    compact: bool = False
    scale_ms: float = 0.0
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS_KEPT))

    def accept(self, frame: Frame, warnings: tuple[str, ...] = ()) -> bool:
        """Take a new frame; True when the picture changes."""
        self.latest = frame
        for warning in (*warnings, *frame.warnings):
            if warning not in self.warnings:
                self.warnings.append(warning)
        if self.paused_ns is not None:
            return False
        self.frame = frame
        return True

    def toggle_pause(self, now_ns: int) -> None:
        """Freeze the view, or go back to now."""
        if self.paused_ns is None:
            self.paused_ns = now_ns
        else:
            self.paused_ns = None
            self.frame = self.latest
            self.follow()

    def paused_s(self, now_ns: int) -> float | None:
        """Age of the pause in seconds; None while the view moves."""
        return None if self.paused_ns is None else max(0.0, (now_ns - self.paused_ns) / 1e9)

    def missed_batches(self) -> int:
        """Batches collected since the frame shown."""
        if self.frame is None or self.latest is None:
            return 0
        return self.latest.total_batches - self.frame.total_batches

    def stale_s(self, now_ns: int) -> float | None:
        """Age of the newest frame in seconds when that is too old; None when it is fresh."""
        if self.latest is None or now_ns - self.latest.time_ns < STALE_NS:
            return None
        return (now_ns - self.latest.time_ns) / 1e9

    @property
    def total_rows(self) -> int:
        """Rows that the list has."""
        if self.held is not None:
            return len(self.held)
        return 0 if self.frame is None else len(self.frame.batches)

    def row(self, index: int) -> Batch | None:
        """The batch on row `index`, 0 is the newest; None outside the list."""
        if not 0 <= index < self.total_rows:
            return None
        if self.held is not None:
            return self.held[index]
        return None if self.frame is None else self.frame.batches[-1 - index]

    @property
    def selected(self) -> Batch | None:
        """The batch under the cursor."""
        return self.row(self.cursor)

    def hold(self) -> None:
        """Keep the rows as they are now."""
        if self.held is None and self.frame is not None:
            self.held = tuple(reversed(self.frame.batches))

    def follow(self) -> None:
        """Let the list follow the newest batch."""
        self.held = None
        self.cursor = self.top = 0

    def move(self, rows: int) -> None:
        """Move the cursor; moving up from the newest row of a held list follows again."""
        if rows < 0 and self.cursor == 0:
            self.follow()
            return
        self.select(self.cursor + rows)

    def select(self, index: int) -> None:
        """Put the cursor on a row and hold the list."""
        self.hold()
        self.cursor = max(0, min(index, self.total_rows - 1))
        self._show_cursor()

    def resize(self, height: int) -> None:
        """The list has `height` visible rows now."""
        self.height = max(1, height)
        self._show_cursor()

    def _show_cursor(self) -> None:
        self.top = min(self.top, self.cursor)
        self.top = max(self.top, self.cursor - self.height + 1, 0)
        if self.held is not None:
            self.top = min(self.top, max(0, len(self.held) - self.height))

    def rate(self, step: int) -> None:
        """Redraw more (`step` 1) or less (-1) often, along `RATES_HZ`."""
        if step > 0:
            self.ui_hz = next((hz for hz in RATES_HZ if hz > self.ui_hz), max(RATES_HZ[-1], self.ui_hz))
        else:
            slower = [hz for hz in RATES_HZ if hz < self.ui_hz]
            self.ui_hz = slower[-1] if slower else min(RATES_HZ[0], self.ui_hz)
