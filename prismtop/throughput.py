"""Rates and percentiles over the last seconds, from batches and request events."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from prismtop.model import Batch, FirstToken, Origin, Percentiles, Request, Throughput

_Key = TypeVar("_Key")
MS = 1e6
REFRESH_NS = 1_000_000_000


class Window:
    """The last `seconds` of batches, first tokens and finished requests."""

    def __init__(self, seconds: float) -> None:
        self._length_ns = int(seconds * 1e9)
        self._batches: deque[Batch] = deque()
        self._stages: deque[tuple[str, dict[str, int]]] = deque()
        self._first: deque[FirstToken] = deque()
        self._finished: deque[int] = deque()
        self._started_ns: int | None = None
        self._has_requests = self._sampled = False
        self._made: Throughput | None = None
        self._made_ns = 0

    def add(self, batches: Sequence[Batch], first: Sequence[FirstToken], finished: Sequence[Request]) -> None:
        """Take what is new, in order of time."""
        if batches and self._started_ns is None:
            self._started_ns = batches[0].start_ns
        if batches:
            self._sampled = batches[-1].origin is Origin.SAMPLED
        self._batches.extend(batches)
        self._stages.extend((batch.mode.value, batch.stage_ns()) for batch in batches)
        self._first.extend(first)
        self._finished.extend(request.finished_ns for request in finished)
        self._has_requests = self._has_requests or bool(first or finished)

    def throughput(self, now_ns: int) -> Throughput | None:
        """The figures as of `now_ns`, renewed once a second; None until the first batch."""
        if self._started_ns is None:
            return None
        if self._made is None or now_ns - self._made_ns >= REFRESH_NS:
            self._made, self._made_ns = self._make(now_ns, self._started_ns), now_ns
        return self._made

    def _make(self, now_ns: int, started_ns: int) -> Throughput:
        since = max(now_ns - self._length_ns, started_ns)
        while self._batches and self._batches[0].end_ns < since:
            self._batches.popleft()
            self._stages.popleft()
        while self._first and self._first[0].time_ns < since:
            self._first.popleft()
        while self._finished and self._finished[0] < since:
            self._finished.popleft()
        seconds = max(now_ns - since, 1) / 1e9
        decode = _total(b.workload.decode_tokens for b in self._batches)
        tokens = _total(b.workload.tokens for b in self._batches)
        batches_per_s, busy = _sampled_rates(self._batches) if self._sampled else self._rates(now_ns, since)
        waits = [first.ttft_ns / MS for first in self._first if first.ttft_ns is not None]
        return Throughput(
            window_s=seconds,
            batches_per_s=batches_per_s,
            tokens_per_s=None if tokens is None else tokens / seconds,
            decode_tokens_per_s=None if decode is None else decode / seconds,
            requests_per_s=len(self._finished) / seconds if self._has_requests else None,
            ttft_ms=percentiles([(wait, 1) for wait in waits]),
            itl_ms=percentiles(_itl(self._batches)),
            busy=busy,
            step_ms=_by_mode(self._batches),
            stage_ms=_by_stage(self._stages),
        )

    def _rates(self, now_ns: int, since_ns: int) -> tuple[float, float | None]:
        """Batches a second, and the share of the time that was spent in them."""
        length = now_ns - since_ns
        busy = sum(min(b.duration_ns, b.period_ns or b.duration_ns) for b in self._batches)
        rate = len(self._batches) / (max(length, 1) / 1e9)
        return rate, min(1.0, busy / length) if length > 0 else None


def percentiles(weighted: Sequence[tuple[float, int]]) -> Percentiles | None:
    """Nearest-rank percentiles of (value, how often it occurred); None without observations."""
    ordered = sorted(weighted)
    if not ordered:
        return None
    sums = list(accumulate(weight for _, weight in ordered))
    total = sums[-1]
    if total <= 0:
        return None

    def at(percent: int) -> float:
        # In whole numbers: 0.95 of a total may come out above the rank that is meant.
        return ordered[bisect_left(sums, -(-percent * total // 100))][0]

    return Percentiles(total, at(50), at(95), at(99))


def _sampled_rates(means: Sequence[Batch]) -> tuple[float | None, float | None]:
    """Batches a second and the busy share where a batch is the mean of about a second: how many iterations
    that were is told by how long one took with the idle time before it. None without a mean."""
    turns = [(b.duration_ns, b.duration_ns + b.idle_ns) for b in means if b.origin is Origin.SAMPLED]
    turns = [(active, turn) for active, turn in turns if turn > 0]
    if not turns:
        return None, None
    return sum(1e9 / turn for _, turn in turns) / len(turns), sum(a / turn for a, turn in turns) / len(turns)


def _itl(batches: Iterable[Batch]) -> list[tuple[float, int]]:
    """Time between consecutive tokens: a decoding request gets one token per batch, so every batch's
    settle-to-settle period counts once per decoded token. A batch after an idle gap has no period and does
    not count."""
    return [
        (batch.period_ns / MS, batch.workload.decode_tokens)
        for batch in batches
        if batch.period_ns and batch.workload.decode_tokens
    ]


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _by_mode(batches: Iterable[Batch]) -> dict[str, Percentiles]:
    groups: dict[str, list[tuple[float, int]]] = {}
    for batch in batches:
        groups.setdefault(batch.mode.value, []).append((batch.duration_ns / MS, 1))
    return _percentiles_of(groups)


def _by_stage(batches: Iterable[tuple[str, dict[str, int]]]) -> dict[tuple[str, str], Percentiles]:
    groups: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for mode, stages in batches:
        for stage, duration in stages.items():
            groups.setdefault((mode, stage), []).append((duration / MS, 1))
    return _percentiles_of(groups)


def _percentiles_of(groups: dict[_Key, list[tuple[float, int]]]) -> dict[_Key, Percentiles]:
    made = {key: percentiles(values) for key, values in groups.items()}
    return {key: value for key, value in made.items() if value is not None}
