"""The LatencyPrism artifact's `*_perf_data` folders, under prismtop's own names.

A folder holds `result_counters_data.csv` (counter_name, timestamp in us, value, hostname) and
`result_perf_data.csv` (per cycle and function: duration in us and number of instances), with or without
`.gz`; either may be missing. What its counters leave out, and what is done about it:

* No device: readings of one GPU share their timestamp, so memory tells which GPU a clock belongs to. The
  engine's GPUs are those whose memory in use comes closest to what its processes hold.
* PCIe and NVLink readings have timestamps of their own: the busiest GPU of each round counts.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prismtop.diagnosis.collect import Key, Windows, gather
from prismtop.diagnosis.evidence import Evidence, Point, median
from prismtop.errors import UsageError
from prismtop.safe_text import safe_text

COUNTERS_FILE, CYCLES_FILE = "result_counters_data.csv", "result_perf_data.csv"
ROUND_NS = 300_000_000
"""Readings closer together than this belong to one round of the sampler."""
LARGEST = 1 << 30
"""Bytes of a file, unpacked, beyond which it is refused."""


class Mapped(NamedTuple):
    """How one of the paper's counters is taken: our name and how many of our unit one of theirs is."""

    name: str
    scale: float


NAMES: Mapping[str, Mapped] = {
    "cpu_frequency": Mapped("host_cpu_frequency_mhz", 1.0),
    "host_cpu_usage": Mapped("host_cpu_busy_ratio", 0.01),
    "process_mem_swap": Mapped("process_swap_bytes", 1.0),
    "gpu_sm_frequency": Mapped("gpu_sm_clock_mhz", 1.0),
    "gpu_mem_frequency": Mapped("gpu_memory_clock_mhz", 1.0),
    "gpu_usage": Mapped("gpu_busy_ratio", 0.01),
    "gpu_pcie_transmit": Mapped("gpu_pcie_transmit_bytes_per_s", 1.0),
    "gpu_link_receive": Mapped("gpu_nvlink_receive_bytes_per_s", 1.0),
    "gpu_link_transmit": Mapped("gpu_nvlink_transmit_bytes_per_s", 1.0),
}
"""The paper's counters that a hypothesis asks for. `process_cpu_usage` is left out: it is a mean since the
process's start, not of the window; `gpu_mem_used` and `process_gpu_mem_usage` give the memory of others."""

_PER_GPU = ("gpu_sm_frequency", "gpu_mem_frequency", "gpu_usage", "gpu_mem_used")
_COLLECTIVES = ("nccl", "cross_device_reduce", "all_reduce", "allreduce", "allgather", "reduce_scatter")


@dataclass(frozen=True)
class Cycle:
    """One cycle of one process.

    Attributes:
        start_ns: Unix time.
        seconds: length of the anchor.
        anchor: function that the cycles are cut at; cycles of different anchors are not comparable.
        runq_seconds, runq_waits: waits for a core, in all and how many.
        kernels: (seconds, instances) by (GPU, kernel).
        collective_seconds: time in collectives by GPU.
    """

    start_ns: int
    seconds: float
    anchor: str
    runq_seconds: float = 0.0
    runq_waits: float = 0.0
    kernels: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    collective_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PerfData:
    """One folder.

    Attributes:
        counters: series under our names.
        cycles: in the order of the file.
    """

    counters: Mapping[Key, Sequence[Point]]
    cycles: tuple[Cycle, ...]


def is_perf_data(path: Path) -> bool:
    """Whether this is a folder with one of the two files."""
    return path.is_dir() and any(_file(path, name) for name in (COUNTERS_FILE, CYCLES_FILE))


def read_perf_data(path: Path) -> PerfData:
    """Read a folder. Raises UsageError when it holds neither file, or one that is damaged."""
    if not is_perf_data(path):
        raise UsageError(
            f"{safe_text(str(path))} is no folder with {COUNTERS_FILE} or {CYCLES_FILE}.",
            fix="Name a `*_perf_data` folder of the artifact, or a trace.",
        )
    counters, cycles = _file(path, COUNTERS_FILE), _file(path, CYCLES_FILE)
    return PerfData(
        counters=_counters(_rows(counters)) if counters else {},
        cycles=_cycles(_rows(cycles)) if cycles else (),
    )


def evidence_of(normal: PerfData, abnormal: PerfData) -> Evidence:
    """Compare two folders."""
    return gather(windows_of(normal, abnormal))


