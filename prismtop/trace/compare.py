"""Two traces at equal workload: batches are compared with those of the other trace that had the same to do.

A stratum is a mode and a narrow range of batch size, prefill tokens and context. Strata with enough batches
in both traces are matched; in each the medians are compared, and their differences are weighted by the
smaller number of batches, so that a shift of the workload mix cannot pass for a change of the engine.
Confidence intervals come from a moving block bootstrap (consecutive batches are not independent; Kuensch
1989) with blocks of the cube root of the stratum's size.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from prismtop.model import STAGES, Batch, Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = "NDArray[np.float64]"

MIN_BATCHES = 8
"""In a stratum of each trace: fewer say nothing about a median."""
MAX_BATCHES = 200_000
DRAWS = 1000
LEVEL = 95.0
WORTH_PCT = 1.0
"""A change below this is not called one, however certain it is."""
_EXACT_SIZE = 16
COLUMNS = ("duration", "period", *STAGES)
Stratum: TypeAlias = "tuple[str, int | None, int | None, int | None]"


@dataclass
class Sample:
    """Batches of one trace: per stratum a column of milliseconds for each of `COLUMNS`, NaN where unknown."""

    strata: dict[Stratum, dict[str, array[float]]] = field(default_factory=dict)
    batches: int = 0
    dropped: int = 0

    def take(self, batches: Iterable[Batch]) -> Sample:
        """Take batches in order of time; beyond `MAX_BATCHES` they are counted only."""
        for batch in batches:
            self.batches += 1
            if self.batches - self.dropped > MAX_BATCHES:
                self.dropped += 1
            elif not batch.suspect:
                columns = self.strata.setdefault(stratum(batch), {})
                if not columns:
                    columns.update((name, array("d")) for name in COLUMNS)
                stages = batch.stage_ns()
                for name, column in columns.items():
                    ns = stages.get(name)
                    column.append(math.nan if ns is None else ns / 1e6)
                columns["duration"][-1] = batch.duration_ns / 1e6
                columns["period"][-1] = math.nan if batch.period_ns is None else batch.period_ns / 1e6
        return self


@dataclass(frozen=True)
class Change:
    """One quantity in one mode.

    Attributes:
        mode: of the batches; what: `duration`, `period` or a stage.
        before_ms, after_ms: weighted medians at equal workload.
        low_pct, high_pct: interval of the change.
        batches: matched in A and in B.
        changed: whether the interval leaves out zero and the change is worth naming.
    """

    mode: str
    what: str
    before_ms: float
    after_ms: float
    low_pct: float
    high_pct: float
    low_ms: float
    high_ms: float
    batches: tuple[int, int]
    changed: bool

    @property
    def ms(self) -> float:
        """The change."""
        return self.after_ms - self.before_ms

    @property
    def pct(self) -> float:
        """The change as a percentage of A."""
        return 100 * self.ms / self.before_ms if self.before_ms else math.nan


@dataclass(frozen=True)
class Comparison:
    """Two traces.

    Attributes:
        changes: by mode, then duration, period, stages in order.
        matched: share of the batches of A and of B that have a counterpart.
        only_before, only_after: stages seen in one trace only, as (mode, stage).
        strata: number of matched strata.
        workload_known: whether any of them tells more than the mode.
    """

    changes: tuple[Change, ...]
    matched: tuple[float, float]
    only_before: tuple[tuple[str, str], ...]
    only_after: tuple[tuple[str, str], ...]
    strata: int
    workload_known: bool = True


def stratum(batch: Batch) -> Stratum:
    """The stratum of a batch: unknown values are a range of their own."""
    w: Workload = batch.workload
    return (batch.mode.value, _size(w.batch_size), _range(w.prefill_tokens, 2), _range(w.context_tokens, 2))


def compare(before: Sample, after: Sample, *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare stage by stage.

    Args:
        draws: bootstrap samples.
        seed: of their random numbers: the same traces give the same intervals.
    """
    import numpy as np

    shared = {
        key: (before.strata[key], after.strata[key])
        for key in before.strata
        if key in after.strata and min(_count(before.strata[key]), _count(after.strata[key])) >= MIN_BATCHES
    }
    random = np.random.default_rng(seed)
    changes: list[Change] = []
    lost: list[tuple[str, str]] = []
    gained: list[tuple[str, str]] = []
    for mode in sorted({key[0] for key in shared}):
        pairs = [pair for key, pair in shared.items() if key[0] == mode]
        for what in COLUMNS:
            samples = [(_values(a, what), _values(b, what)) for a, b in pairs]
            seen = [any(len(pair[side]) for pair in samples) for side in (0, 1)]
            if seen[0] != seen[1] and what in STAGES:
                (lost if seen[0] else gained).append((mode, what))
            usable = [(a, b) for a, b in samples if min(len(a), len(b)) >= MIN_BATCHES]
            if usable:
                changes.append(_change(mode, what, usable, draws, random))
    pairs = list(shared.values())
    counts = [sum(_count(pair[side]) for pair in pairs) for side in (0, 1)]
    return Comparison(
        changes=tuple(changes),
        matched=(counts[0] / max(1, before.batches), counts[1] / max(1, after.batches)),
        only_before=tuple(lost),
        only_after=tuple(gained),
        strata=len(shared),
        workload_known=any(value is not None for key in shared for value in key[1:]),
    )


