"""Did it slow the target down at all? Asked of the batches alone, at equal workload, without a model.

A fault without an effect must not count as missed, and the detector under test must not be the judge of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

from prismtop.model import Batch

NOTABLE_PCT = 10.0
_FEWEST = 3
_FEW_STRETCHES = 5
_STRETCHES = 24
_NEIGHBOURS = 15
_REACH = 1.0
_WEIGHTS = (2.0, 2.0, 0.5)
"""Of batch size, prefill tokens and context: a doubling of the first two is too far to compare."""
_GRAIN = 8
"""Batches whose places agree to an eighth are compared with the same ones: there are tens of thousands."""
_LONGEST_GAP_NS = 10 * 10**9


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


Timed = tuple[Batch, int]


class Measure:
    """Measures effects on batches: every batch is compared with the median of the undisturbed ones nearest to
    it in workload. Its time is its duration and the gap before it in which the engine was not idle.

    Args:
        batches: all, in order.
        quiet: those of them that were undisturbed.
    """

    def __init__(self, batches: Sequence[Batch], quiet: Sequence[Batch]) -> None:
        calm = {id(batch) for batch in quiet}
        self._timed = _timed(batches)
        self._undisturbed = [one for one in self._timed if id(one[0]) in calm]
        self._usual = _Usual(self._undisturbed)

    def of(self, start_ns: int, end_ns: int) -> Effect:
        """The effect on the batches that overlap an interval."""
        inside = [one for one in self._timed if one[0].start_ns < end_ns and one[0].end_ns > start_ns]
        percent, count = _excess_pct(inside, self._usual)
        return Effect(percent, count, _noise(self._undisturbed, end_ns - start_ns, self._usual))


def measure(batches: Sequence[Batch], start_ns: int, end_ns: int, quiet: Sequence[Batch]) -> Effect:
    """The effect on the batches that overlap one interval; see `Measure`."""
    return Measure(batches, quiet).of(start_ns, end_ns)


def _timed(batches: Sequence[Batch]) -> list[Timed]:
    """Batches with their duration and the gap before them, idle time left out, in ns."""
    made: list[Timed] = []
    before = None
    for batch in batches:
        gap = 0 if before is None else max(0, batch.start_ns - before - batch.idle_ns)
        # A pause of seconds is an engine without requests, not a slow one; so may be one before a batch of
        # new requests only, unless the engine's wait for requests was measured.
        work = batch.workload
        fresh = bool(work.new_requests) and work.new_requests == work.batch_size and not batch.idle_ns
        made.append((batch, batch.duration_ns + (gap if gap < _LONGEST_GAP_NS and not fresh else 0)))
        before = batch.end_ns
    return made


class _Usual:
    """Undisturbed batches by mode: where they lie in workload, and what they took."""

    def __init__(self, quiet: Sequence[Timed]) -> None:
        import numpy as np

        places: dict[str, list[tuple[float, ...]]] = {}
        taken: dict[str, list[int]] = {}
        for batch, time_ns in quiet:
            places.setdefault(batch.mode.value, []).append(_place(batch))
            taken.setdefault(batch.mode.value, []).append(time_ns)
        self._modes = {mode: (np.array(places[mode]), np.array(taken[mode])) for mode in places}
        self._known: dict[tuple[object, ...], float | None] = {}

    def of(self, batch: Batch) -> float | None:
        """What it would have taken, in ns; None when nothing like it was seen often enough."""
        place = tuple(round(_GRAIN * value) / _GRAIN for value in _place(batch))
        key = (batch.mode, place)
        if key not in self._known:
            self._known[key] = self._nearest(batch.mode.value, place)
        return self._known[key]

    def _nearest(self, mode: str, place: tuple[float, ...]) -> float | None:
        import numpy as np

        known = self._modes.get(mode)
        if known is None:
            return None
        far = np.abs(known[0] - np.array(place)).sum(axis=1)
        # Itself is among the undisturbed when noise is measured: it must not be its own measure.
        near = np.argsort(far, kind="stable")[: _NEIGHBOURS + 1]
        near = near[far[near] <= _REACH]
        return float(np.median(known[1][near])) if len(near) >= _FEWEST else None


def _place(batch: Batch) -> tuple[float, ...]:
    """Workload on scales on which one is far."""
    work = batch.workload
    sizes = (work.batch_size, work.prefill_tokens, work.context_tokens)
    return tuple(weight * log2(1 + (size or 0)) for weight, size in zip(_WEIGHTS, sizes, strict=True))


def _excess_pct(timed: Sequence[Timed], usual: _Usual) -> tuple[float | None, int]:
    """Extra time in percent, and the batches that could be compared."""
    taken = expected = 0.0
    count = 0
    for batch, time_ns in timed:
        level = usual.of(batch)
        if level is not None:
            taken, expected, count = taken + time_ns, expected + level, count + 1
    return (100.0 * (taken - expected) / expected if count >= _FEWEST and expected else None), count


def _noise(quiet: Sequence[Timed], length_ns: int, usual: _Usual) -> float | None:
    """The 90th percentile of the same figure over undisturbed stretches of that length."""
    stretches: dict[int, list[Timed]] = {}
    for batch, time_ns in quiet:
        stretches.setdefault(batch.start_ns // max(1, length_ns), []).append((batch, time_ns))
    chosen = list(stretches.values())[:: max(1, len(stretches) // _STRETCHES)]
    figures = sorted(abs(figure) for some in chosen if (figure := _excess_pct(some, usual)[0]) is not None)
    return figures[int(0.9 * (len(figures) - 1))] if len(figures) >= _FEW_STRETCHES else None
