"""A capture in sentences: before it, while it runs, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.model import Capture, CapturePhase, Layer, LayerState
from prismtop.safe_text import safe_text

SLOWDOWN = "batches take up to a tenth longer in the window"

MOSTLY_PYTHON = " (those that are mostly Python: twice as long)"

_PHASES = {
    CapturePhase.PREPARING: "preparing",
    CapturePhase.ARMED: "armed: starts with the next batch",
    CapturePhase.EXPORTING: "the engine hands out its profile",
    CapturePhase.MERGING: "writing the trace",
    CapturePhase.CANCELLED: "cancelled: no file was written",
}


def stall_text(stall_ms: float | None) -> str:
    """What the engine is expected to stand still."""
    if stall_ms is None:
        return "an unknown time"
    if stall_ms >= 100:
        return f"about {stall_ms / 1000:.1g} s in all"
    return f"less than {stall_ms:.0f} ms" if stall_ms else "nothing to speak of"


def _ms(value: float) -> str:
    """A time in ms with three digits, none of them lost before the point."""
    return f"{value:,.0f} ms" if value >= 99.95 else f"{value:.3g} ms"


def expected(capture: Capture) -> str:
    """What it will do and cost: one sentence."""
    request = capture.request
    pids = sorted({layer.pid for layer in capture.layers if layer.pid})
    where = f"process {pids[0]}" if len(pids) == 1 else f"{len(pids)} ranks"
    stall = capture.expected_stall_ms
    standing = (
        "the engine does not stand still"
        if stall == 0
        else f"the engine stands still for {stall_text(stall)}"
    )
    functions = any(layer.name == "python" and layer.state is not LayerState.OFF for layer in capture.layers)
    slowdown = f"{SLOWDOWN}{MOSTLY_PYTHON if functions else ''}"
    return (
        f"captures {request.batches} batches of {where}, {request.max_s:g} s at most: {standing}, "
        f"and {slowdown}; then everything is taken out again"
    )


def progress(capture: Capture) -> str:
    """Where it is, in a few words."""
    if capture.phase is CapturePhase.CAPTURING:
        return f"{capture.batches}/{capture.request.batches} batches"
    if capture.phase is CapturePhase.DONE:
        return "done"
    if capture.phase is CapturePhase.FAILED:
        return f"failed: {safe_text(capture.error)}"
    return _PHASES[capture.phase]


def layer_lines(layers: Sequence[Layer]) -> list[tuple[str, str, str]]:
    """Name, state with the number of events, and reason of every layer; of several processes that say the
    same, one, and of those that do not, the process with each.
    """
    kept: dict[tuple[str, str, str], tuple[list[int], int]] = {}
    for layer in layers:
        key = layer.name, layer.state.value, layer.reason
        pids, events = kept.get(key, ([], -1))
        if layer.events is not None:
            events = max(events, 0) + layer.events
        kept[key] = [*pids, layer.pid], events
    names = [name for name, _, _ in kept]
    order = [state.value for state in (LayerState.ON, LayerState.PARTIAL, LayerState.OFF)]
    made = []
    for (name, state, reason), (pids, events) in sorted(
        kept.items(), key=lambda item: order.index(item[0][1])
    ):
        counted = f"{state} {events:,}" if events >= 0 and state != LayerState.OFF.value else state
        whose = f" ({len(pids)} processes)" if len(pids) > 1 else ""
        if len(pids) == 1 and pids[0] and names.count(name) > 1:
            whose = f" (process {pids[0]})"
        made.append((safe_text(name, 20), counted, safe_text(reason) + whose))
    return made


def cost_lines(capture: Capture) -> list[str]:
    """What it cost, measured."""
    made = []
    if capture.stall_ms is not None:
        made.append(f"the engine stood still for {_ms(capture.stall_ms)} at start and stop")
    elif capture.phase is CapturePhase.DONE:
        made.append("stall n/a: nothing was started inside the engine, or it did not say")
    before, during = capture.before_ms, capture.during_ms
    if before and during:
        share = f"{(during / before - 1) * 100:+.1f} %"
        made.append(f"mean batch {_ms(before)} before, {_ms(during)} in the window ({share})")
    elif capture.phase is CapturePhase.DONE:
        made.append("slowdown n/a: too few batches of the same kind before the window, or in it")
    residual = residual_text(capture)
    if residual:
        made.append(residual)
    return made


def residual_text(capture: Capture) -> str:
    """Whether the engine is as fast again; empty while it is not known."""
    if capture.phase is not CapturePhase.DONE or (capture.after_ms is None and capture.residual is None):
        return ""
    after = f"mean batch {_ms(capture.after_ms)} afterwards" if capture.after_ms else "afterwards"
    if capture.residual is None:
        return f"{after}: whether a slowdown has stayed cannot be told (too few, or too different batches)"
    if not capture.residual:
        return f"{after}: no slowdown has stayed"
    share = (
        f" of {(capture.after_ms / capture.before_ms - 1) * 100:.0f} %"
        if (capture.after_ms and capture.before_ms)
        else ""
    )
    return f"{after}: a slowdown{share} HAS STAYED, of the capture or of something else"


def result_lines(capture: Capture) -> list[str]:
    """What came of it."""
    if capture.phase is not CapturePhase.DONE:
        return [progress(capture)]
    made = [
        f"{capture.batches} batches in {safe_text(capture.path, 4096)} ({capture.size_bytes / 1e6:.1f} MB)"
    ]
    made += cost_lines(capture)
    if capture.clock_error_ns is not None:
        made.append(f"clocks agree to {capture.clock_error_ns / 1000:.3g} us")
    made += [safe_text(note) for note in capture.notes]
    return made


def told(capture: Capture) -> str:
    """How it stands, as one line."""
    residual = residual_text(capture)
    if residual:
        return f"DeepDive: {residual}"
    return ended(capture) if capture.phase.final else f"DeepDive: {progress(capture)}"


def ended(capture: Capture) -> str:
    """The same for one line of a screen, the file last: it may not fit."""
    if capture.phase is not CapturePhase.DONE:
        return f"DeepDive {progress(capture)}"
    facts = [f"DeepDive done, {capture.batches} batches"]
    if capture.stall_ms is not None:
        facts.append(f"stall {_ms(capture.stall_ms)}")
    if capture.before_ms and capture.during_ms:
        facts.append(f"{(capture.during_ms / capture.before_ms - 1) * 100:+.0f} % in the window")
    return f"{', '.join(facts)}: {safe_text(capture.path, 4096)}"
