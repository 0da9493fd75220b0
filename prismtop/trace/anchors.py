"""The function whose calls are the batches, found by its regularity.

For traces without annotations (`latency-model.md`, section D): per thread and function the number of calls,
their total time and the spread of the time between two starts are kept while events stream by, so memory
grows with the number of names and not with the trace. A function that an engine is known to run once per
batch wins; else the score is share of the thread's time times regularity, and of those within ten percent
of the best the outermost, which is the one with the longest calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from prismtop.trace.dialects.names import function_and_file

MIN_CALLS = 4
NEAR = 0.9
KNOWN = (
    "_process_engine_step",
    "step_with_batch_queue",
    "event_loop_step",
    "run_batch",
    "execute_model",
    "_generation_step",
)
"""Called once per batch by vLLM, SGLang and transformers, best first."""
_NEVER = frozenset(
    (
        "_call_impl",
        "_wrapped_call_impl",
        "decorate_context",
        "wrapper",
        "recv_requests",
        "wait",
        "get",
        "select",
        "poll",
        "sleep",
        "acquire",
        "join",
        "recv",
        "read",
        "_bootstrap",
        "_bootstrap_inner",
        "__call__",
        "_fn",
        "inner",
        "oncpu",
        "runq",
    )
)
MAX_NAMES = 50_000


@dataclass
class Calls:
    """Outermost calls of one function on one thread, streaming. Times in nanoseconds."""

    count: int = 0
    total_ns: int = 0
    last_start_ns: int = 0
    last_end_ns: int = -(1 << 63)
    first_ns: int = 0
    gaps: int = 0
    gap_mean: float = 0.0
    gap_m2: float = 0.0

    def add(self, start_ns: int, end_ns: int) -> None:
        """Count one call; one inside the previous is recursion and does not count."""
        if start_ns < self.last_end_ns and self.count:
            if start_ns >= self.last_start_ns:
                return
            # Out of order: keep the totals, the gaps of a few such calls do not matter.
            self.count += 1
            self.total_ns += end_ns - start_ns
            self.first_ns = min(self.first_ns, start_ns)
            return
        if self.count:
            self.gaps += 1  # Welford
            delta = start_ns - self.last_start_ns - self.gap_mean
            self.gap_mean += delta / self.gaps
            self.gap_m2 += delta * (start_ns - self.last_start_ns - self.gap_mean)
        else:
            self.first_ns = start_ns
        self.count += 1
        self.total_ns += end_ns - start_ns
        self.last_start_ns, self.last_end_ns = start_ns, end_ns

    @property
    def regularity(self) -> float:
        """1 minus the coefficient of variation of the time between starts, at least 0."""
        if self.gaps < 2 or self.gap_mean <= 0:
            return 0.0
        return max(0.0, 1 - math.sqrt(self.gap_m2 / self.gaps) / self.gap_mean)


@dataclass(frozen=True)
class Anchor:
    """The function whose calls are batches.

    Attributes:
        track: (pid, tid) as in the trace.
        name: as in the trace.
        confidence: share of time times regularity, 0 to 1; 1 for a known function.
    """

    track: tuple[object, object]
    name: str
    confidence: float


class AnchorSearch:
    """Takes every function call of a trace and names the anchor."""

    def __init__(self) -> None:
        self._calls: dict[tuple[tuple[object, object], str], Calls] = {}

    def add(self, track: tuple[object, object], name: str, start_ns: int, end_ns: int) -> None:
        """One call; calls of a thread come roughly in order of time, callers before or after callees."""
        key = (track, name)
        calls = self._calls.get(key)
        if calls is None:
            if len(self._calls) >= MAX_NAMES:
                return
            calls = self._calls[key] = Calls()
        calls.add(start_ns, end_ns)

    def best(self) -> Anchor | None:
        """The anchor; None when nothing is called regularly."""
        tracks: dict[tuple[object, object], tuple[int, int]] = {}
        for (track, _), calls in self._calls.items():
            begin, end = tracks.get(track, (calls.first_ns, calls.last_end_ns))
            tracks[track] = (min(begin, calls.first_ns), max(end, calls.last_end_ns))
        candidates = [
            (key, calls)
            for key, calls in self._calls.items()
            if calls.count >= MIN_CALLS and _short(key[1]) not in _NEVER
        ]
        for known in KNOWN:
            named = [(key, calls) for key, calls in candidates if _short(key[1]) == known]
            if named:
                (track, name), _ = max(named, key=lambda item: item[1].total_ns)
                return Anchor(track, name, 1.0)
        scored = [(_score(calls, tracks[key[0]]), calls, key) for key, calls in candidates]
        best = max((score for score, _, _ in scored), default=0.0)
        if best < 0.1:
            return None
        near = [item for item in scored if item[0] >= NEAR * best]
        score, _, (track, name) = max(near, key=lambda item: item[1].total_ns / item[1].count)
        return Anchor(track, name, round(score, 3))


def _score(calls: Calls, span: tuple[int, int]) -> float:
    """Regularity times the share of its own time, from its first call to its last; less for a function that
    runs in less than a quarter of the thread's time. The thread's may reach far back: profilers with a ring
    keep the caller of everything and lose the first calls.
    """
    own = max(1, calls.last_end_ns - calls.first_ns)
    reach = min(1.0, 4 * own / max(1, span[1] - span[0]))
    return calls.regularity * min(1.0, calls.total_ns / own) * reach


def _short(name: str) -> str:
    return function_and_file(name)[0].rsplit(".", 1)[-1]


def outermost(calls: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end) pairs in order of start, without those inside another."""
    made: list[tuple[int, int]] = []
    for start, end in sorted(calls, key=lambda call: (call[0], -call[1])):
        if not made or start >= made[-1][1]:
            made.append((start, end))
    return made
