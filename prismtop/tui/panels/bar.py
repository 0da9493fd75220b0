"""The stacked stage bar of one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prismtop.model import STAGES, Batch
from prismtop.tui.look import Glyphs, Line

_SCALE_SAMPLE = 128
SCALES_MS = tuple(
    base * 10.0**power for power in range(-2, 6) for base in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
)


def stage_times(batch: Batch) -> dict[str, int]:
    """ns per stage for one bar: per process the sum of a stage, over processes the largest.

    Ranks run the same stages at the same time, so adding them up would show a batch several times. What no
    hook covers is `other`. When the stages of different processes overlap (the engine core waits while a
    worker launches) and exceed the duration, they are shortened in proportion.
    """
    sums: dict[tuple[str, int], int] = {}
    for stage in batch.stages:
        key = (stage.name, stage.pid)
        sums[key] = sums.get(key, 0) + stage.duration_ns
    longest: dict[str, int] = {}
    for (name, _), total in sums.items():
        longest[name] = max(longest.get(name, 0), total)
    times = {name: longest[name] for name in STAGES if name in longest}
    covered = sum(times.values())
    if covered > batch.duration_ns > 0:
        return {name: ns * batch.duration_ns // covered for name, ns in times.items()}
    if covered < batch.duration_ns:
        times["other"] = batch.duration_ns - covered
    return times


def split(times: Mapping[str, int], cells: float) -> list[tuple[str, int]]:
    """Cells per stage. Boundaries are rounded, not lengths, so that the whole bar is right to half a cell."""
    total = sum(times.values())
    if total <= 0 or cells <= 0:
        return []
    parts: list[tuple[str, int]] = []
    at = 0
    passed = 0
    for name, value in times.items():
        passed += value
        end = round(passed / total * cells)
        if end > at:
            parts.append((name, end - at))
            at = end
    return parts


def bar(batch: Batch, width: int, scale_ms: float, glyphs: Glyphs, overlay: str = "") -> Line:
    """The batch as a bar of exactly `width` cells; the whole width stands for `scale_ms`."""
    if width <= 0:
        return ()
    if not batch.stages or batch.duration_ns <= 0:
        return (("no stages measured"[:width].ljust(width), f"muted{overlay}"),)
    cells = batch.duration_ns / 1e6 / scale_ms * width
    over = cells > width + 0.5
    times = stage_times(batch)
    if times.get("other", 0) * cells < batch.duration_ns:
        # Less than a cell: a dot that comes and goes with the rounding says nothing.
        cells -= times.pop("other", 0) / batch.duration_ns * cells
    spans = []
    room = width - 1 if over else width
    for name, length in split(times, max(1.0, cells)):
        length = min(length, room)
        if length <= 0:
            break
        spans.append((glyphs.stages[name] * length, f"stage.{name}{overlay}"))
        room -= length
    if over:
        spans.append((glyphs.over, f"warn{overlay}"))
    elif room:
        spans.append((" " * room, f"base{overlay}"))
    return tuple(spans)


def scale_for(batches: Sequence[Batch], current_ms: float) -> float:
    """Milliseconds that a full bar stands for: a round value above the 90th percentile of the last durations.

    Keeps `current_ms` while it still fits (at least 60 % used, at most full), so that bars do not jump.
    """
    durations = sorted(batch.duration_ns for batch in batches[-_SCALE_SAMPLE:])
    if not durations:
        return current_ms or 10.0
    high = durations[min(len(durations) - 1, math.ceil(len(durations) * 0.9) - 1)] / 1e6
    if current_ms and 0.6 * current_ms <= high <= current_ms:
        return current_ms
    wanted = high * 1.15
    return next((scale for scale in SCALES_MS if scale >= wanted), SCALES_MS[-1])
