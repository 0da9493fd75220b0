"""Did it slow the target down at all? Asked of the batches alone, at equal workload, without a model.

A fault without an effect must not count as missed, and the detector under test must not be the judge of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from prismtop.model import Batch

NOTABLE_PCT = 10.0
_FEWEST = 5


@dataclass(frozen=True)
class Effect:
    """Extra time of the batches of an interval over undisturbed ones with the same workload.

    Attributes:
        percent: extra time as a share of the undisturbed, in percent; None when too little can be compared.
        batches: compared.
        noise_pct: the same figure of undisturbed stretches of the same length, their 90th percentile of
            absolute values; None when there are too few.
    """

    percent: float | None
    batches: int
    noise_pct: float | None = None

    @property
    def has_one(self) -> bool | None:
        """Whether it is at least 10 % and beyond the noise; None when it is not known."""
        if self.percent is None:
            return None
        return self.percent >= max(NOTABLE_PCT, self.noise_pct or 0.0)

    @property
    def verdict(self) -> str:
        """`slower`, `no effect` or `unknown`."""
        return {True: "slower", False: "no effect", None: "unknown"}[self.has_one]


Key = tuple[str, int, int]


def key_of(batch: Batch) -> Key:
    """What makes batches comparable: mode, batch size and prefill tokens in steps of a quarter power of 2."""
    work = batch.workload
    return batch.mode.value, _step(work.batch_size), _step(work.prefill_tokens)


def levels(batches: Iterable[Batch]) -> dict[Key, float]:
    """Median duration in ns of each kind of batch that was seen at least five times."""
    found: dict[Key, list[int]] = {}
    for batch in batches:
        found.setdefault(key_of(batch), []).append(batch.duration_ns)
    return {key: median(times) for key, times in found.items() if len(times) >= _FEWEST}


def excess_pct(batches: Sequence[Batch], usual: dict[Key, float]) -> tuple[float | None, int]:
    """Extra time in percent over `usual`, and the batches that could be compared."""
    taken = expected = 0.0
    count = 0
    for batch in batches:
        level = usual.get(key_of(batch))
        if level is not None:
            taken, expected, count = taken + batch.duration_ns, expected + level, count + 1
    return (100.0 * (taken - expected) / expected if count >= _FEWEST else None), count


def measure(batches: Sequence[Batch], start_ns: int, end_ns: int, quiet: Sequence[Batch]) -> Effect:
    """The effect on the batches that overlap an interval.

    Args:
        batches: all, in order.
        start_ns, end_ns: the interval.
        quiet: undisturbed batches, in order.
    """
    usual = levels(quiet)
    inside = [batch for batch in batches if batch.start_ns < end_ns and batch.end_ns > start_ns]
    percent, count = excess_pct(inside, usual)
    return Effect(percent, count, _noise(quiet, end_ns - start_ns, usual))


def _noise(quiet: Sequence[Batch], length_ns: int, usual: dict[Key, float]) -> float | None:
    stretches: dict[int, list[Batch]] = {}
    for batch in quiet:
        stretches.setdefault(batch.start_ns // max(1, length_ns), []).append(batch)
    figures = sorted(
        abs(figure) for some in stretches.values() if (figure := excess_pct(some, usual)[0]) is not None
    )
    return figures[int(0.9 * (len(figures) - 1))] if len(figures) >= _FEWEST else None


def _step(value: int | float | None) -> int:
    """A number's place on a scale with four steps per doubling; -1 when it is not known."""
    if value is None:
        return -1
    number, step = float(value), 0
    while number >= 1.19:
        number, step = number / 2**0.25, step + 1
    return step