def windows_of(normal: PerfData, abnormal: PerfData) -> dict[Key, Windows]:
    """The series of two folders side by side; there is no onset between separate captures."""
    made: dict[Key, Windows] = {}
    for key in {**normal.counters, **abnormal.counters}:
        made[key] = (normal.counters.get(key, ()), abnormal.counters.get(key, ()), None)
    if normal.cycles and abnormal.cycles:
        before, after = cycle_series(normal.cycles, normal), cycle_series(abnormal.cycles, normal)
        for name in before.keys() & after.keys():
            made[name, ""] = (before[name], after[name], None)
        if {cycle.anchor for cycle in normal.cycles} != {cycle.anchor for cycle in abnormal.cycles}:
            made.pop(("batch.duration_seconds", ""), None)
    return made


def cycle_series(cycles: Sequence[Cycle], baseline: PerfData) -> dict[str, list[Point]]:
    """Series by signal name, one point a cycle.

    Kernels are held against their own usual time per instance in `baseline`, weighted by that time; a change
    of the mix is not a change of speed.
    """
    usual = _usual_kernels(baseline.cycles)
    fastest = _by_start(cycles)
    made: dict[str, list[Point]] = {
        "batch.duration_seconds": [(cycle.start_ns, cycle.seconds) for cycle in cycles],
        "process_runq_wait_ratio": [
            (cycle.start_ns, cycle.runq_seconds / cycle.seconds) for cycle in cycles if cycle.seconds > 0
        ],
        "thread_runq_delay_seconds": [
            (cycle.start_ns, cycle.runq_seconds / cycle.runq_waits) for cycle in cycles if cycle.runq_waits
        ],
        "kernel.time": [],
        "kernel.new_share": [],
        "kernel.collective_seconds": [(time, min(values)) for time, values in fastest if len(values) > 1],
    }
    for cycle in cycles:
        known = whole = expected = 0.0
        for (_, kernel), (seconds, count) in cycle.kernels.items():
            whole += seconds
            if kernel in usual:
                known += seconds
                expected += usual[kernel] * count
        if expected:
            made["kernel.time"].append((cycle.start_ns, known / expected))
        if whole:
            made["kernel.new_share"].append((cycle.start_ns, 1 - known / whole))
    return {name: points for name, points in made.items() if points}


def _usual_kernels(cycles: Sequence[Cycle]) -> dict[str, float]:
    """Median seconds per instance of each kernel."""
    seen: dict[str, list[float]] = {}
    for cycle in cycles:
        for (_, kernel), (seconds, count) in cycle.kernels.items():
            if count > 0:
                seen.setdefault(kernel, []).append(seconds / count)
    return {kernel: median(values) for kernel, values in seen.items()}


def _by_start(cycles: Sequence[Cycle]) -> list[tuple[int, list[float]]]:
    """Collective time of each GPU, of the cycles of all ranks that overlap.

    Ranks wait for the last one inside the collective, so the shortest time is the one without waiting.
    """
    ordered = sorted((cycle for cycle in cycles if cycle.collective_seconds), key=lambda one: one.start_ns)
    made: list[tuple[int, list[float]]] = []
    for cycle in ordered:
        values = list(cycle.collective_seconds.values())
        if made and cycle.start_ns - made[-1][0] < cycle.seconds * 0.5e9:
            made[-1][1].extend(values)
        else:
            made.append((cycle.start_ns, values))
    return made


def _counters(rows: Iterator[dict[str, str]]) -> dict[Key, Sequence[Point]]:
    readings: dict[str, list[Point]] = {}
    for row in rows:
        point = (_number(row, "timestamp") * 1000, _number(row, "value"))
        if all(map(math.isfinite, point)):
            readings.setdefault(row["counter_name"], []).append((int(point[0]), point[1]))
    made: dict[Key, Sequence[Point]] = {}
    for theirs, points in readings.items():
        mapped = NAMES.get(_without_pid(theirs))
        if mapped and theirs not in _PER_GPU:
            take = max if theirs.startswith("gpu_") else _mean
            scaled = [(time, value * mapped.scale) for time, value in _rounds(points, take)]
            made.setdefault((mapped.name, ""), [])
            made[mapped.name, ""] = sorted([*made[mapped.name, ""], *scaled])
    made.update(_engine_gpus(readings))
    return made


