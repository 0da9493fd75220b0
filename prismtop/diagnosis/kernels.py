"""Two deep captures against each other: the time of the same kernels, ranks, and who had the core instead.

As with the folders of the LatencyPrism artifact, kernels are held against their own usual time per instance
in the baseline: a change of the mix is not a change of speed.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prismtop.diagnosis.collect import Key, Windows
from prismtop.diagnosis.evidence import Point, median
from prismtop.model import Batch
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.deepdive.timeline import Timeline
    from prismtop.trace.load import Trace

LEAST_CHANGED = 0.2
"""Share of the kernels' usual time below which a kernel counts to those that changed least."""
_NAMED = 2


@dataclass(frozen=True)
class Step:
    """Device work of one batch.

    Attributes:
        start_ns: of the batch.
        kernels: (nanoseconds, instances) of compute kernels by name, over all ranks.
        compute_ns, collective_ns: by process.
    """

    start_ns: int
    kernels: Mapping[str, tuple[int, int]]
    compute_ns: Mapping[int, int]
    collective_ns: Mapping[int, int]


@dataclass(frozen=True)
class Kernels:
    """What one capture shows.

    Attributes:
        steps: batches with device work, in order of time.
        instead: who had the core while a model thread was ready to run: nanoseconds by name.
    """

    steps: tuple[Step, ...] = ()
    instead: Mapping[str, int] | None = None


def read_kernels(trace: Trace) -> Kernels:
    """Of every capture and profile in a trace; empty without any.

    Raises:
        UsageError: a file cannot be read any more.
    """
    stories = [story for story in trace.stories if story.dialect == "kineto" or story.captured is not None]
    steps: list[Step] = []
    instead: Tally[str] = Tally()
    for story in stories:
        from prismtop.deepdive.read import read_timeline

        timeline = read_timeline(story.path)
        batches = [noun for _, noun in story.moments() if isinstance(noun, Batch)]
        steps += steps_of(timeline, batches)
        for (pid, tid), names in timeline.instead.items():
            if timeline.model_thread(pid) == tid:
                instead.update(names)
    return Kernels(tuple(sorted(steps, key=lambda step: step.start_ns)), instead)


def steps_of(timeline: Timeline, batches: Iterable[Batch]) -> list[Step]:
    """Device work by the batch in whose interval it began; batches without any are left out."""
    import numpy as np

    from prismtop.deepdive.activity import Kind

    rows = timeline.columns.of(Kind.COMPUTE, Kind.COLLECTIVE)
    lengths, pids = (rows.end - rows.start).tolist(), rows.pid.tolist()
    kinds, names = rows.kind.tolist(), rows.name.tolist()
    made: list[Step] = []
    for batch in batches:
        if batch.breakdown is None:
            continue
        first, last = np.searchsorted(rows.start, (batch.start_ns, batch.end_ns))
        kernels: dict[str, tuple[int, int]] = {}
        compute: Tally[int] = Tally()
        collective: Tally[int] = Tally()
        for n in range(int(first), int(last)):
            length, pid = lengths[n], pids[n]
            if kinds[n] == Kind.COLLECTIVE:
                collective[pid] += length
                continue
            compute[pid] += length
            name = timeline.names[names[n]] if names[n] >= 0 else ""
            total, count = kernels.get(name, (0, 0))
            kernels[name] = (total + length, count + 1)
        if kernels or collective:
            made.append(Step(batch.start_ns, kernels, compute, collective))
    return made


def windows_of(normal: Kernels, abnormal: Kernels) -> tuple[dict[Key, Windows], dict[Key, str]]:
    """Series of both captures by signal name, and words about them."""
    if not normal.steps or not abnormal.steps:
        return {}, _said(normal, abnormal, {})
    usual = _usual(normal.steps)
    before, after = _series(normal.steps, usual), _series(abnormal.steps, usual)
    found: dict[Key, Windows] = {
        (name, ""): (before[name], after[name], None) for name in before.keys() & after.keys()
    }
    return found, _said(normal, abnormal, usual)


