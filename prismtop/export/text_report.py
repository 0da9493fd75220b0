"""`prismtop analyze` and `prismtop diff` as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prismtop.model import Alert, Clock, Percentiles
from prismtop.safe_text import safe_text
from prismtop.trace.compare import LEVEL, Comparison
from prismtop.trace.load import Trace
from prismtop.trace.summary import Reading, Summary, stages_of

if TYPE_CHECKING:
    from prismtop.deepdive.analysis import DeepAnalysis

MISSING = "n/a"
_COUNTERS = 40
_DEVICES = 4
"""A counter of more devices than this is one line."""


def analysis_lines(trace: Trace, summary: Summary, deep: DeepAnalysis | None = None) -> Iterator[str]:
    """The report of one trace.

    Args:
        deep: what operators and device events amount to; None without any.
    """
    for story in trace.stories:
        yield f"trace     {safe_text(str(story.path), 100)} ({story.dialect})"
    group = trace.group
    yield f"engine    {safe_text(group.engine, 40)} {safe_text(group.version or '', 40)}".rstrip()
    yield f"length    {summary.seconds:.3f} s, {summary.batches} batches ({rate(summary)})"
    if summary.tokens is not None:
        yield f"tokens    {summary.tokens} ({summary.decode_tokens or 0} decoded)"
    if summary.requests:
        yield f"requests  {summary.requests}, TTFT {_three(summary.ttft.percentiles())} ms"
        yield f"          TPOT {_three(summary.tpot.percentiles())} ms"
    for count, what in ((summary.lost, "records lost"), (summary.suspect, "batches not fully trusted")):
        if count:
            yield f"note      {count} {what}"
    yield ""
    yield from _modes(summary)
    yield ""
    yield from _anomalies(trace, summary)
    if deep is not None:
        from prismtop.export.deep_report import capture_lines, deep_lines

        yield ""
        yield from deep_lines(deep)
        for story in trace.stories:
            yield from capture_lines(story.captured)
    if summary.counters:
        yield ""
        yield from _counters(summary)


def comparison_lines(before: str, after: str, found: Comparison) -> Iterator[str]:
    """The report of two traces."""
    yield f"A  {safe_text(before, 100)}"
    yield f"B  {safe_text(after, 100)}"
    matched = [f"{100 * share:.0f} %" for share in found.matched]
    yield (
        f"{found.strata} equal workloads; they cover {matched[0]} of A's batches and {matched[1]} of B's. "
        f"Medians in ms, {LEVEL:.0f} % intervals."
    )
    if not found.workload_known:
        yield "The traces do not say what the batches had to do: only their mode is equal."
    yield ""
    header = ("mode", "stage", "A", "B", "change", "%", "interval %", "batches", "")
    rows = [
        (
            change.mode,
            change.what,
            f"{change.before_ms:.3f}",
            f"{change.after_ms:.3f}",
            f"{change.ms:+.3f}",
            _signed(change.pct),
            f"{_signed(change.low_pct)} .. {_signed(change.high_pct)}",
            f"{change.batches[0]}/{change.batches[1]}",
            "CHANGED" if change.changed else "",
        )
        for change in found.changes
    ]
    yield from table(header, rows, left=2)
    for text, stages in (("only in A", found.only_before), ("only in B", found.only_after)):
        if stages:
            yield f"{text}: " + ", ".join(f"{mode} {stage}" for mode, stage in stages)


def rate(summary: Summary) -> str:
    """Batches a second, in words."""
    if summary.sampled:
        return "seen from outside: each is the mean of many"
    return f"{summary.batches / summary.seconds:.1f}/s" if summary.seconds else "no length"


def when(time_ns: int, trace: Trace) -> str:
    """A time as seconds after the start, and as UTC when the trace tells."""
    text = f"+{(time_ns - trace.start_ns) / 1e9:.3f} s"
    return f"{text} {utc(time_ns, trace.clock)}" if all(story.wall for story in trace.stories) else text


def utc(time_ns: int, clock: Clock) -> str:
    """HH:MM:SS.mmm UTC."""
    ns = (time_ns + clock.wall_minus_mono_ns) % (86_400 * 10**9)
    seconds, rest = divmod(ns, 10**9)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest // 10**6:03d}Z"


def _modes(summary: Summary) -> Iterator[str]:
    header = ("mode", "stage", "batches", "mean ms", "p50", "p95", "p99", "share")
    rows = []
    for mode in summary.modes:
        whole = summary.modes[mode]
        rows.append(_row(mode, "all", whole.count, whole.mean, whole.percentiles(), None))
        if mode in summary.periods:
            period = summary.periods[mode]
            rows.append(_row("", "period", period.count, period.mean, period.percentiles(), None))
        for stage in stages_of(summary, mode):
            one = summary.stages[mode, stage]
            share = one.total / whole.total if whole.total else None
            rows.append(_row("", stage, one.count, one.mean, one.percentiles(), share))
    yield from table(header, rows, left=2)


def _row(
    mode: str, stage: str, count: int, mean: float | None, at: Percentiles | None, share: float | None
) -> tuple[str, ...]:
    three = (MISSING,) * 3 if at is None else (f"{at.p50:.3f}", f"{at.p95:.3f}", f"{at.p99:.3f}")
    part = "" if share is None else f"{100 * share:.1f} %"
    return mode, stage, str(count), MISSING if mean is None else f"{mean:.3f}", *three, part


def _anomalies(trace: Trace, summary: Summary) -> Iterator[str]:
    judged = f"; {summary.slow} of {summary.judged} batches slow" if summary.judged else ""
    yield f"anomalies {len(summary.alerts)}{judged}"
    for alert in summary.alerts.values():
        yield "  " + alert_text(alert, trace)
        for cause in alert.causes[:3]:
            yield f"      {cause.score:.2f} {safe_text(cause.text or cause.id, 120)}"
    for truth in trace.ground_truth():
        length = (truth.end_ns - truth.start_ns) / 1e9
        yield f"  injected {safe_text(truth.id, 60)} at {when(truth.start_ns, trace)} for {length:.3f} s"
    card = summary.card
    if card is not None:
        error = MISSING if card.median_ape is None else f"{card.median_ape:.1f} %"
        reason = f" ({safe_text(card.reason, 100)})" if card.reason else ""
        yield f"model     {card.state.value}{reason}, {card.trained} batches learnt, median error {error}"


def alert_text(alert: Alert, trace: Trace) -> str:
    """One alert as a line."""
    end = alert.closed_ns if alert.closed_ns is not None else trace.end_ns
    length = max(0.0, (end - alert.opened_ns) / 1e9)
    return (
        f"{alert.severity.value:8s} {when(alert.opened_ns, trace)} for {length:.3f} s  "
        f"{safe_text(alert.text, 120)}"
    )


def _counters(summary: Summary) -> Iterator[str]:
    header = ("counter", "device", "readings", "min", "mean", "max", "last", "unit")
    names: dict[str, list[tuple[str, Reading]]] = {}
    for (name, device), reading in sorted(summary.counters.items()):
        names.setdefault(name, []).append((device, reading))
    rows: list[tuple[str, ...]] = []
    for name, series in names.items():
        if len(series) > _DEVICES:
            rows.append(_merged(name, series))
        else:
            rows += [_counter(name, device, reading) for device, reading in series]
    yield from table(header, rows[:_COUNTERS], left=2)
    if len(rows) > _COUNTERS:
        yield f"  and {len(rows) - _COUNTERS} more (--json has all of them)"


def _counter(name: str, device: str, reading: Reading) -> tuple[str, ...]:
    values = reading.values
    figures = [_short(x) for x in (values.low, values.mean, values.high, reading.last)]
    unit = reading.unit if values.count else reading.reason
    return (
        safe_text(name, 40),
        safe_text(device, 24),
        str(values.count),
        *(figures if values.count else [MISSING] * 4),
        safe_text(unit, 40),
    )


def _merged(name: str, series: Sequence[tuple[str, Reading]]) -> tuple[str, ...]:
    """One line for a counter of many devices."""
    read = [reading.values for _, reading in series if reading.values.count]
    count = sum(values.count for values in read)
    figures = [MISSING] * 4
    if read:
        mean = sum(values.total for values in read) / count
        figures = [_short(min(v.low for v in read)), _short(mean), _short(max(v.high for v in read)), ""]
    unit = safe_text(series[0][1].unit, 40)
    return safe_text(name, 40), f"{len(series)} devices", str(count), *figures, unit


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Lines of a table; the first `left` columns are texts."""
    widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _three(at: Percentiles | None) -> str:
    return MISSING if at is None else f"p50 {at.p50:.1f} p95 {at.p95:.1f} p99 {at.p99:.1f}"


def _short(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.1f}" if math.isfinite(value) else MISSING