def _change(
    mode: str, what: str, samples: list[tuple[Floats, Floats]], draws: int, random: np.random.Generator
) -> Change:
    import numpy as np

    weights = np.array([min(len(a), len(b)) for a, b in samples], float)
    weights /= weights.sum()
    before, after = 0.0, 0.0
    drawn = np.zeros((2, draws))
    for weight, pair in zip(weights, samples, strict=True):
        before += float(weight * np.median(pair[0]))
        after += float(weight * np.median(pair[1]))
        for side in (0, 1):
            drawn[side] += weight * _medians(pair[side], draws, random)
    tail = (100 - LEVEL) / 2
    low_ms, high_ms = np.percentile(drawn[1] - drawn[0], [tail, 100 - tail])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 100 * (drawn[1] / drawn[0] - 1)
    ratios = ratios[np.isfinite(ratios)]
    low, high = np.percentile(ratios, [tail, 100 - tail]) if len(ratios) else (math.nan, math.nan)
    pct = 100 * (after / before - 1) if before else math.inf if after else 0.0
    return Change(
        mode=mode,
        what=what,
        before_ms=before,
        after_ms=after,
        low_pct=float(low),
        high_pct=float(high),
        low_ms=float(low_ms),
        high_ms=float(high_ms),
        batches=(sum(len(a) for a, _ in samples), sum(len(b) for _, b in samples)),
        changed=bool(low_ms > 0 or high_ms < 0) and abs(pct) >= WORTH_PCT,
    )


def _medians(values: Floats, draws: int, random: np.random.Generator) -> Floats:
    """Medians of `draws` samples made of blocks of consecutive values; blocks wrap around."""
    import numpy as np

    size = len(values)
    block = max(1, round(size ** (1 / 3)))
    blocks = -(-size // block)
    made = np.empty(draws)
    chunk = max(1, 2_000_000 // (blocks * block))  # 16 MB at a time
    for first in range(0, draws, chunk):
        count = min(chunk, draws - first)
        starts = random.integers(0, size, (count, blocks, 1))
        places = ((starts + np.arange(block)) % size).reshape(count, -1)[:, :size]
        made[first : first + count] = np.median(values[places], axis=1)
    return made


def _values(columns: dict[str, array[float]], what: str) -> Floats:
    import numpy as np

    values = np.array(columns[what])
    known: Floats = values[~np.isnan(values)]
    return known


def _count(columns: dict[str, array[float]]) -> int:
    return len(columns["duration"])


def _size(value: int | None) -> int | None:
    if value is None or value <= _EXACT_SIZE:
        return value
    return _EXACT_SIZE + _log_range(value, 4)


def _range(value: int | None, per_octave: int) -> int | None:
    return value if value is None or value <= 0 else 1 + _log_range(value, per_octave)


def _log_range(value: int, per_octave: int) -> int:
    return math.floor(per_octave * math.log2(value))
