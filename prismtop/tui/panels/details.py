"""One batch: its stages on a timeline, its workload, its neighbours."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prismtop.model import Batch, Frame, Stage
from prismtop.safe_text import safe_text
from prismtop.tui.fields import is_slow, over_pct, rank_skew_ns
from prismtop.tui.look import Glyphs, Line, Span, cut, flowed
from prismtop.tui.numbers import NA, nanoseconds, percent
from prismtop.tui.panels import batches as rows
from prismtop.tui.panels import breakdown, counters
from prismtop.tui.panels.bar import stage_times
from prismtop.tui.panels.prediction import why_empty

_WORKLOAD = (
    ("batch size", "batch_size"),
    ("prefill tokens", "prefill_tokens"),
    ("decode tokens", "decode_tokens"),
    ("context tokens", "context_tokens"),
    ("longest context", "max_context"),
    ("cached tokens", "cached_tokens"),
    ("new requests", "new_requests"),
    ("running", "running"),
    ("waiting", "waiting"),
    ("preempted", "preempted"),
)


def lines(
    batch: Batch,
    around: Sequence[Batch],
    frame: Frame,
    width: int,
    scale_ms: float,
    glyphs: Glyphs,
    neighbours: int = 3,
) -> list[Line]:
    """The page.

    Args:
        batch: the batch in question.
        around: rows of the list, newest first, to find its neighbours in.
        frame: for the clock, the engine's name and the hooks.
        width: cells.
        scale_ms: of the neighbours' bars.
        glyphs: the character set.
        neighbours: rows shown on each side.
    """
    return [
        *_head(batch, frame, width, glyphs),
        *_judgement(batch, frame, width, glyphs),
        *_workload(batch, frame, width),
        *_counters(batch, frame, width),
        (),
        *_timeline(batch, width, glyphs),
        *breakdown.lines(batch.breakdown, width),
        *_ranks(batch, width),
        (),
        *_neighbours(batch, around, frame, width, scale_ms, glyphs, neighbours),
    ]


def _head(batch: Batch, frame: Frame, width: int, glyphs: Glyphs) -> list[Line]:
    start_s = frame.clock.wall_us(batch.start_ns) / 1e6
    clock = time.strftime("%H:%M:%S", time.localtime(start_s)) + f".{int(start_s * 1000) % 1000:03d}"
    parts: list[Span] = [
        (f"batch {batch.seq}", "strong"),
        (batch.mode.value if batch.mode.value != "unknown" else f"mode {NA}", f"mode.{batch.mode.value}"),
        (f"{nanoseconds(batch.duration_ns)} ms", "strong"),
        (f"period {nanoseconds(batch.period_ns, NA)}{' ms' if batch.period_ns is not None else ''}", "base"),
        (f"idle before {nanoseconds(batch.idle_ns)} ms" if batch.idle_ns else "", "base"),
        (f"rank {batch.rank}" if batch.rank is not None else "", "base"),
        (batch.origin.value, "base" if batch.origin.value == "exact" else "warn"),
        (clock, "muted"),
    ]
    made: list[Line] = [
        ((" ", "base"), *line)
        for line in flowed([(part,) for part in parts if part[0]], width - 1, f" {glyphs.dot} ")
    ]
    if batch.suspect:
        made.append(((f" not fully trusted: {safe_text(batch.suspect)}", "warn"),))
    if batch.period_ns is None:
        made.append(((" period n/a: first batch after an idle gap or of the session", "muted"),))
    return made


def _judgement(batch: Batch, frame: Frame, width: int, glyphs: Glyphs) -> list[Line]:
    """The batch against what its workload should have cost, or why it is not held against anything."""
    found = batch.prediction
    if found is None:
        reason = why_empty(frame) or "this batch could not be judged"
        return [((f" expected {NA}: {reason}", "muted"),)]
    over = over_pct(batch)
    text = f" expected {nanoseconds(found.expected_ns)} ms"
    text += (
        f" ({nanoseconds(found.low_ns)} to {nanoseconds(found.high_ns)}), of its {safe_text(found.basis, 12)}"
    )
    parts: list[Span] = [(text, "base")]
    if over is not None:
        parts.append((f", {over:+.0f}%", "error" if is_slow(batch) else "base"))
    if is_slow(batch):
        parts.append((f"  {glyphs.slow} slow for its workload", "error"))
    if found.state.value != "ready":
        parts.append((f"  model {found.state.value}", "warn"))
    return [tuple(parts)]


def _workload(batch: Batch, frame: Frame, width: int) -> list[Line]:
    facts: list[Line] = []
    missing: list[str] = []
    for label, name in _WORKLOAD:
        value = getattr(batch.workload, name)
        if value is None:
            missing.append(label)
            continue
        about = "~" if name in batch.workload.sampled else ""
        facts.append(((f"{label} ", "muted"), (f"{about}{value:,}", "base")))
    if batch.workload.kv_usage is None:
        missing.append("KV cache")
    else:
        facts.append((("KV cache ", "muted"), (percent(batch.workload.kv_usage, 1), "base")))
    made: list[Line] = [((" workload".ljust(width), "column"),)]
    made += [((" ", "base"), *line) for line in flowed(facts, width - 1, "   ")]
    if missing:
        why = (
            "no installed hook of this engine's profile reports them"
            if frame.hooks
            else "seen from outside only"
        )
        parts: list[Line] = [((f"n/a ({why}):", "muted"),)]
        parts += [((name + ("," if name != missing[-1] else ""), "muted"),) for name in missing]
        made += [((" ", "base"), *line) for line in flowed(parts, width - 1, " ")]
    if batch.workload.sampled:
        made.append(((" ~ estimated from a part of a large batch", "muted"),))
    return made


def _counters(batch: Batch, frame: Frame, width: int) -> list[Line]:
    """What host and devices did in the second of the batch."""
    if not frame.counters:
        return []
    most = 8 if width < 100 else 16
    found = counters.at_that_time(frame, batch.start_ns, batch.end_ns, width - 1, most)
    title = " counters of that second".ljust(width)
    if not found:
        return [((title, "column"),), ((f" {NA}: no reading is kept of that time", "muted"),)]
    return [((title, "column"),), *[((" ", "base"), *line) for line in found]]


def _timeline(batch: Batch, width: int, glyphs: Glyphs) -> list[Line]:
    hook_width = 20 if width >= 100 else 14
    fixed = 4 + 9 + 1 + hook_width + 1 + 7 + 1 + 7 + 1 + 7 + 1 + 4 + 2
    room = max(10, width - fixed - 1)
    title = f" {'stage':<12} {'hook':<{hook_width}} {'pid':>7} {'at ms':>7} {'ms':>7} {'%':>4}  "
    scale = f"0{f'{nanoseconds(batch.duration_ns)} ms':>{room - 1}}"
    made: list[Line] = [(((title + scale)[:width].ljust(width), "column"),)]
    for stage in sorted(batch.stages, key=lambda s: (s.start_ns, -s.span_ns)):
        share = f"{stage.duration_ns / batch.duration_ns * 100:.0f}" if batch.duration_ns else "-"
        text = (
            f" {cut(safe_text(stage.hook), hook_width):<{hook_width}} {stage.pid:>7}"
            f" {nanoseconds(stage.start_ns - batch.start_ns):>7} {nanoseconds(stage.duration_ns):>7}"
            f" {share:>4}  "
        )
        made.append(
            (
                (f" {glyphs.stages[stage.name] * 2} ", f"stage.{stage.name}"),
                (f"{stage.name:<9}", "base"),
                (text, "base"),
                *_placed(stage, batch, room, glyphs),
            )
        )
    other = stage_times(batch).get("other", 0)
    if other > 0 and batch.stages:
        share = f"{other / batch.duration_ns * 100:.0f}"
        text = (
            f" {'covered by no hook':<{hook_width + 17}.{hook_width + 17}}{nanoseconds(other):>7} {share:>4}"
        )
        made.append(
            ((f" {glyphs.stages['other'] * 2} ", "stage.other"), (f"{'other':<9}", "base"), (text, "base"))
        )
    if not batch.stages:
        made.append(((" No stage of this batch was measured.", "muted"),))
    return made


def _placed(stage: Stage, batch: Batch, room: int, glyphs: Glyphs) -> Line:
    """The stage's interval on a line of `room` cells that stands for the whole batch; a cell at least."""
    if batch.duration_ns <= 0:
        return ()
    span = stage.span_ns or stage.duration_ns
    first = round((stage.start_ns - batch.start_ns) / batch.duration_ns * room)
    first = max(0, min(first, room - 1))
    last = round((stage.start_ns - batch.start_ns + span) / batch.duration_ns * room)
    last = max(first + 1, min(last, room))
    return ((" " * first, "base"), (glyphs.stages[stage.name] * (last - first), f"stage.{stage.name}"))


