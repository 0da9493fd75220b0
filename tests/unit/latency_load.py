"""A made-up engine for tests of the latency model: what its batches cost is known, so is its noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from prismtop.latency.judge import LatencyJudge
from prismtop.model import Alert, Batch, Mode, Origin, Verdict, Workload
from prismtop.settings import Settings
from tests.factories import make_group

MS = 1_000_000


def decode_ms(size: int, context: int) -> float:
    """Cost of a decode batch: padded to captured sizes, linear in the KV read."""
    padded = next(step for step in (1, 2, 4, *range(8, 513, 8)) if step >= size)
    return 20.0 + 0.05 * padded + 1e-4 * context + (2.0 if padded > 16 else 0.0)


class Load:
    """Batches one after another, sizes drifting like those of a real scheduler.

    Args:
        noise: relative standard deviation of a batch's duration.
        cost: ms of a decode batch of (size, context).
    """

    def __init__(
        self, seed: int = 0, noise: float = 0.01, cost: Callable[[int, int], float] = decode_ms
    ) -> None:
        self.rng = random.Random(seed)
        self.noise = noise
        self.cost = cost
        self.at_ns = 10**12
        self.seq = 0
        self.size = 8

    def decode(self, n: int, factor: float = 1.0, **changes: Any) -> Iterator[Batch]:
        """`n` decode batches, `factor` times as slow as they should be."""
        for _ in range(n):
            self.size = max(1, min(32, self.size + self.rng.choice((-1, 0, 0, 1))))
            context = self.size * self.rng.randint(300, 900)
            yield self.batch(factor, **changes, size=self.size, context=context)

    def mixed(self, n: int, factor: float = 1.0) -> Iterator[Batch]:
        """`n` batches with prefill."""
        for _ in range(n):
            size, prefill = self.rng.randint(1, 16), self.rng.randint(16, 1024)
            context = size * 500
            work = Workload(
                batch_size=size + 1,
                prefill_tokens=prefill,
                decode_tokens=size,
                context_tokens=context,
                max_context=prefill,
                new_requests=1,
                running=size + 1,
                waiting=2,
            )
            length = (self.cost(size, context) + 0.04 * prefill) * factor
            yield self._made(length, Mode.MIXED, work)

    def batch(self, factor: float = 1.0, size: int = 8, context: int = 4000, **changes: Any) -> Batch:
        """One decode batch."""
        work = Workload(
            batch_size=size,
            prefill_tokens=0,
            decode_tokens=size,
            context_tokens=context,
            running=size,
            waiting=3,
        )
        return self._made(self.cost(size, context) * factor, Mode.DECODE, work, **changes)

    @staticmethod
    def larger(batch: Batch, requests: int) -> Batch:
        """The same batch with so many decoding requests more."""
        work = batch.workload
        size, decode = (work.batch_size or 0) + requests, (work.decode_tokens or 0) + requests
        return replace(batch, workload=replace(work, batch_size=size, decode_tokens=decode))

    def _made(
        self, length_ms: float, mode: Mode, work: Workload, gap_ms: float = 0.1, **changes: Any
    ) -> Batch:
        duration = int(length_ms * MS * max(0.2, self.rng.gauss(1.0, self.noise)))
        gap = int(gap_ms * MS)
        fields: dict[str, Any] = {
            "pid": 4242,
            "engine": "vllm",
            "seq": self.seq,
            "start_ns": self.at_ns + gap,
            "duration_ns": duration,
            "period_ns": duration + gap,
            "mode": mode,
            "workload": work,
            "origin": Origin.EXACT,
        }
        self.seq += 1
        self.at_ns += gap + duration
        return Batch(**{**fields, **changes})


def make_judge(**settings: Any) -> LatencyJudge:
    """A judge that keeps nothing and fits trees at once."""
    return LatencyJudge(Settings(**settings), make_group(), inline=True)


class Told:
    """Judges batches and remembers what was said."""

    def __init__(self, judge: LatencyJudge) -> None:
        self.judge = judge
        self.batches: list[Batch] = []
        self.alerts: dict[int, Alert] = {}

    def take(self, batches: Iterator[Batch] | list[Batch]) -> list[Batch]:
        """Judge these; they come back with their predictions."""
        made = []
        for batch in batches:
            engine = self.judge.engine(batch.pid)
            made.append(engine.take(batch))
            for alert in engine.alerts(batch.end_ns):
                self.alerts[alert.id] = alert
        self.batches += made
        return made

    def end(self) -> None:
        """Close what is open."""
        for alert in self.judge.finish():
            self.alerts[alert.id] = alert


def slow(batches: list[Batch]) -> int:
    """How many of them are flagged."""
    return sum(1 for batch in batches if batch.prediction and batch.prediction.verdict is Verdict.SLOW)


def errors(batches: list[Batch]) -> list[float]:
    """Relative errors of the predictions, in order."""
    return sorted(
        abs(batch.prediction.expected_ns - batch.duration_ns) / batch.duration_ns
        for batch in batches
        if batch.prediction
    )
