"""What device and host did in one batch, where a deep capture or a profiler's trace shows it."""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.model import STAGES, Bound, Breakdown, Part
from prismtop.safe_text import safe_text
from prismtop.tui.look import Line
from prismtop.tui.numbers import DASH, NA, milliseconds

_DEVICE = (
    ("busy", "busy_ns"),
    ("idle", "idle_ns"),
    ("longest", "longest_gap_ns"),
    ("compute", "compute_ns"),
    ("collect", "collective_ns"),
    ("exposed", "exposed_ns"),
    ("copies", "copy_ns"),
)
_HOST = (
    ("ops", "operators_ns"),
    ("launch", "launches_ns"),
    ("syncs", "syncs_ns"),
    ("calls", "runtime_ns"),
    ("python", "other_ns"),
    ("gc", "gc_ns"),
    ("run q", "runqueue_ns"),
    ("off cpu", "off_cpu_ns"),
)
_BOUNDS = {
    Bound.DEVICE: "limited by the device",
    Bound.LAUNCH: "limited by launches: the device waits for them",
    Bound.HOST: "limited by the host: the device waits for it",
}


def lines(breakdown: Breakdown | None, width: int) -> list[Line]:
    """A table of the device and one of the model thread, ms; nothing without a breakdown.

    Args:
        width: cells; 80 are enough.
    """
    if breakdown is None:
        return []
    bound = "" if breakdown.bound is None else f"; {_BOUNDS[breakdown.bound]}"
    made: list[Line] = [(), ((f" captured of pid {breakdown.pid}{bound}"[:width].ljust(width), "column"),)]
    if any(part.device is not None for part in breakdown.parts):
        made.append(_heading("device", [label for label, _ in _DEVICE] + ["kernels"]))
        for part in breakdown.parts:
            if part.device is not None:
                values = [_ms(getattr(part.device, field)) for _, field in _DEVICE]
                made.append(_row(part, [*values, str(part.device.kernels)]))
    else:
        reason = safe_text(breakdown.reason, 60) or "no device events"
        made.append(((f" device {NA}: {reason}", "muted"),))
    made.append(_heading("host", [label for label, _ in _HOST]))
    made += [_row(part, [_ms(getattr(part.host, field)) for _, field in _HOST]) for part in breakdown.parts]
    return made


def _heading(name: str, labels: Sequence[str]) -> Line:
    return ((f" {name:<7}{'ms':>7}" + "".join(f"{label:>8}" for label in labels), "muted"),)


def _row(part: Part, values: Sequence[str]) -> Line:
    cells = "".join(f"{value:>8}" for value in values)
    name = part.stage or "batch"
    role = f"stage.{name}" if part.stage in STAGES else "strong"
    return ((f" {name:<7.7}", role), (f"{_ms(part.wall_ns):>7}{cells}", "base"))


def _ms(value: int | None) -> str:
    if value is None:
        return DASH
    return f"{value / 1e6:.3f}" if value < 999_500 else milliseconds(value / 1e6)
