"""From counters and batches of two windows to `Evidence`."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from prismtop.diagnosis.evidence import ENOUGH, Effect, Evidence, Point, compare, rate
from prismtop.diagnosis.hypotheses import USED_SIGNALS
from prismtop.diagnosis.observations import Observation, batch_series, slowest_rank
from prismtop.diagnosis.signals import SIGNALS

Key: TypeAlias = "tuple[str, str]"
"""(counter name, device)."""
Windows: TypeAlias = "tuple[Sequence[Point], Sequence[Point], Sequence[Point] | None]"
"""Baseline, incident, and the points in which an onset is looked for; None looks for none."""

LIMITED_BITS = 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400
"""Bits of `gpu_clock_limits_bitmask` that hold the clock down: locked clocks, power, heat, board, voltage."""
FRONTEND_ROLES = ("frontend", "router")
TOKENIZER_ROLES = ("tokenizer_worker", "detokenizer")
"""Role names of the engine profiles."""
ALONE = ("deep.gc_share", "deep.runqueue_share")
"""Shares of a capture that say something without a baseline: a capture often shows the incident only."""
SURE = 100
PAIR_NS = 2_000_000_000
"""Readings of two counters at most so far apart describe the same moment."""

_SOURCES: Mapping[str, tuple[str, ...]] = {
    "gpu_clock_limited": ("gpu_clock_limits_bitmask",),
    "gpu_memory_used_ratio": ("gpu_memory_used_bytes", "gpu_memory_total_bytes"),
    "gpu_others_busy_ratio": ("gpu_busy_ratio", "gpu_process_busy_ratio"),
    "host.others_busy_ratio": ("host_cpu_busy_ratio", "process_cpu_ratio", "host_cores_count"),
    "process.side_cpu_ratio": ("process_cpu_ratio", "thread_cpu_ratio"),
    "frontend.cpu_ratio": ("process_cpu_ratio",),
    "tokenizer.cpu_ratio": ("process_cpu_ratio",),
}
"""Signals that are made of counters with other names."""

WANTED: frozenset[str] = (
    (USED_SIGNALS - set(_SOURCES)) | {name for names in _SOURCES.values() for name in names}
) | {"gpu_process_memory_bytes"}
"""Names of counters worth remembering."""


def with_derived(
    series: Mapping[Key, Sequence[Point]], roles: Mapping[int, str]
) -> dict[Key, Sequence[Point]]:
    """The series, and what is made of several: rates of totals, shares, other processes' use.

    GPUs that the engine does not use are left out, when it is known which ones it uses.

    Args:
        roles: role of each process of the engine, by pid.
    """
    own = {device.partition(" pid ")[0] for name, device in series if name == "gpu_process_memory_bytes"}
    made: dict[Key, Sequence[Point]] = {}
    for (name, device), points in series.items():
        if own and name.startswith("gpu_") and device.partition(" pid ")[0] not in own:
            continue
        if name == "gpu_clock_limits_bitmask":
            made["gpu_clock_limited", device] = [(t, float(int(v) & LIMITED_BITS != 0)) for t, v in points]
        elif name == "gpu_memory_used_bytes":
            total = series.get(("gpu_memory_total_bytes", device), ())
            if total and total[-1][1] > 0:
                made["gpu_memory_used_ratio", device] = [(t, v / total[-1][1]) for t, v in points]
        elif name == "gpu_busy_ratio":
            made[name, device] = points
            others = _without_own(points, series, device)
            if others is not None:
                made["gpu_others_busy_ratio", device] = others
        elif name == "process_cpu_ratio":
            made[_role_signal(device, roles), device] = points
            main = series.get(_main_thread(device, series), ())
            if main:
                made["process.side_cpu_ratio", device] = _less(points, [main])
        elif name.endswith("_total"):
            made[name, device] = rate(points)
        else:
            made[name, device] = points
    busy, cores = series.get(("host_cpu_busy_ratio", "host")), series.get(("host_cores_count", "host"))
    engine = [points for (name, _), points in series.items() if name == "process_cpu_ratio"]
    if busy and cores and engine and cores[-1][1] > 0:
        shares = [[(t, v / cores[-1][1]) for t, v in points] for points in engine]
        made["host.others_busy_ratio", "host"] = _less(busy, shares)
        del made["host_cpu_busy_ratio", "host"]  # the engine's own work is no trouble of the engine
    return {key: points for key, points in made.items() if key[0] in USED_SIGNALS}


def _main_thread(device: str, series: Mapping[Key, Sequence[Point]]) -> Key:
    """The series of the CPU time of a process's main thread."""
    pid = device.removeprefix("pid ")
    start = f"{device} tid {pid} "
    name = "thread_cpu_ratio"
    return next((key for key in series if key[0] == name and f"{key[1]} ".startswith(start)), (name, ""))


