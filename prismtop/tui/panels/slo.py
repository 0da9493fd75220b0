"""Objectives: how well they are met, how fast the error budget goes, how much more load there is room for."""

from __future__ import annotations

from prismtop.model import Frame, SloStatus
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, Span, fit, joined
from prismtop.tui.numbers import NA, milliseconds, percent, rate, seconds
from prismtop.tui.panels.hooks import wrapped
from prismtop.tui.view import View

NONE_SET = "no objective is set (slo_ttft_ms, slo_tpot_ms, slo_e2e_ms)"


def _target(name: str, target_ms: float | None, share: float | None) -> Span:
    if target_ms is None:
        return ("", "muted")
    role = "muted" if share is None else "ok" if share >= 0.99 else "warn" if share >= 0.9 else "error"
    return (f"{name}<{milliseconds(target_ms)} {percent(share, 1)}", role)


def line(view: View, width: int, glyphs: Glyphs, *, focused: bool = False) -> Line:
    """One line; what matters most comes first and what does not fit is left out."""
    frame = view.frame
    if frame is None:
        return ()
    label: Span = (" SLO ", "title" if focused else "muted")
    slo = frame.slo
    if slo is None or not slo.targets.any:
        return (label, (fit(f"n/a: {NONE_SET}", max(0, width - 5)), "muted"))
    return (label, *joined(_parts(slo), f" {glyphs.dot} ", width - 6))


def _parts(slo: SloStatus) -> list[Span]:
    met = slo.attainment
    role = "muted" if met is None else "ok" if met >= 0.99 else "warn" if met >= 0.9 else "error"
    parts: list[Span] = [(f"{percent(met, 1)} of {slo.requests:,} met", role)]
    parts += [
        _target("TTFT", slo.targets.ttft_ms, slo.ttft),
        _target("TPOT", slo.targets.tpot_ms, slo.tpot),
        _target("E2E", slo.targets.e2e_ms, slo.e2e),
    ]
    if slo.goodput_per_s is not None:
        parts.append((f"goodput {rate(slo.goodput_per_s)}/s", "base"))
    if slo.budget_burn is not None:
        parts.append((f"burn {slo.budget_burn:.1f}x", "error" if slo.budget_burn > 2 else "base"))
    headroom = slo.headroom
    if headroom.breaks_in_s is not None:
        parts.append((f"breaks in {seconds(headroom.breaks_in_s)}", "error"))
    if headroom.max_batch_size is not None:
        parts.append((f"room to batch {headroom.max_batch_size:,}", "base"))
    if headroom.max_prefill_tokens is not None:
        parts.append((f"prefill {headroom.max_prefill_tokens:,}", "base"))
    if slo.interference is not None:
        parts.append((f"prefill costs decode {percent(slo.interference.share)}", "base"))
    return parts


def page(frame: Frame, width: int) -> list[Line]:
    """Everything about the objectives, for the model's page."""
    made: list[Line] = [(), ((" objectives".ljust(width), "column"),)]
    slo = frame.slo
    if slo is None or not slo.targets.any:
        made += wrapped(
            f"{NONE_SET[0].upper()}{NONE_SET[1:]}: requests are not held against anything. "
            "`prismtop config` lists the settings of objectives.",
            width,
            "muted",
        )
        return made
    rows = [
        ("window", f"{slo.window_s:.0f} s, {slo.requests:,} requests"),
        ("all met", percent(slo.attainment, 2)),
        ("TTFT", _said(slo.targets.ttft_ms, slo.ttft)),
        ("TPOT", _said(slo.targets.tpot_ms, slo.tpot)),
        ("E2E", _said(slo.targets.e2e_ms, slo.e2e)),
        ("goodput", f"{rate(slo.goodput_per_s)} requests/s that met all"),
        ("budget burn", NA if slo.budget_burn is None else f"{slo.budget_burn:.2f} x what is allowed"),
    ]
    room = slo.headroom
    rows.append(
        ("largest batch", NA if room.max_batch_size is None else f"{room.max_batch_size:,} decoding requests")
    )
    rows.append(
        ("prefill room", NA if room.max_prefill_tokens is None else f"{room.max_prefill_tokens:,} tokens")
    )
    rows.append(("breaks in", "not at this trend" if room.breaks_in_s is None else seconds(room.breaks_in_s)))
    if room.reason:
        rows.append(("headroom", safe_text(room.reason)))
    if slo.interference is not None:
        other = slo.interference
        text = f"{percent(other.share, 1)} of decoding time; worst +{milliseconds(other.worst_ms)} ms"
        text += f" in batch {other.worst_seq}"
        rows.append(("interference", text))
    for name, text in rows:
        first, *more = wrapped(text, width, "base", 17)
        made += [((f" {name:<15} ", "muted"), (first[0][0][17:], "base")), *more]
    return made


def _said(target_ms: float | None, share: float | None) -> str:
    return "no target" if target_ms is None else f"under {milliseconds(target_ms)} ms: {percent(share, 2)}"
