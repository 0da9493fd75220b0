"""Tensor-parallel ranks: the time each takes before its collective, and the joining of ranks that each run a
scheduler (SGLang) into one batch per iteration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prismtop.model import Batch, RankTime, Stage
from prismtop.sources.open_batch import Process

PATIENCE_NS = 300_000_000
"""How long a batch waits for the other ranks' view of it."""
_BEFORE_COLLECTIVE = ("recv", "schedule", "prepare", "launch")


def rank_times(processes: Sequence[Process], stages: Sequence[Stage]) -> tuple[RankTime, ...]:
    """Host time in ns that each rank spent before its collective; empty with fewer than two ranks."""
    times: dict[int, int] = {}
    for stage in stages:
        if stage.name in _BEFORE_COLLECTIVE:
            times[stage.pid] = times.get(stage.pid, 0) + stage.duration_ns
    ranked = [(p.rank, p.pid) for p in processes if p.rank is not None and p.pid in times]
    if len(ranked) < 2:
        return ()
    return tuple(RankTime(rank, pid, times[pid]) for rank, pid in sorted(ranked))


class RankJoiner:
    """Holds the lead rank's batches until the other ranks' batches of the same iteration have been seen.

    Ranks run in lock step and a collective ends their forward passes together, so the batches of one
    iteration end at nearly the same time: nearer than half the time to the next batch. They hold as many
    requests. A rank that was attached later, or lost a record, does not shift the rest.
    """

    def __init__(self, lead: Process, others: Sequence[Process]) -> None:
        self.lead = lead
        self.others = tuple(others)
        self._waiting: deque[Batch] = deque()
        self._seen: dict[int, deque[Batch]] = {process.pid: deque(maxlen=4096) for process in others}

    def join(self, batches: Mapping[int, Sequence[Batch]], now_ns: int) -> list[Batch]:
        """Take each rank's new batches (by pid); return the lead's that are complete or out of patience."""
        if not self.others:
            return list(batches.get(self.lead.pid, ()))
        self._waiting.extend(batches.get(self.lead.pid, ()))
        for pid, seen in self._seen.items():
            seen.extend(batches.get(pid, ()))
        ready: list[Batch] = []
        while self._waiting:
            batch = self._waiting[0]
            patient = now_ns - batch.end_ns < PATIENCE_NS
            if patient and not all(_decided(batch, seen) for seen in self._seen.values()):
                break
            self._waiting.popleft()
            ready.append(self._joined(batch, [_take(batch, seen) for seen in self._seen.values()]))
        return ready

    def _joined(self, batch: Batch, found: Sequence[Batch | None]) -> Batch:
        others = [other for other in found if other is not None]
        stages = tuple(
            sorted((*batch.stages, *(s for other in others for s in other.stages)), key=lambda s: s.start_ns)
        )
        return replace(batch, stages=stages, ranks=rank_times((self.lead, *self.others), stages))


def _slack_ns(batch: Batch) -> int:
    return min(batch.duration_ns, batch.period_ns or batch.duration_ns) // 2


def _twin(batch: Batch, seen: Sequence[Batch]) -> Batch | None:
    """The other rank's view of `batch`."""
    slack, size = _slack_ns(batch), batch.workload.batch_size
    near = [b for b in seen if abs(b.end_ns - batch.end_ns) <= slack and b.workload.batch_size == size]
    return min(near, key=lambda b: abs(b.end_ns - batch.end_ns), default=None)


def _decided(batch: Batch, seen: deque[Batch]) -> bool:
    """Whether the twin is there, or a later batch shows that it will not come."""
    slack = _slack_ns(batch)
    while seen and seen[0].end_ns < batch.end_ns - slack:
        seen.popleft()
    return bool(seen) and (seen[-1].end_ns > batch.end_ns + slack or _twin(batch, seen) is not None)


def _take(batch: Batch, seen: deque[Batch]) -> Batch | None:
    found = _twin(batch, seen)
    if found is not None:
        seen.remove(found)
    return found