def _usual(steps: Sequence[Step]) -> dict[str, float]:
    """Median nanoseconds per instance of each kernel."""
    seen: dict[str, list[float]] = {}
    for step in steps:
        for name, (total, count) in step.kernels.items():
            seen.setdefault(name, []).append(total / count)
    return {name: median(values) for name, values in seen.items()}


def _series(steps: Sequence[Step], usual: Mapping[str, float]) -> dict[str, list[Point]]:
    made: dict[str, list[Point]] = {}

    def put(name: str, step: Step, value: float | None) -> None:
        if value is not None:
            made.setdefault(name, []).append((step.start_ns, value))

    for step in steps:
        known = [
            (total, usual[name] * count) for name, (total, count) in step.kernels.items() if usual.get(name)
        ]
        whole = sum(total for total, _ in step.kernels.values())
        expected = sum(each for _, each in known)
        put("kernel.time", step, sum(total for total, _ in known) / expected if expected else None)
        put("kernel.every", step, _least_changed(known))
        put("kernel.new_share", step, 1 - sum(total for total, _ in known) / whole if whole else None)
        # Ranks wait for the last one inside the collective: the shortest time is the one without waiting.
        ranks = [value for value in step.collective_ns.values() if value]
        put("kernel.collective_seconds", step, min(ranks) / 1e9 if len(ranks) > 1 else None)
        put("rank.compute_skew", step, _skew(step))
    return made


def _least_changed(known: Sequence[tuple[int, float]]) -> float | None:
    """The ratio to their usual time below which a fifth of the kernels' usual time lies."""
    ratios = sorted((total / expected, expected) for total, expected in known if expected > 0)
    left = LEAST_CHANGED * sum(expected for _, expected in ratios)
    for ratio, expected in ratios:
        left -= expected
        if left <= 0:
            return ratio
    return None


def _skew(step: Step) -> float | None:
    """Compute of the rank that waits least in collectives over the median of the others."""
    ranks = [pid for pid in step.collective_ns if step.collective_ns[pid] and step.compute_ns.get(pid)]
    if len(ranks) < 2:
        return None
    last = min(ranks, key=lambda pid: step.collective_ns[pid])
    return step.compute_ns[last] / median([step.compute_ns[pid] for pid in ranks if pid != last])


def _said(normal: Kernels, abnormal: Kernels, usual: Mapping[str, float]) -> dict[Key, str]:
    """Which kernels, which rank, who had the core."""
    made: dict[Key, str] = {}
    changed = _changed(abnormal.steps, usual)
    if changed:
        words = [f"{safe_text(name, 40)} x{ratio:.2f}" for name, ratio in changed]
        made["kernel.time", ""] = made["kernel.every", ""] = ", ".join(words)
    late = Tally(
        min(step.collective_ns, key=lambda pid: step.collective_ns[pid])
        for step in abnormal.steps
        if len(step.collective_ns) > 1
    )
    for pid, count in late.most_common(1):
        if count > 0.6 * sum(late.values()):
            made["rank.compute_skew", ""] = f"pid {pid}"
    grown = Tally(abnormal.instead or {})
    grown.subtract(normal.instead or {})
    others = [safe_text(name, 24) for name, value in grown.most_common(_NAMED) if value > 0]
    if others:
        made["deep.runqueue_share", ""] = "the core had " + ", ".join(others)
    return made


def _changed(steps: Sequence[Step], usual: Mapping[str, float]) -> list[tuple[str, float]]:
    """The kernels with most time and what they take now over what is usual."""
    totals: dict[str, tuple[int, int]] = {}
    for step in steps:
        for name, (total, count) in step.kernels.items():
            own = totals.get(name, (0, 0))
            totals[name] = (own[0] + total, own[1] + count)
    known = [name for name in totals if usual.get(name)]
    known.sort(key=lambda name: -totals[name][0])
    return [(name, totals[name][0] / totals[name][1] / usual[name]) for name in known[:_NAMED]]