def _engine_gpus(readings: Mapping[str, Sequence[Point]]) -> dict[Key, Sequence[Point]]:
    """Clock, use and others' memory of the GPUs that the engine's processes are on."""
    held: dict[str, list[float]] = {}
    for name, points in readings.items():
        if name.startswith("process_gpu_mem_usage"):
            held.setdefault(_pid(name), []).extend(value for _, value in points)
    wanted = [median(values) for values in held.values() if median(values) > 0]
    memory = readings.get("gpu_mem_used", ())
    if not wanted or not memory:
        return {}
    idle = min(value for _, value in memory)
    chosen: dict[int, float] = {}
    for group in _grouped(memory):
        for need in wanted:
            free = [point for point in group if point[0] not in chosen]
            if free:
                time_ns, used = min(free, key=lambda point: abs(point[1] - need - idle))
                chosen[time_ns] = max(0.0, used - need - idle)
    made: dict[Key, Sequence[Point]] = {("gpu_others_memory_bytes", "the engine's"): sorted(chosen.items())}
    for theirs in _PER_GPU[:3]:
        name, scale = NAMES[theirs]
        points = [(time, value * scale) for time, value in readings.get(theirs, ()) if time in chosen]
        made[name, "the engine's"] = sorted(points)
    return made


def _cycles(rows: Iterator[dict[str, str]]) -> tuple[Cycle, ...]:
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        # A function is listed once per metric that it was correlated with, always with the same duration.
        whole = found.setdefault((row["cycle"], row["pid"]), {})
        whole.setdefault("\0".join((row["device"], row["func_type"], row["function_name"])), row)
    return tuple(_cycle(list(functions.values())) for functions in found.values())


def _cycle(rows: Sequence[dict[str, str]]) -> Cycle:
    kernels: dict[tuple[str, str], tuple[float, float]] = {}
    collectives: dict[str, float] = {}
    runq = waits = 0.0
    for row in rows:
        seconds, count = _number(row, "duration") / 1e6, _number(row, "instances_count")
        if not (math.isfinite(seconds) and math.isfinite(count)):
            continue
        name, device = row["function_name"], row["device"]
        if row["func_type"] == "runq":
            runq, waits = runq + seconds, waits + count
        elif device.startswith("GPU") and any(part in name.lower() for part in _COLLECTIVES):
            collectives[device] = collectives.get(device, 0.0) + seconds
        elif row["func_type"] == "gpu_compute":
            before = kernels.get((device, name), (0.0, 0.0))
            kernels[device, name] = (before[0] + seconds, before[1] + count)
    start = _number(rows[0], "cycle_start_ts")
    return Cycle(
        start_ns=int(start * 1000) if math.isfinite(start) else 0,
        seconds=_number(rows[0], "anchor_dur_us") / 1e6,
        anchor=rows[0]["anchor_name"],
        runq_seconds=runq,
        runq_waits=waits,
        kernels=kernels,
        collective_seconds=collectives,
    )


def _rounds(points: Sequence[Point], take: Callable[[Sequence[float]], float]) -> list[Point]:
    return [(group[0][0], take([value for _, value in group])) for group in _grouped(points)]


def _grouped(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Readings of one round of the sampler."""
    group: list[Point] = []
    for point in sorted(points):
        if group and point[0] - group[-1][0] > ROUND_NS:
            yield group
            group = []
        group.append(point)
    if group:
        yield group


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _without_pid(name: str) -> str:
    stem, _, last = name.rpartition("_")
    return stem if last[:1].isdigit() else name


def _pid(name: str) -> str:
    """The pid at a counter's end, which is written as 2300005 or as 2.300005e+06."""
    try:
        return str(int(float(name.rpartition("_")[2])))
    except ValueError:
        return ""


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (KeyError, TypeError, ValueError):
        return math.nan


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV; raises UsageError when it is damaged or not one of ours."""
    where = safe_text(str(path))
    wanted = ("counter_name", "timestamp", "value") if COUNTERS_FILE in path.name else (
        "cycle", "pid", "function_name", "device", "func_type", "duration", "instances_count", "anchor_name"
    )  # fmt: skip
    try:
        with path.open("rb") as packed:
            text = (gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed).read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UsageError(f"{where} is larger than {LARGEST >> 20} MB.", fix="Cut it into parts.")
        reader = csv.DictReader(io.StringIO(text.decode("utf-8", "replace"), newline=""), restval="")
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{where} has no column `{missing[0]}`.", fix="Use the artifact's own files.")
        yield from reader
    except (OSError, EOFError, csv.Error, ValueError) as error:
        what = safe_text(str(error) or type(error).__name__, 120)
        raise UsageError(f"cannot read {where}: {what}.", fix="Copy the file again.") from None
