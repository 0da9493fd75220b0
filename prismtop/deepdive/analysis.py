"""What a deep capture, or any trace of torch.profiler, amounts to: kernels, operators, collectives, ranks.

Operators are by self time: their own less that of the operators inside of them, per thread (driver calls
inside count to the operator). Kernels, copies and collectives are by their own time on the device; those that
run side by side on several streams count each for itself, so that their sum can exceed the device's time.

Ranks wait for the last one inside the collective, so totals say nothing of who is late. The late rank is the
one whose collectives are shortest (it waits least) and that did more before them: host time before its
collective where the engine's hooks tell, compute kernels otherwise.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from prismtop.deepdive.activity import Kind, only_first
from prismtop.deepdive.breakdown import NO_DEVICE, ProcessTime
from prismtop.deepdive.findings import findings
from prismtop.deepdive.intervals import Times
from prismtop.deepdive.read import read_timeline
from prismtop.deepdive.timeline import Columns, Timeline
from prismtop.model import Batch, Bound, Breakdown, Part
from prismtop.trace.load import Trace

MOST = 200
"""Names kept of each table."""
LATE = 1.1
"""A rank is called late when it works this much longer than the median of the others, and waits less."""


@dataclass(frozen=True)
class NamedTime:
    """Calls of one name.

    Attributes:
        name: of a kernel or an operator: not safe to print.
        calls: how many.
        total_ns: together; of operators their self time.
        longest_ns: the longest one.
    """

    name: str
    calls: int
    total_ns: int
    longest_ns: int


@dataclass(frozen=True)
class RankWork:
    """What one process did, in an average batch (ns).

    Attributes:
        pid, rank: rank None when it is not known.
        batches: that were added up.
        compute_ns: compute kernels ran.
        collective_ns: collectives ran, waiting for other ranks included.
        exposed_ns: of them without compute beside them.
        pre_collective_ns: host time before the collective, by the engine's hooks; None without.
    """

    pid: int
    rank: int | None
    batches: int
    compute_ns: float
    collective_ns: float
    exposed_ns: float
    pre_collective_ns: float | None


@dataclass(frozen=True)
class DeepAnalysis:
    """Figures of a trace with operators or device events.

    Attributes:
        batches: batches that were broken down.
        parts: sums over them by stage, `` for whole batches; see `Part`.
        unknown: how many of them have no such figure, by stage and attribute of `HostTime`: its sum is over
            the others.
        bounds: how many batches are limited by what.
        kernels, copies, collectives: by total time; empty without device events.
        operators: by total self time.
        ranks: of traces with several processes, by rank.
        findings: sentences on what the batches' time was, and on what was left out.
        late: the late rank, a sentence; empty when there is none or it cannot be told.
        reason: why there is no device time; empty when there is.
    """

    batches: int
    parts: Mapping[str, Part]
    unknown: Mapping[tuple[str, str], int]
    bounds: Mapping[Bound, int]
    kernels: tuple[NamedTime, ...]
    copies: tuple[NamedTime, ...]
    collectives: tuple[NamedTime, ...]
    operators: tuple[NamedTime, ...]
    ranks: tuple[RankWork, ...]
    findings: tuple[str, ...]
    late: str
    reason: str


def of_trace(trace: Trace) -> DeepAnalysis | None:
    """The analysis of an opened trace; None when nothing in it has operators or device events.

    Raises:
        UsageError: a file cannot be read any more.
    """
    stories = [story for story in trace.stories if story.dialect == "kineto" or story.captured is not None]
    timelines = [read_timeline(story.path) for story in stories]
    kept = [pair for pair in zip(stories, timelines, strict=True) if pair[1].pids]
    if not kept:
        return None
    # By each file's own clock, as its timeline is.
    batches = (noun for story, _ in kept for _, noun in story.moments() if isinstance(noun, Batch))
    return analyse([timeline for _, timeline in kept], batches)


def analyse(timelines: Sequence[Timeline], batches: Iterable[Batch]) -> DeepAnalysis:
    """Add everything up.

    Args:
        timelines: of one trace, or of the traces of several ranks.
        batches: with their `breakdown` where they have one.
    """
    known = list(batches)
    found = [batch.breakdown for batch in known if batch.breakdown is not None]
    tables: dict[str, list[NamedTime]] = {"kernels": [], "copies": [], "collectives": [], "operators": []}
    for timeline in timelines:
        for name, kinds in _TABLES.items():
            rows = timeline.columns.of(*kinds)
            tables[name] += by_name(rows, timeline.names, rows.end - rows.start)
        tables["operators"] += operators(timeline)
    ranks = tuple(sorted((work for one in timelines for work in _ranks(one, known)), key=_rank_key))
    return DeepAnalysis(
        batches=len(found),
        parts=sums(found),
        unknown=_unknown(found),
        bounds=Tally(one.bound for one in found if one.bound is not None),
        kernels=_largest(tables["kernels"]),
        copies=_largest(tables["copies"]),
        collectives=_largest(tables["collectives"]),
        operators=_largest(tables["operators"]),
        ranks=ranks if len(ranks) > 1 else (),
        findings=(*findings(found), *([only_first()] if any(one.full for one in timelines) else ())),
        late=_late(ranks),
        reason="" if any(one.has_devices for one in timelines) else NO_DEVICE,
    )


_TABLES = {"kernels": (Kind.COMPUTE,), "copies": (Kind.COPY,), "collectives": (Kind.COLLECTIVE,)}


def by_name(rows: Columns, names: Sequence[str], lengths: Times) -> list[NamedTime]:
    """Rows by name, most time first."""
    named = rows.name >= 0
    numbers, inverse = np.unique(rows.name[named], return_inverse=True)
    lengths = lengths[named]
    totals = np.bincount(inverse, lengths, len(numbers)).astype(np.int64)
    calls = np.bincount(inverse, minlength=len(numbers))
    longest = np.zeros(len(numbers), np.int64)
    np.maximum.at(longest, inverse, lengths)
    return [
        NamedTime(names[numbers[n]], int(calls[n]), int(totals[n]), int(longest[n]))
        for n in np.argsort(-totals, kind="stable")
    ]


def operators(timeline: Timeline) -> list[NamedTime]:
    """Operators by self time."""
    rows = timeline.columns.of(Kind.OPERATOR)
    order = np.lexsort((rows.start - rows.end, rows.start, rows.unit, rows.pid))
    rows = rows.where(order)
    own = (rows.end - rows.start).tolist()
    threads = list(zip(rows.pid.tolist(), rows.unit.tolist(), strict=True))
    starts, ends = rows.start.tolist(), rows.end.tolist()
    stack: list[int] = []
    for n, start in enumerate(starts):
        while stack and (threads[stack[-1]] != threads[n] or ends[stack[-1]] <= start):
            stack.pop()
        if stack:
            own[stack[-1]] -= min(ends[n], ends[stack[-1]]) - start
        stack.append(n)
    return by_name(rows, timeline.names, np.maximum(np.array(own, np.int64), 0))


def sums(found: Sequence[Breakdown]) -> dict[str, Part]:
    """Parts of the same stage added up. A host figure that none of them has is None."""
    made: dict[str, list[Part]] = {}
    for one in found:
        for part in one.parts:
            made.setdefault(part.stage, []).append(part)
    return {stage: _sum(parts) for stage, parts in made.items()}


def _sum(parts: Sequence[Part]) -> Part:
    first = parts[0]
    host = {name: _known_sum([vars(part.host)[name] for part in parts]) for name in vars(first.host)}
    devices = [part.device for part in parts if part.device is not None]
    device = None
    if devices:
        figures = {name: sum(vars(one)[name] for one in devices) for name in vars(devices[0])}
        figures["devices"] = max(one.devices for one in devices)
        figures["longest_gap_ns"] = max(one.longest_gap_ns for one in devices)
        device = type(devices[0])(**figures)
    return Part(first.stage, sum(part.wall_ns for part in parts), type(first.host)(**host), device)


def _known_sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _unknown(found: Sequence[Breakdown]) -> Tally[tuple[str, str]]:
    return Tally(
        (part.stage, name)
        for one in found
        for part in one.parts
        for name, value in vars(part.host).items()
        if value is None
    )


def _largest(rows: Sequence[NamedTime]) -> tuple[NamedTime, ...]:
    """The same name of several processes together, most time first."""
    together: dict[str, NamedTime] = {}
    for row in rows:
        old = together.get(row.name)
        if old is not None:
            longest = max(old.longest_ns, row.longest_ns)
            row = NamedTime(row.name, old.calls + row.calls, old.total_ns + row.total_ns, longest)
        together[row.name] = row
    return tuple(sorted(together.values(), key=lambda row: -row.total_ns)[:MOST])


def _ranks(timeline: Timeline, batches: Sequence[Batch]) -> list[RankWork]:
    """Work of each process of a trace in an average batch; empty for one without devices."""
    made = []
    for pid in timeline.pids:
        own = [batch for batch in batches if pid in _processes(batch)]
        process = ProcessTime(timeline, pid)
        own = [batch for batch in own if process.covers(batch.start_ns, batch.end_ns)]
        parts = process.parts("", [[(batch.start_ns, batch.end_ns)] for batch in own]) if own else []
        devices = [part.device for part in parts if part is not None and part.device is not None]
        if not devices:
            continue
        times = [rank.pre_collective_ns for batch in own for rank in batch.ranks if rank.pid == pid]
        numbers = {rank.rank for batch in own for rank in batch.ranks if rank.pid == pid}
        made.append(
            RankWork(
                pid=pid,
                rank=timeline.ranks.get(pid, min(numbers, default=None)),
                batches=len(devices),
                compute_ns=_mean(one.compute_ns for one in devices),
                collective_ns=_mean(one.collective_ns for one in devices),
                exposed_ns=_mean(one.exposed_ns for one in devices),
                pre_collective_ns=_mean(times) if times else None,
            )
        )
    return made


def _processes(batch: Batch) -> set[int]:
    return {batch.pid, *(stage.pid for stage in batch.stages), *(rank.pid for rank in batch.ranks)}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _rank_key(work: RankWork) -> tuple[bool, int, int]:
    return work.rank is None, work.rank or 0, work.pid


def late_rank(ranks: Sequence[RankWork]) -> tuple[RankWork, str] | None:
    """The rank that the others wait for, and what takes it longer: `compute` or `host`. None when no rank
    both waits less in its collectives and works longer before them, or there are no collectives.
    """
    if len(ranks) < 2 or not all(work.collective_ns > 0 for work in ranks):
        return None
    last = min(ranks, key=lambda work: work.collective_ns)
    others = [work for work in ranks if work is not last]
    if last.collective_ns * LATE > median([work.collective_ns for work in others]):
        return None
    if last.pre_collective_ns is not None:
        hosts = [work.pre_collective_ns for work in others if work.pre_collective_ns is not None]
        if hosts and last.pre_collective_ns >= LATE * median(hosts):
            return last, "host"
    if last.compute_ns >= LATE * median([work.compute_ns for work in others]):
        return last, "compute"
    return None


def _late(ranks: Sequence[RankWork]) -> str:
    found = late_rank(ranks)
    if found is None:
        return ""
    last, what = found
    others = [work for work in ranks if work is not last]
    name = f"rank {last.rank}" if last.rank is not None else f"pid {last.pid}"
    usual = median([work.collective_ns for work in others])
    waits = f"{last.collective_ns / 1e6:.3f} ms a batch against {usual / 1e6:.3f} ms"
    if what == "host":
        own, usual = last.pre_collective_ns or 0.0, median([w.pre_collective_ns or 0.0 for w in others])
        where = "on the host before its collective"
    else:
        own, usual = last.compute_ns, median([w.compute_ns for w in others])
        where = "in compute kernels"
    return (
        f"{name} is late: it waits least in collectives ({waits}) and takes {own / 1e6:.3f} ms {where} "
        f"against {usual / 1e6:.3f} ms of the others"
    )
