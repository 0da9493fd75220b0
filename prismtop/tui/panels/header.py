"""The header: what is watched, how, and what watching costs."""

from __future__ import annotations

import time
from collections import Counter

from prismtop.model import AttachState, CapturePhase, Frame, Group
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, Span, between, cut, joined, width_of
from prismtop.tui.numbers import NA, percent, seconds
from prismtop.tui.view import View

STATE_WORDS = {
    AttachState.ATTACHING: ("ATTACHING", "warn"),
    AttachState.ARMED: ("ARMED", "warn"),
    AttachState.LIVE: ("SENTINEL", "ok"),
    AttachState.EXTERNAL: ("EXTERNAL", "warn"),
    AttachState.DETACHED: ("DETACHED", "error"),
    AttachState.GONE: ("GONE", "error"),
}
STATE_MEANINGS = {
    AttachState.ATTACHING: "the probe is being placed",
    AttachState.ARMED: "the probe is in place and starts with the engine's next request",
    AttachState.LIVE: "every batch is measured by hooks inside the engine",
    AttachState.EXTERNAL: "nothing was put into the engine: sampled stacks, /metrics and procfs only",
    AttachState.DETACHED: "the probe was removed or removed itself; the engine runs on",
    AttachState.GONE: "the process has ended",
}


CAPTURE_WORDS = {
    CapturePhase.PREPARING: "prepares",
    CapturePhase.ARMED: "armed",
    CapturePhase.EXPORTING: "collects",
    CapturePhase.MERGING: "writes",
}


def model_name(group: Group) -> str:
    """Model of the first member whose command line exposes it, safe to print; empty when none does."""
    name = next((member.model for member in group.members if member.model), "") or ""
    return safe_text(name.rstrip("/").rsplit("/", 1)[-1], 60)


def processes(group: Group) -> str:
    """Roles and pids of the probed processes: `engine_core 4242 · worker x4`."""
    members = group.probed or group.members
    by_role: dict[str, list[int]] = {}
    for member in members:
        by_role.setdefault(safe_text(member.role or "process", 24), []).append(member.id.pid)
    parts = []
    for role, pids in by_role.items():
        parts.append(f"{role} {pids[0]}" if len(pids) == 1 else f"{role} x{len(pids)} {pids[0]}..")
    return ", ".join(parts)


def parallelism(group: Group) -> str:
    """Parallel degrees seen in the titles: `TP4 DP2`; empty without ranks."""
    kinds: dict[str, set[int]] = {}
    for member in group.members:
        for kind, rank in member.ranks:
            kinds.setdefault(safe_text(kind, 6), set()).add(rank)
    return " ".join(f"{kind}{len(ranks)}" for kind, ranks in kinds.items() if ranks)


def attach_stop(frame: Frame) -> str:
    """The longest stop of a thread at attach: `attach 0.1 ms`; says so when there was none."""
    if not frame.costs:
        return f"attach {NA}"
    stops = [cost.attach_us for cost in frame.costs if cost.attach_us is not None]
    if not stops:
        return "attach no stop"
    return f"attach {max(stops) / 1000:.2g} ms"


def probe_share(frame: Frame) -> str:
    """The largest share of a process's time that its probe takes."""
    if frame.state is AttachState.EXTERNAL:
        return "probe none"
    shares = [cost.share for cost in frame.costs if cost.share is not None]
    return f"probe {percent(max(shares), 2) if shares else NA}"


def wall_clock(frame: Frame) -> str:
    """Local wall time of the frame."""
    return time.strftime("%H:%M:%S", time.localtime(frame.clock.wall_us(frame.time_ns) / 1e6))


def badges(view: View, now_ns: int) -> list[Span]:
    """PAUSED and STALE, with their ages."""
    made: list[Span] = []
    paused = view.paused_s(now_ns)
    if paused is not None:
        missed = view.missed_batches()
        more = f", +{missed:,} batches" if missed else ""
        made.append((f" PAUSED {seconds(paused)}{more} ", "badge"))
    stale = view.stale_s(now_ns)
    if stale is not None:
        made.append((f" STALE {seconds(stale)}: no reading ", "badge"))
    made += _recording(view, now_ns)
    made += _capturing(view)
    opened = len(view.open_alerts())
    if opened:
        made.append((f" {opened} ALERT{'S' if opened > 1 else ''} ", "badge"))
    return made


def _recording(view: View, now_ns: int) -> list[Span]:
    recording = view.latest.recording if view.latest is not None else None
    if recording is None:
        return []
    if recording.error:
        return [(f" REC ended: {safe_text(recording.error, 60)} ", "error")]
    size = recording.bytes / 1e6
    lost = f", {recording.dropped:,} dropped" if recording.dropped else ""
    return [(f" REC {seconds(max(0, now_ns - recording.since_ns) / 1e9)} {size:.1f} MB{lost} ", "badge")]


def _capturing(view: View) -> list[Span]:
    capture = view.latest.capture if view.latest is not None else None
    if capture is None or capture.phase.final:
        return []
    if capture.phase is CapturePhase.CAPTURING:
        return [(f" DIVE {capture.batches}/{capture.request.batches} ", "badge")]
    return [(f" DIVE {CAPTURE_WORDS[capture.phase]} ", "badge")]


def lines(view: View, width: int, glyphs: Glyphs, now_ns: int) -> list[Line]:
    """Two lines."""
    frame = view.frame
    dot = f" {glyphs.dot} "
    right = tuple(badges(view, now_ns))
    if frame is None:
        return [((" prismtop ", "title"), (" waiting for the first reading", "muted")), right]
    group = frame.group
    state, role = STATE_WORDS[frame.state]
    engine = f"{safe_text(group.engine, 24)} {safe_text(group.version or NA, 24)}"
    clock: Line = ((f"{wall_clock(frame)} ", "strong"),)
    parts: list[Span] = [
        (state, role),
        (cut(engine, max(12, width // 3)), "strong"),
        (processes(group), "base"),
        (parallelism(group), "base"),
        (cut(model_name(group) or f"model {NA}", max(12, width // 4)), "base"),
    ]
    first = ((" prismtop ", "title"), (" ", "base"), *joined(parts, dot, width - 11 - width_of(clock) - 1))
    facts: list[Span] = [
        (attach_stop(frame), "base"),
        (probe_share(frame), "base"),
        (f"own cpu {percent(frame.monitor_cpu, 1)}", "base"),
        (f"{frame.total_batches:,} batches", "base"),
        (f"{view.ui_hz:g} Hz", "muted"),
        ("read-only" if view.readonly else "", "muted"),
        (_ports(group), "base"),
        (_python(group), "muted"),
        (_ways(group), "muted"),
    ]
    second = ((" ", "base"), *joined(facts, dot, width - 2 - width_of(right)))
    return [between(first, clock, width), between(second, right, width)]


def _ports(group: Group) -> str:
    return f"port {', '.join(map(str, group.ports[:4]))}" if group.ports else ""


def _python(group: Group) -> str:
    pythons = Counter(".".join(map(str, m.python)) for m in group.probed if m.python)
    return f"python {', '.join(pythons)}" if pythons else ""


def _ways(group: Group) -> str:
    ways = Counter(safe_text(member.way_in, 16) for member in group.probed)
    return f"by {', '.join(ways)}" if ways else ""