def gather(
    counters: Mapping[Key, Windows],
    batches: tuple[Sequence[Observation], Sequence[Observation]] = ((), ()),
    *,
    texts: Mapping[Key, str] | None = None,
    slower: float | None = None,
    onset_ns: int | None = None,
) -> Evidence:
    """Compare everything.

    Args:
        counters: windows of each series; names are those of `SIGNALS`.
        batches: of the baseline and of the incident.
        texts: words of the latest reading of a series.
        slower, onset_ns: as in `Evidence`.
    """
    effects: dict[str, list[Effect]] = {}
    thin: set[str] = set()

    def add(name: str, device: str, windows: Windows, text: str = "") -> None:
        baseline, incident, lead = windows
        found = compare(
            name, baseline, incident, device=device, mean=SIGNALS[name].mean, lead=lead, text=text
        )
        if found is None:
            thin.add(name)
        else:
            effects.setdefault(name, []).append(found)

    for (name, device), windows in counters.items():
        add(name, device, windows, (texts or {}).get((name, device), ""))
    # An engine's own view of its load is exact; what its metrics say fills the gaps.
    for name, (before, after) in batch_series(*batches).items():
        rests_on = max((found.incident_points for found in effects.get(name, ())), default=0)
        if rests_on and (len(before) < ENOUGH or len(after) < min(ENOUGH, rests_on)):
            continue
        if before and after:
            effects.pop(name, None)
        text = slowest_rank(batches[1]) if name == "rank.skew" else (texts or {}).get((name, ""), "")
        add(name, "", (before, after, None), text)
        if name in ALONE and not before and after:
            level = math.fsum(value for _, value in after) / len(after)
            effects.setdefault(name, []).append(Effect(name, "", level, level, 0.0, 0, len(after), text=text))
    if slower is not None:
        effects.setdefault("batch.excess", []).append(_detected(slower, len(batches[1])))
    beyond = _beyond_speed(effects)
    if beyond is not None:
        effects["batch.beyond_speed"] = [beyond]
    kept = {name: tuple(found) for name, found in effects.items()}
    return Evidence(kept, frozenset(thin - set(kept)), slower, onset_ns)


def _detected(slower: float, count: int) -> Effect:
    """What made the detector open an alert is certain, however few batches it was."""
    return Effect(
        "batch.excess", "the detector's", 1.0, 1.0 + slower, math.copysign(SURE, slower), SURE, count + 2
    )


def _beyond_speed(effects: Mapping[str, Sequence[Effect]]) -> Effect | None:
    """What is left of the batches' slowdown when they are granted the speed that their core lost."""
    slower = next(iter(effects.get("batch.excess", ())), None)
    speed = next(iter(effects.get("host_cpu_speed_ratio", ())), None)
    if slower is None or speed is None or min(slower.before, speed.before) <= 0:
        return None
    left = slower.after / slower.before * min(1.0, speed.after / speed.before)
    return Effect(
        "batch.beyond_speed",
        "",
        1.0,
        max(1.0, left),
        slower.z,
        min(slower.baseline_points, speed.baseline_points),
        min(slower.incident_points, speed.incident_points),
    )


def _without_own(
    busy: Sequence[Point], series: Mapping[Key, Sequence[Point]], device: str
) -> list[Point] | None:
    """Busy time of a GPU less that of the engine's processes; None when that is not known."""
    own = [
        points
        for (name, place), points in series.items()
        if name == "gpu_process_busy_ratio" and place.startswith(f"{device} pid ") and points
    ]
    if not own:
        return None
    return _less(busy, own)


def _less(whole: Sequence[Point], parts: Sequence[Sequence[Point]]) -> list[Point]:
    """A series less others, where all of them were read at about the same time; never below 0."""
    made = []
    for time_ns, value in whole:
        taken = [_nearest(points, time_ns) for points in parts]
        known = [part for part in taken if part is not None]
        if len(known) == len(taken):
            made.append((time_ns, max(0.0, value - sum(known))))
    return made


def _nearest(points: Sequence[Point], time_ns: int) -> float | None:
    at = bisect_left(points, (time_ns, 0.0))
    near = [points[index] for index in (at - 1, at) if 0 <= index < len(points)]
    if not near:
        return None
    time, value = min(near, key=lambda point: abs(point[0] - time_ns))
    return value if abs(time - time_ns) <= PAIR_NS else None


def _role_signal(device: str, roles: Mapping[int, str]) -> str:
    pid = device.removeprefix("pid ").partition(" ")[0]
    role = roles.get(int(pid), "") if pid.isdigit() else ""
    if role in FRONTEND_ROLES:
        return "frontend.cpu_ratio"
    if role in TOKENIZER_ROLES:
        return "tokenizer.cpu_ratio"
    return "process_cpu_ratio"


def evenly(values: Sequence[Observation], most: int) -> list[Observation]:
    """At most `most` of them, spread over the whole."""
    if len(values) <= most:
        return list(values)
    return [values[at * len(values) // most] for at in range(most)]
