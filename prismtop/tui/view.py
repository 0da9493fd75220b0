"""What the screen shows of what was collected: pause, rows, selection, rate, messages. No Textual in here.

Collection never stops: `accept` always takes the newest `Frame`. Two things can stand still in front of it:
the whole view (`pause`), and the list alone (`held`) as soon as the selection leaves the newest batch: rows
that pass at a hundred a second cannot be pointed at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prismtop.deepdive import report
from prismtop.model import Alert, AttachState, Batch, CapturePhase, Frame
from prismtop.safe_text import safe_text
from prismtop.tui.fields import BY_NAME, is_slow
from prismtop.tui.filter import Filter
from prismtop.tui.history import StepHistory

RATES_HZ = (0.2, 0.5, 1.0, 2.0, 4.0, 10.0)
"""What + and - step through."""

STALE_NS = 3_000_000_000
"""A frame older than this is marked: the collector is late or stuck. Where the screen is redrawn more seldom
than that, one and a half of its periods."""

WARNINGS_KEPT = 100
TOAST_NS = 8_000_000_000
BY_TIME = "seq"
_LEFT = {
    AttachState.GONE: "the engine has ended",
    AttachState.DETACHED: "the probe has left the engine: start prismtop again to go on measuring",
}


@dataclass(frozen=True)
class Toast:
    """A message that goes away by itself."""

    text: str
    role: str
    until_ns: int


@dataclass
class View:
    """State of the screen. Only event handlers change it.

    Attributes:
        latest: the newest frame collected; None before the first.
        frame: the frame shown.
        paused_ns: CLOCK_MONOTONIC of the pause; None while the view moves.
        held: batches of a list that stands still, oldest first; None while it follows the newest batch.
        cursor: selected row, 0 is the newest of the rows when they are sorted by time.
        top: first visible row.
        height: visible rows.
        sort: name of the field that rows are sorted by; `seq` is by time.
        ascending: smallest first; by time: oldest first.
        filter: which rows are shown.
        search: what the next search looks for.
        compact: fewer panels.
        panels: panels shown (True) or hidden (False) whatever the size; others as there is room.
        focus: the panel that arrows scroll; empty is the list.
        scroll: first visible line per panel.
        ui_hz: redraws per second.
        readonly: keys that would change the engine are refused.
        warnings: newest last, without repeats.
        history: predicted and actual cost by the second.
        toast: the message shown now.
        rings: an alert has opened for which the bell was not rung yet.
    """

    ui_hz: float = 2.0
    readonly: bool = False
    latest: Frame | None = None
    frame: Frame | None = None
    paused_ns: int | None = None
    held: tuple[Batch, ...] | None = None
    cursor: int = 0
    top: int = 0
    height: int = 1
    sort: str = BY_TIME
    ascending: bool = False
    filter: Filter | None = None
    search: Filter | None = None
    compact: bool = False
    panels: dict[str, bool] = field(default_factory=dict)
    focus: str = ""
    scroll: dict[str, int] = field(default_factory=dict)
    scale_ms: float = 0.0
    chart_range: tuple[float, float] = (0.0, 0.0)
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=WARNINGS_KEPT))
    history: StepHistory = field(default_factory=StepHistory)
    toast: Toast | None = None
    rings: bool = False
    _announced: set[int] | None = None
    _left: bool = False
    _captured: tuple[int, bool, bool | None] | None = None
    _rows_of: tuple[object, ...] = ()
    _rows: Sequence[Batch] = ()

    def accept(
        self,
        frame: Frame,
        warnings: tuple[str, ...] = (),
        batches: Sequence[Batch] | None = None,
        now_ns: int | None = None,
    ) -> bool:
        """Take a new frame, and the batches since the last one taken; True when the picture changes.

        `now_ns`: of the clock that messages go away by; a replayed frame has the times of its trace.
        """
        self.latest = frame
        for warning in (*warnings, *frame.warnings):
            if warning not in self.warnings:
                self.warnings.append(warning)
        self.history.add(frame.new_batches if batches is None else batches)
        self._announce(frame, frame.time_ns if now_ns is None else now_ns)
        if self.paused_ns is not None:
            return False
        self.frame = frame
        return True

    def _announce(self, frame: Frame, now_ns: int) -> None:
        """One message per episode, when it opens, and one when the engine or the probe has left.

        What was there at the start is no news.
        """
        left = frame.state in (AttachState.GONE, AttachState.DETACHED)
        if left and not self._left and self._announced is not None:
            self.say(frame.note or _LEFT[frame.state], now_ns, "error")
        self._left = left
        self._announce_capture(frame, now_ns)
        if self._announced is None:
            self._announced = {alert.id for alert in frame.alerts}
            return
        for alert in frame.alerts:
            if alert.id not in self._announced:
                self._announced.add(alert.id)
                if alert.closed_ns is None:
                    self.say(f"{alert.severity.value}: {alert.text}", now_ns, "error")
                    self.rings = True

    def _announce_capture(self, frame: Frame, now_ns: int) -> None:
        """One message when a capture has ended, one more when a slowdown has stayed."""
        capture = frame.capture
        now = None if capture is None else (capture.number, capture.phase.final, capture.residual)
        if now == self._captured:
            return
        self._captured = now
        if capture is not None and capture.residual:
            self.say(f"DeepDive: {report.residual_text(capture)}", now_ns, "error")
        elif capture is not None and capture.phase.final and capture.residual is None:
            failed = capture.phase is CapturePhase.FAILED
            self.say(report.ended(capture), now_ns, "error" if failed else "badge")

    @property
    def capturing(self) -> bool:
        """Whether a deep capture runs."""
        capture = self.latest.capture if self.latest is not None else None
        return capture is not None and not capture.phase.final

    def say(self, text: str, now_ns: int, role: str = "badge") -> None:
        """Show a message for some seconds."""
        self.toast = Toast(safe_text(text, 300), role, now_ns + TOAST_NS)

    def toast_at(self, now_ns: int) -> Toast | None:
        """The message to show now."""
        return self.toast if self.toast is not None and now_ns < self.toast.until_ns else None

    def open_alerts(self) -> tuple[Alert, ...]:
        """Episodes that go on, newest first."""
        alerts = self.frame.alerts if self.frame else ()
        return tuple(alert for alert in reversed(alerts) if alert.closed_ns is None)

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
        return max(0, self.latest.total_batches - self.frame.total_batches)

    def stale_s(self, now_ns: int) -> float | None:
        """Age of the newest frame in seconds when that is too old; None when it is fresh."""
        if self.latest is None or now_ns - self.latest.time_ns < max(STALE_NS, 1.5e9 / self.ui_hz):
            return None
        if self.latest.replay is not None:  # its times are those of the trace
            return None
        return (now_ns - self.latest.time_ns) / 1e9

    @property
    def rows(self) -> Sequence[Batch]:
        """The list's batches, filtered and sorted, first row first."""
        source = self.held if self.held is not None else self.frame.batches if self.frame else ()
        made_of = (source, self.sort, self.ascending, self.filter)
        if len(self._rows_of) == 4 and all(
            one is other for one, other in zip(made_of, self._rows_of, strict=True)
        ):
            return self._rows
        kept: Sequence[Batch] = source
        if self.filter is not None:
            matches = self.filter.matches
            kept = [batch for batch in kept if matches(batch)]
        self._rows_of, self._rows = made_of, self._sorted(kept)
        return self._rows

    def _sorted(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        if self.sort == BY_TIME:
            return batches if self.ascending else batches[::-1]
        value = BY_NAME[self.sort].value
        known = [(value(batch), batch) for batch in batches]
        numbers = [(found, batch) for found, batch in known if found is not None]
        numbers.sort(key=lambda pair: pair[0], reverse=not self.ascending)
        # What has no value comes last in either order.
        return [batch for _, batch in numbers] + [batch for found, batch in known if found is None]

    @property
    def total_rows(self) -> int:
        """Rows that the list has."""
        return len(self.rows)

    def row(self, index: int) -> Batch | None:
        """The batch on row `index`; None outside the list."""
        rows = self.rows
        return rows[index] if 0 <= index < len(rows) else None

    @property
    def selected(self) -> Batch | None:
        """The batch under the cursor."""
        return self.row(self.cursor)

    def hold(self) -> None:
        """Keep the rows as they are now."""
        if self.held is None and self.frame is not None:
            self.held = self.frame.batches

    def follow(self) -> None:
        """Let the list follow the newest batch."""
        self.held = None
        self.cursor = self.top = 0

    def move(self, rows: int) -> None:
        """Move the cursor; moving up from the first row of a held list follows again."""
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
        last = self.total_rows - 1
        self.cursor = max(0, min(self.cursor, last))
        self.top = min(self.top, self.cursor)
        self.top = max(self.top, self.cursor - self.height + 1, 0)
        if self.held is not None:
            self.top = min(self.top, max(0, last + 1 - self.height))

    def sort_by(self, name: str) -> None:
        """Sort by a field, largest (newest) first; the same field again turns the order around."""
        self._keeping_place(lambda: self._set_sort(name, not self.ascending if name == self.sort else False))

    def invert(self) -> None:
        """Turn the order around."""
        self._keeping_place(lambda: self._set_sort(self.sort, not self.ascending))

    def _set_sort(self, name: str, ascending: bool) -> None:
        self.sort, self.ascending = name, ascending

    def set_filter(self, wanted: Filter | None) -> None:
        """Show only rows that match; None shows all."""

        def change() -> None:
            self.filter = wanted

        self._keeping_place(change)

    def _keeping_place(self, change: Callable[[], None]) -> None:
        """Change the rows; the cursor of a held list stays on its batch where that is still in it."""
        chosen = self.selected if self.held is not None else None
        change()
        self.cursor = 0 if chosen is None else self.index_of(chosen) or 0
        self.top = 0
        self._show_cursor()

    def index_of(self, batch: Batch) -> int | None:
        """The row of a batch; None when it is not in the list."""
        wanted = (batch.pid, batch.seq)
        return next((i for i, other in enumerate(self.rows) if (other.pid, other.seq) == wanted), None)

    def find(self, matches: Callable[[Batch], bool], step: int = 1, *, here: bool = False) -> bool:
        """Select the next row (`step` -1: the previous) that matches, round the end; False when none does.

        `here`: the row under the cursor counts too.
        """
        rows = self.rows
        count = len(rows)
        for distance in range(0 if here else 1, count + (0 if here else 1)):
            index = (self.cursor + step * distance) % count
            if matches(rows[index]):
                self.select(index)
                return True
        return False

    def find_anomaly(self, step: int) -> bool:
        """Select the next slow batch down (`step` -1: up) the list; from the top of a list that is not held,
        the newest one."""
        return self.find(is_slow, step, here=self.held is None and step > 0)

    def rate(self, step: int) -> None:
        """Redraw more (`step` 1) or less (-1) often, along `RATES_HZ`."""
        if step > 0:
            self.ui_hz = next((hz for hz in RATES_HZ if hz > self.ui_hz), max(RATES_HZ[-1], self.ui_hz))
        else:
            slower = [hz for hz in RATES_HZ if hz < self.ui_hz]
            self.ui_hz = slower[-1] if slower else min(RATES_HZ[0], self.ui_hz)
