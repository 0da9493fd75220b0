"""Processes and hooks: how each one is measured, what that costs, and why something is not."""

from __future__ import annotations

import textwrap

from rich.cells import cell_len

from prismtop.model import Frame, HookStatus, ProbeCost, Target
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, cut
from prismtop.tui.numbers import NA, percent, rate, seconds
from prismtop.tui.panels.header import STATE_MEANINGS, STATE_WORDS
from prismtop.tui.view import View

_INDENT = 9
MECHANISMS = {
    "monitoring": "sys.monitoring events",
    "setattr": "wrapped attribute",
    "code": "swapped __code__",
}


def lines(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    """The page."""
    frame = view.frame
    if frame is None:
        return [((" Waiting for the first reading.", "muted"),)]
    word, role = STATE_WORDS[frame.state]
    made: list[Line] = [((f" {word}", role), (f" {glyphs.dot} {STATE_MEANINGS[frame.state]}", "base"))]
    if frame.note:
        made += wrapped(safe_text(frame.note), width, "base")
    costs = {cost.pid: cost for cost in frame.costs}
    made += [(), ((" processes".ljust(width), "column"),)]
    for member in frame.group.members:
        made += _process(member, costs.get(member.id.pid), frame, width, glyphs)
    made += [
        (),
        (("   pid      stage     hook                     measured by".ljust(width)[:width], "column"),),
    ]
    for hook in sorted(frame.hooks, key=lambda h: (bool(h.mechanism), h.pid)):
        made += _hook(hook, width)
    if not frame.hooks:
        made.append(((" No hook is installed.", "muted"),))
    made += [(), ((" records and the engine's own numbers".ljust(width), "column"),), *_records(frame, width)]
    made += [(), ((" warnings, newest first".ljust(width), "column"),)]
    for warning in reversed(view.warnings):
        made += wrapped(safe_text(warning), width, "warn")
    if not view.warnings:
        made.append(((" None.", "muted"),))
    return made


def _process(member: Target, cost: ProbeCost | None, frame: Frame, width: int, glyphs: Glyphs) -> list[Line]:
    state = safe_text(frame.target_states.get(member.id, ""), 40)
    python = ".".join(map(str, member.python)) if member.python else NA
    ranks = " ".join(f"{safe_text(kind, 6)}{rank}" for kind, rank in member.ranks)
    facts = [
        safe_text(member.role, 24),
        state,
        ranks,
        f"python {python}{' free-threaded' if member.free_threaded else ''}",
        f"port {', '.join(map(str, member.ports[:6]))}" if member.ports else "",
        f"by {safe_text(member.way_in, 24)}" if member.probed else "not probed: carries no hook",
        f"user {safe_text(member.user, 32)}" if member.user else "",
        f"pid {member.ns_pid} in its container" if member.ns_pid not in (None, member.id.pid) else "",
    ]
    text = f" {glyphs.dot} ".join(fact for fact in facts if fact)
    first, *more = wrapped(text, width, "base", _INDENT)
    made: list[Line] = [((f" {member.id.pid:>7} ", "strong"), (first[0][0][_INDENT:], "base")), *more]
    made += wrapped(safe_text(member.title), width, "muted", _INDENT)[:2]
    if cost is not None:
        made += wrapped(_cost(cost), width, "base", _INDENT)
        if cost.dropped:
            names = ", ".join(safe_text(name, 60) for name in cost.dropped)
            made += wrapped(f"dropped to keep the budget: {names}", width, "warn", _INDENT)
    if member.refusal:
        made += wrapped(safe_text(member.refusal), width, "warn", _INDENT)
    return made


def _cost(cost: ProbeCost) -> str:
    stop = "no stop (pep768)" if cost.attach_us is None else f"{cost.attach_us / 1000:.2g} ms stop"
    setup = NA if cost.setup_us is None else f"{cost.setup_us / 1000:.2g} ms"
    event = NA if cost.per_event_ns is None else f"{cost.per_event_ns:,.0f} ns"
    return (
        f"attach {stop}, setup {setup}; {rate(cost.events_per_s)} calls/s x {event} = "
        f"{percent(cost.share, 3)} of its time"
    )


def _hook(hook: HookStatus, width: int) -> list[Line]:
    if hook.mechanism:
        how, role = MECHANISMS.get(hook.mechanism, safe_text(hook.mechanism, 40)), "ok"
        if hook.reason:
            how += f" ({safe_text(hook.reason)})"
    else:
        how, role = f"n/a: {safe_text(hook.reason or 'no reason given')}", "warn"
    stage = hook.stage or "-"
    text = f" {hook.pid:>7}  {safe_text(stage, 9):<9} {cut(safe_text(hook.hook), 24):<24} "
    if len(text) + cell_len(how) <= width:
        return [((text, "base"), (how, role))]
    return [
        ((text, "base"), ("n/a:" if not hook.mechanism else "", role)),
        *wrapped(how, width, role, _INDENT + 2),
    ]


def _records(frame: Frame, width: int) -> list[Line]:
    lost = frame.lost
    text = (
        f"{frame.total_batches:,} batches; {lost.records:,} records lost (overwritten before they were "
        f"read), {lost.torn:,} torn and refused, {lost.batches:,} batches incomplete"
    )
    made = wrapped(text, width, "error" if lost.records else "base")
    metrics = frame.metrics
    if metrics.reason or not metrics.url:
        made += wrapped(
            f"/metrics n/a: {safe_text(metrics.reason or 'no endpoint was found')}", width, "muted"
        )
        return made
    age = f", read {seconds(metrics.age_s)} ago" if metrics.age_s is not None else ""
    made += wrapped(f"{safe_text(metrics.url)}{age}", width, "base")
    if metrics.batch_count is not None:
        made += wrapped(
            f"batches by the engine's own count {metrics.batch_count:,}, seen {metrics.batches_seen or 0:,}",
            width,
            "base",
        )
    for name, value in sorted(metrics.values.items()):
        made.append(
            ((f"   {cut(safe_text(name), width - 22):<{max(1, width - 22)}} {value:>16,.6g}", "muted"),)
        )
    return made


def wrapped(text: str, width: int, role: str, indent: int = 1) -> list[Line]:
    """Words on as many lines as they need."""
    return [((" " * indent + piece, role),) for piece in textwrap.wrap(text, max(20, width - indent)) or [""]]
