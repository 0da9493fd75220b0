"""The batch list: one row per batch, newest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from prismtop.model import Batch, Frame, Mode
from prismtop.safe_text import safe_text
from prismtop.tui.fields import BY_NAME, is_slow, over_pct, rank_skew_ns
from prismtop.tui.look import UNICODE, Glyphs, Line, Span
from prismtop.tui.numbers import DASH, count, milliseconds, nanoseconds
from prismtop.tui.panels.bar import bar, scale_for
from prismtop.tui.view import BY_TIME, View

MODES = {
    Mode.PREFILL: "pre",
    Mode.DECODE: "dec",
    Mode.MIXED: "mix",
    Mode.IDLE: "idle",
    Mode.UNKNOWN: "?",
}


@dataclass(frozen=True)
class Column:
    """One column of text.

    Attributes:
        title: heading, and the name of the field that it shows.
        width: cells, without the blank that follows.
        since: narrowest screen on which it is shown.
        text: what a batch shows.
        judged: only where batches have predictions.
    """

    title: str
    width: int
    since: int
    text: Callable[[Batch], str]
    judged: bool = False

    @property
    def meaning(self) -> str:
        """For the help page."""
        return BY_NAME[self.title].meaning


def _kv(batch: Batch) -> str:
    usage = batch.workload.kv_usage
    return DASH if usage is None else f"{usage * 100:.0f}%"


def _over(batch: Batch) -> str:
    over = over_pct(batch)
    return DASH if over is None else f"{max(-99.0, min(over, 9999.0)):+.0f}%"


_EXPECT_WIDTH = 9


def expected(batch: Batch, glyphs: Glyphs = UNICODE) -> str:
    """`8.0 ±0.4`, with a `p` when it is the period that was predicted."""
    found = batch.prediction
    if found is None:
        return DASH
    width = (found.high_ns - found.low_ns) / 2e6
    half = f"{width:.2f}"[1:] if width < 0.995 else f"{width:.1f}" if width < 9.95 else milliseconds(width)
    basis = "p" if found.basis == "period" else ""
    expectation = milliseconds(found.expected_ns / 1e6)
    text = f"{expectation}{glyphs.interval}{half}{basis}"
    return text if len(text) <= _EXPECT_WIDTH else f"{expectation}{basis}"


COLUMNS: tuple[Column, ...] = (
    Column("rank", 4, 140, lambda b: count(b.rank, 4)),
    Column("mode", 4, 0, lambda b: MODES[b.mode]),
    Column("bs", 4, 0, lambda b: count(b.workload.batch_size, 4)),
    Column("tok", 5, 0, lambda b: count(b.workload.tokens, 5)),
    Column("pre", 5, 160, lambda b: count(b.workload.prefill_tokens, 5)),
    Column("cach", 5, 180, lambda b: count(b.workload.cached_tokens, 5)),
    Column("ctx", 6, 50, lambda b: count(b.workload.context_tokens, 6)),
    Column("run", 4, 100, lambda b: count(b.workload.running, 4)),
    Column("wait", 4, 96, lambda b: count(b.workload.waiting, 4)),
    Column("kv", 4, 104, _kv),
    Column("new", 3, 170, lambda b: count(b.workload.new_requests, 3)),
    Column("pree", 4, 190, lambda b: count(b.workload.preempted, 4)),
    Column("skew", 5, 130, lambda b: nanoseconds(rank_skew_ns(b))),
    Column("period", 6, 112, lambda b: nanoseconds(b.period_ns)),
    Column("ms", 6, 0, lambda b: milliseconds(b.duration_ns / 1e6)),
    Column("expect", _EXPECT_WIDTH, 64, expected, judged=True),
    Column("over", 5, 120, _over, judged=True),
)
_SEQ_WIDTH = 7


@lru_cache(64)
def columns_for(width: int, judged: bool = False) -> tuple[Column, ...]:
    """Columns that a screen of that width shows."""
    return tuple(column for column in COLUMNS if width >= column.since and (judged or not column.judged))


def is_judged(frame: Frame | None) -> bool:
    """Whether batches are held against predictions, so that their columns are worth the room."""
    if frame is None:
        return False
    return frame.model is not None or any(batch.prediction for batch in frame.batches[-32:])


def columns_of(view: View, width: int) -> tuple[Column, ...]:
    """Columns that the list shows now."""
    return columns_for(width, is_judged(view.frame))


def bar_width(width: int, judged: bool = False) -> int:
    """Cells left for the bar."""
    text = 1 + _SEQ_WIDTH + sum(column.width + 1 for column in columns_for(width, judged)) + 1
    return max(0, width - text - 1)


def title_at(view: View, width: int, x: int) -> str:
    """The title of the column at cell `x`; empty over the bar."""
    at = 1 + _SEQ_WIDTH
    if x < at:
        return BY_TIME
    for column in columns_of(view, width):
        at += 1 + column.width
        if x < at:
            return column.title
    return ""


def heading(
    width: int,
    scale_ms: float,
    note: str,
    *,
    judged: bool = False,
    sort: str = BY_TIME,
    ascending: bool = False,
    glyphs: Glyphs = UNICODE,
) -> Line:
    """Column titles, the one that rows are sorted by marked; over the bar what its full width stands for, and
    `note` at the right edge."""

    def titled(name: str, cells: int) -> str:
        marked = sort == name and (name != BY_TIME or ascending)
        # The mark takes the place of the blank before the title when the column is narrow.
        return f"{(glyphs.up if ascending else glyphs.down) if marked else ''}{name}".rjust(cells)[
            -cells - 1 :
        ]

    titles = " " + titled(BY_TIME, _SEQ_WIDTH)
    for column in columns_for(width, judged):
        text = titled(column.title, column.width)
        if column.title == "mode":
            text = text.strip().ljust(column.width)
        titles += text if len(text) > column.width else f" {text}"
    room = max(0, width - len(titles) - 2)
    scale = f"stages: bar = {scale_ms:g} ms"
    if len(scale) + len(note) + 1 > room:
        scale = f"bar = {scale_ms:g} ms"
    text = note.rjust(room) if len(scale) + len(note) + 1 > room else scale.ljust(room - len(note)) + note
    return ((f"{titles}  {text[:room]}"[:width].ljust(width), "column"),)


def _mark(batch: Batch, glyphs: Glyphs, at_cursor: bool, found: bool) -> str:
    if at_cursor:
        return glyphs.pointer
    if is_slow(batch):
        return glyphs.slow
    return glyphs.match if found else "?" if batch.suspect else " "


def row(
    batch: Batch,
    width: int,
    scale_ms: float,
    glyphs: Glyphs,
    *,
    at_cursor: bool,
    judged: bool = False,
    found: bool = False,
) -> Line:
    """One batch as a line of exactly `width` cells; longer when the fixed columns alone are wider.

    The first cell says what the row is: selected, slow for its workload, found by the search, not trusted.
    """
    overlay = "+cursor" if at_cursor else ""
    slow = is_slow(batch)
    spans: list[Span] = [(_mark(batch, glyphs, at_cursor, found), f"{'error' if slow else 'base'}{overlay}")]
    numbers = count(batch.seq, _SEQ_WIDTH).rjust(_SEQ_WIDTH)
    late = ("period" if batch.prediction and batch.prediction.basis == "period" else "ms") if slow else ""
    for column in columns_for(width, judged):
        text = expected(batch, glyphs) if column.title == "expect" else column.text(batch)
        if column.title == "mode":
            spans.append((f"{numbers} ", f"base{overlay}"))
            spans.append((text.ljust(column.width), f"mode.{batch.mode.value}{overlay}"))
            numbers = ""
        elif column.title in (late, "over" if slow else ""):
            spans += [(f"{numbers} ", f"base{overlay}"), (text.rjust(column.width), f"error{overlay}")]
            numbers = ""
        else:
            numbers += f" {text.rjust(column.width)}"
    spans.append((f"{numbers}  ", f"base{overlay}"))
    spans.extend(bar(batch, bar_width(width, judged), scale_ms, glyphs, overlay))
    return tuple(spans)


def _note(view: View) -> str:
    parts = []
    if view.filter is not None:
        parts.append(f"filter {view.total_rows} rows")
    if view.held is not None:
        parts.append(f"rows held {view.cursor + 1}/{view.total_rows}, home: newest")
    return f"{', '.join(parts)} " if parts else ""


def lines(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Heading and rows, `height` lines at most; sets the list's height and the bar's scale in `view`."""
    frame = view.frame
    judged = is_judged(frame)
    view.resize(height - 1)
    if frame is not None and view.held is None:
        view.scale_ms = scale_for(frame.batches, view.scale_ms)
    scale = view.scale_ms or 10.0
    made = [
        heading(
            width, scale, _note(view), judged=judged, sort=view.sort, ascending=view.ascending, glyphs=glyphs
        )
    ]
    matches = view.search.matches if view.search is not None else None
    for index in range(view.top, view.top + view.height):
        batch = view.row(index)
        if batch is None:
            break
        found = matches is not None and matches(batch)
        at_cursor = index == view.cursor
        made.append(row(batch, width, scale, glyphs, at_cursor=at_cursor, judged=judged, found=found))
    if len(made) == 1:
        made += [(), ((f"  {nothing_yet(view)}", "muted"),)]
    return made[:height]


def nothing_yet(view: View) -> str:
    """Why the list is empty."""
    if view.frame is None:
        return "Waiting for the first reading."
    if view.filter is not None and view.frame.batches:
        text = safe_text(view.filter.text, 60)
        return f"No batch of the {len(view.frame.batches)} kept matches the filter {text}."
    return view.frame.note or "No batch yet: the list fills with the engine's next request."