def _ranks(batch: Batch, width: int) -> list[Line]:
    if not batch.ranks:
        return []
    slowest = max(batch.ranks, key=lambda rank: rank.pre_collective_ns)
    parts: list[Line] = []
    for rank in batch.ranks:
        mark = len(batch.ranks) > 1 and rank is slowest
        text = f"rank {rank.rank} (pid {rank.pid}) {nanoseconds(rank.pre_collective_ns)}"
        parts.append(((f"{text}{' slowest' if mark else ''}", "warn" if mark else "base"),))
    skew = rank_skew_ns(batch)
    title = " ms before the collective, waits excluded"
    if skew is not None:
        title += f"; skew {nanoseconds(skew)} ms"
    return [
        (),
        ((title.ljust(width), "column"),),
        *[((" ", "base"), *line) for line in flowed(parts, width - 1, "   ")],
    ]


def _neighbours(
    batch: Batch,
    around: Sequence[Batch],
    frame: Frame,
    width: int,
    scale_ms: float,
    glyphs: Glyphs,
    count: int,
) -> list[Line]:
    judged = rows.is_judged(frame)
    made: list[Line] = [rows.heading(width, scale_ms, "neighbours ", judged=judged, glyphs=glyphs)]
    at = next(
        (i for i, other in enumerate(around) if other.seq == batch.seq and other.pid == batch.pid), None
    )
    if at is None:
        return [*made, ((" They have left the list.", "muted"),)]
    for index in range(max(0, at - count), min(len(around), at + count + 1)):
        here = index == at
        made.append(rows.row(around[index], width, scale_ms, glyphs, at_cursor=here, judged=judged))
    return made
