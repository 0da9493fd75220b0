"""Turns the measured intervals of one batch into stages that add up without counting anything twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from prismtop.model import Stage
from prismtop.model.batch import new_stage

BLOCKED = ("wait", "launch", "sample")
"""Stages of the anchor process in which it may merely wait for a worker process."""


class Span(NamedTuple):
    """One hooked call: stage, hook, start and end (CLOCK_MONOTONIC ns), time suspended, process, thread,
    rank.
    """

    stage: str
    hook: str
    start_ns: int
    end_ns: int
    suspended_ns: int
    pid: int
    tid: int
    rank: int | None = None


_start = itemgetter(Span._fields.index("pid"), Span._fields.index("tid"), Span._fields.index("start_ns"))
_end = itemgetter(Span._fields.index("end_ns"))


def exclusive(spans: Sequence[Span], anchor_pid: int, worker_pid: int | None) -> tuple[Stage, ...]:
    """Stages in order of start, each less the spans nested in it on its thread.

    Where the anchor process blocks on a worker (`BLOCKED`), the time that the worker's own stages account for
    is taken from the anchor's: what is left is the cost of asking and answering. Of a suspended coroutine it
    is not known whether what ran meanwhile ran inside it; on one thread the stages never exceed the time that
    passed.

    Args:
        spans: the calls of one batch, in any order.
        anchor_pid: process whose hooks anchor the batch.
        worker_pid: the worker that stands for all ranks; None when the anchor runs the model itself.
    """
    # What is nested comes after what it is nested in: of spans that start together the longer one is first.
    ordered = sorted(spans, key=_end, reverse=True)
    ordered.sort(key=_start)
    parents: list[int] = []  # per span the index of the one that it is nested in, -1 for none
    stack: list[tuple[int, int, int, int]] = []  # end, thread, process and index
    for n, (_, _, start, end, _, pid, tid, _) in enumerate(ordered):
        parent = -1
        while stack:
            top_end, top_tid, top_pid, top = stack[-1]
            if top_end > start and top_tid == tid and top_pid == pid:
                parent = top if end <= top_end else -1
                break
            stack.pop()
        parents.append(parent)
        stack.append((end, tid, pid, n))
    used = [0] * len(ordered)  # by the spans nested in each, directly or not
    own = [0] * len(ordered)
    for n in range(len(ordered) - 1, -1, -1):
        span = ordered[n]
        length, less, parent = span[3] - span[2], used[n], parents[n]
        left = length - (span[4] if span[4] > less else less)
        if left > 0:
            own[n] = left
            less += left
        if parent >= 0:
            used[parent] += less
    if worker_pid is not None:
        _less_blocked(own, ordered, parents, anchor_pid, worker_pid)
    stages = [
        new_stage(
            name=name,
            hook=hook,
            start_ns=start,
            duration_ns=left,
            pid=pid,
            tid=tid,
            rank=rank,
            span_ns=end - start,
        )
        for (name, hook, start, end, _, pid, tid, rank), left in zip(ordered, own, strict=True)
    ]
    if ordered and ordered[0][5:7] != ordered[-1][5:7]:  # several processes or threads
        stages.sort(key=lambda stage: (stage.start_ns, -stage.span_ns))
    return tuple(stages)


def _less_blocked(
    own: list[int], ordered: Sequence[Span], parents: Sequence[int], anchor_pid: int, worker_pid: int
) -> None:
    """Take from the anchor's blocked stages what the worker's stages cover, nested spans not twice."""
    busy = union((span.start_ns, span.end_ns) for span in ordered if span.pid == worker_pid)
    if not busy:
        return
    covered = [0] * len(ordered)
    for n, span in enumerate(ordered):
        if span.pid == anchor_pid:
            inside = sum(max(0, min(end, span.end_ns) - max(start, span.start_ns)) for start, end in busy)
            covered[n] += inside
            if parents[n] >= 0:
                covered[parents[n]] -= inside
    for n, span in enumerate(ordered):
        if span.pid == anchor_pid and span.stage in BLOCKED:
            own[n] = max(0, own[n] - covered[n])


def union(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The intervals in order, with overlapping ones merged."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
