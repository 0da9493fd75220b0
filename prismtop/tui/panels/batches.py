"""The batch list: one row per batch, newest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from prismtop.model import Batch, Mode
from prismtop.tui.look import Glyphs, Line, Span
from prismtop.tui.numbers import DASH, count, milliseconds, nanoseconds
from prismtop.tui.panels.bar import bar, scale_for
from prismtop.tui.view import View

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
        title: heading.
        width: cells, without the blank that follows.
        since: narrowest screen on which it is shown.
        text: what a batch shows.
        meaning: for the help page.
    """

    title: str
    width: int
    since: int
    text: Callable[[Batch], str]
    meaning: str


def rank_skew_ns(batch: Batch) -> int | None:
    """Slowest minus fastest rank before the collective; None without at least two ranks."""
    if len(batch.ranks) < 2:
        return None
    times = [rank.pre_collective_ns for rank in batch.ranks]
    return max(times) - min(times)


def _kv(batch: Batch) -> str:
    usage = batch.workload.kv_usage
    return DASH if usage is None else f"{usage * 100:.0f}%"


COLUMNS: tuple[Column, ...] = (
    Column("rank", 4, 140, lambda b: count(b.rank, 4), "tensor-parallel rank of the process that ran it"),
    Column("mode", 4, 0, lambda b: MODES[b.mode], "dec decode, pre prefill, mix both, idle, ? not exposed"),
    Column("bs", 4, 0, lambda b: count(b.workload.batch_size, 4), "batch size: requests in the batch"),
    Column("tok", 5, 0, lambda b: count(b.workload.tokens, 5), "tokens computed: prefill and decode"),
    Column("pre", 5, 160, lambda b: count(b.workload.prefill_tokens, 5), "prefill tokens of those"),
    Column(
        "cach", 5, 180, lambda b: count(b.workload.cached_tokens, 5), "prompt tokens from the prefix cache"
    ),
    Column("ctx", 6, 50, lambda b: count(b.workload.context_tokens, 6), "context tokens read, all requests"),
    Column("run", 4, 100, lambda b: count(b.workload.running, 4), "requests running"),
    Column("wait", 4, 96, lambda b: count(b.workload.waiting, 4), "requests waiting in the queue"),
    Column("kv", 4, 104, _kv, "KV cache in use"),
    Column(
        "new", 3, 170, lambda b: count(b.workload.new_requests, 3), "requests scheduled for the first time"
    ),
    Column("pree", 4, 190, lambda b: count(b.workload.preempted, 4), "requests preempted by this schedule"),
    Column("skew", 5, 130, lambda b: nanoseconds(rank_skew_ns(b)), "ms between slowest and fastest rank"),
    Column(
        "period", 6, 112, lambda b: nanoseconds(b.period_ns), "ms from the previous batch's end to this one's"
    ),
    Column("ms", 6, 0, lambda b: milliseconds(b.duration_ns / 1e6), "duration of the batch in ms"),
)
_SEQ_WIDTH = 7


@lru_cache(32)
def columns_for(width: int) -> tuple[Column, ...]:
    """Columns that a screen of that width shows."""
    return tuple(column for column in COLUMNS if width >= column.since)


def bar_width(width: int) -> int:
    """Cells left for the bar."""
    text = 1 + _SEQ_WIDTH + sum(column.width + 1 for column in columns_for(width)) + 1
    return max(0, width - text - 1)


def heading(width: int, scale_ms: float, note: str) -> Line:
    """Column titles; over the bar what its full width stands for, and `note` at the right edge."""
    titles = " " + "seq".rjust(_SEQ_WIDTH)
    for column in columns_for(width):
        titles += " " + (column.title.ljust if column.title == "mode" else column.title.rjust)(column.width)
    room = max(0, width - len(titles) - 2)
    scale = f"stages: bar = {scale_ms:g} ms"
    if len(scale) + len(note) + 1 > room:
        scale = f"bar = {scale_ms:g} ms"
    text = note.rjust(room) if len(scale) + len(note) + 1 > room else scale.ljust(room - len(note)) + note
    return ((f"{titles}  {text[:room]}"[:width].ljust(width), "column"),)


def row(batch: Batch, width: int, scale_ms: float, glyphs: Glyphs, *, at_cursor: bool) -> Line:
    """One batch as a line of exactly `width` cells; longer when the fixed columns alone are wider."""
    overlay = "+cursor" if at_cursor else ""
    pointer = glyphs.pointer if at_cursor else ("!" if batch.suspect else " ")
    spans: list[Span] = []
    numbers = f"{pointer}{count(batch.seq, _SEQ_WIDTH).rjust(_SEQ_WIDTH)}"
    for column in columns_for(width):
        text = column.text(batch)
        if column.title == "mode":
            spans.append((f"{numbers} ", f"base{overlay}"))
            spans.append((text.ljust(column.width), f"mode.{batch.mode.value}{overlay}"))
            numbers = ""
        else:
            numbers += f" {text.rjust(column.width)}"
    spans.append((f"{numbers}  ", f"base{overlay}"))
    spans.extend(bar(batch, bar_width(width), scale_ms, glyphs, overlay))
    return tuple(spans)


def lines(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Heading and rows, `height` lines at most; sets the list's height and the bar's scale in `view`."""
    view.resize(height - 1)
    frame = view.frame
    if frame is not None and view.held is None:
        view.scale_ms = scale_for(frame.batches, view.scale_ms)
    note = ""
    if view.held is not None:
        note = f"rows held {view.cursor + 1}/{view.total_rows}, n: newest "
    made = [heading(width, view.scale_ms or 10.0, note)]
    for index in range(view.top, view.top + view.height):
        batch = view.row(index)
        if batch is None:
            break
        made.append(row(batch, width, view.scale_ms or 10.0, glyphs, at_cursor=index == view.cursor))
    if len(made) == 1:
        made += [(), ((f"  {nothing_yet(view)}", "muted"),)]
    return made[:height]


def nothing_yet(view: View) -> str:
    """Why the list is empty."""
    if view.frame is None:
        return "Waiting for the first reading."
    return view.frame.note or "No batch yet: the list fills with the engine's next request."
