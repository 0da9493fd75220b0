"""Rates and latencies of the last seconds, and the one-line state of the probe."""

from __future__ import annotations

from prismtop.model import AttachState, Frame, Mode, Percentiles
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, Span, cut, flowed, joined, width_of
from prismtop.tui.numbers import NA, milliseconds, percent, rate
from prismtop.tui.view import View

IN_FLIGHT = 3
"""Batches by which the engine's own count may differ: it is read at another moment than ours."""

_OVER = {
    AttachState.DETACHED: "the probe has left the engine",
    AttachState.GONE: "the engine has ended",
}


def decode_share(frame: Frame) -> float | None:
    """Decode tokens per token of the window; None when the engine does not expose both."""
    rates = frame.throughput
    if rates is None or not rates.tokens_per_s or rates.decode_tokens_per_s is None:
        return None
    return rates.decode_tokens_per_s / rates.tokens_per_s


def triple(values: Percentiles | None, which: str = "50 95 99") -> str:
    """`8.1/9.0/12.1`, or `n/a`."""
    if values is None or not values.count:
        return NA
    chosen = {"50": values.p50, "95": values.p95, "99": values.p99}
    return "/".join(milliseconds(chosen[name]) for name in which.split())


def _fact(value: str, unit: str, label: str = "") -> Line:
    if value == NA:
        return ((f"{label or unit.strip()} {NA}", "muted"),)
    return ((f"{label} " if label else "", "muted"), (value, "base"), (unit, "muted"))


def _no_rates(why: str) -> Line:
    return ((f" rates {NA}: {why}", "muted"),)


def lines(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Throughput, request and step latency on `height` lines at most, less important facts dropped."""
    frame = view.frame
    if frame is not None and frame.state in _OVER:
        return [_no_rates(_OVER[frame.state])][:height]
    rates = frame.throughput if frame else None
    if frame is None or rates is None:
        return [_no_rates("no batch was seen in the window yet")][:height]
    if rates.batches_per_s is None:
        why = f"no iteration was counted from outside in the last {rates.window_s:.0f} s"
        return [_no_rates(why)][:height]
    throughput = [
        _fact(rate(rates.batches_per_s), " batch/s"),
        _fact(rate(rates.tokens_per_s), " tok/s"),
        _fact(rate(rates.requests_per_s), " req/s"),
        _fact(triple(rates.ttft_ms, "50 95"), "", "TTFT"),
        _fact(triple(rates.itl_ms, "50 95"), " ms", "ITL"),
        _fact(percent(decode_share(frame)), "", "decode"),
        _fact(percent(rates.busy), "", "busy"),
    ]
    steps: list[Line] = [((f"step p50/p95/p99{'' if rates.step_ms else f' {NA}'}", "muted"),)]
    for mode in (Mode.DECODE, Mode.PREFILL, Mode.MIXED, Mode.UNKNOWN):
        if mode.value in rates.step_ms:
            steps.append(_fact(triple(rates.step_ms[mode.value]), " ms", mode.value))
    if width >= 170:
        # The unit once is enough on a narrow screen, not on a wide one.
        throughput[3] = _fact(triple(rates.ttft_ms, "50 95"), " ms", "TTFT")
        rows = flowed([*throughput, *steps], width - 1, "   ")
    else:
        rows = [*flowed(throughput, width - 1)[:1], *flowed(steps, width - 1)[:1]]
    return [((" ", "base"), *row) for row in rows[:height]]


def status(view: View, width: int, glyphs: Glyphs) -> Line:
    """Hooks, losses, the engine's own count, and the latest warning."""
    frame = view.frame
    if frame is None:
        return ()
    installed = sum(1 for hook in frame.hooks if hook.mechanism)
    parts: list[Span] = []
    if frame.hooks:
        role = "base" if installed == len(frame.hooks) else "warn"
        parts.append((f"hooks {installed}/{len(frame.hooks)}", role))
    else:
        parts.append(("no hooks", "muted"))
    dropped = sum(len(cost.dropped) for cost in frame.costs)
    if dropped:
        parts.append((f"{dropped} dropped for the budget", "warn"))
    lost = frame.lost
    parts.append((f"lost {lost.records:,}", "error" if lost.records else "base"))
    if lost.torn:
        parts.append((f"torn {lost.torn:,}", "warn"))
    if lost.batches:
        parts.append((f"incomplete batches {lost.batches:,}", "warn"))
    parts.append(_metrics(frame))
    line: Line = ((" ", "base"), *joined(parts, f" {glyphs.dot} "))
    message, role = _message(view, frame)
    room = width - width_of(line) - 3
    if message and room > 8:
        line = (*line, (f" {glyphs.dot} ", "muted"), (cut(message, room), role))
    return line


def _metrics(frame: Frame) -> Span:
    metrics = frame.metrics
    if metrics.reason or not metrics.url:
        return ("/metrics n/a", "muted")
    if metrics.batch_count is None or metrics.batches_seen is None:
        return ("/metrics ok", "base")
    if abs(metrics.batch_count - metrics.batches_seen) <= IN_FLIGHT:
        return ("all batches seen", "ok")
    return (f"engine counts {metrics.batch_count:,}, seen {metrics.batches_seen:,}", "warn")


def _message(view: View, frame: Frame) -> Span:
    if view.warnings:
        more = f" (+{len(view.warnings) - 1}: p)" if len(view.warnings) > 1 else ""
        return (f"{safe_text(view.warnings[-1])}{more}", "warn")
    return (safe_text(frame.note), "muted")
