"""What a decode batch costs: a physical regression, exact for the padded size and linear in the KV read.

    ms = a + b size + c padded + d kv + sum of steps(padded > 2, 4, 8, ...) + per bucket (alpha + beta kv)

A bucket is a padded batch size. The steps are the tiles of matrix kernels, which cost the same up to their
edge. Measured against gradient-boosted trees in shared/latency-model.md A2 and A4: as good with a tenth of
the rows. For one batch size the model is a line in `kv`, so a prediction is a look-up and one product.
"""

from __future__ import annotations

import numpy as np

from prismtop.latency.padding import Schedule
from prismtop.latency.ridge import Ridge, Vector

TILES = (2, 4, 8, 16, 24, 32, 64, 96, 128, 256, 512)
BASE = 4
FIXED = BASE + len(TILES)
TYPICAL = 30.0
"""Targets are scaled so that a typical batch is 30: the priors below are in that unit (ms, on an A100)."""
SDS = (60.0, 60.0, 60.0, 30.0, *(8.0,) * len(TILES))
BUCKET_SDS = (3.0, 4.0)
KV_SCALE = 5e4
SIZE_SCALE = 128.0
FIRST_ROWS = 3
SOLVE_EVERY_EARLY, SOLVE_EVERY = 10, 30
SETTLED_ROWS = 300
SOLVE_EACH_UNTIL = 20
MAX_BUCKETS = 80
_NO_SIZE = 0


class DecodeModel:
    """Online model of one regime without prefill.

    Attributes:
        schedule: how batch sizes are padded.
        ridge: the regression.
        seen: rows offered to `learn`.
        solves: how often the regression was solved.
        largest: the largest batch size learnt from.
        unit_ns: what 1 is in the regression; 0 before the first rows.
        buckets: where each bucket's coefficients stand.
        floor_ns: no prediction is below it.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.ridge = Ridge(SDS)
        self.seen = 0
        self.solves = 0
        self.largest = 0
        self.unit_ns = 0.0
        self.buckets: dict[int, int] = {}
        self._first: list[tuple[int, int, float]] = []
        self._lines: dict[int, tuple[float, float]] = {}
        self._rows: dict[int, Vector] = {}
        self._unsolved = 0
        self.floor_ns = 0.0

    @property
    def trained(self) -> bool:
        """Whether it can predict."""
        return self.unit_ns > 0.0

    def bucket(self, size: int | None) -> int:
        """The bucket of a batch of `size` requests; 0 when the size is unknown."""
        return self.schedule.pad(size) if size else _NO_SIZE

    def predict(self, size: int | None, context: int | None) -> float | None:
        """Expected ns; None before the first rows. Never below a fifth of the least that was learnt."""
        if not self.unit_ns:
            return None
        size = size or 0
        line = self._lines.get(size)
        if line is None:
            line = self._lines[size] = self._line(size)
        expected = line[0] + line[1] * (context or 0)
        return expected if expected > self.floor_ns else self.floor_ns

    def learn(
        self,
        size: int | None,
        context: int | None,
        target_ns: float,
        weight: float,
        noise: float,
        *,
        at_once: bool = False,
    ) -> None:
        """Take one row.

        Args:
            target_ns: what the batch took; positive.
            weight: 0 to 1; rows in doubt count less.
            noise: relative error of a row, as known so far.
            at_once: predict with it from the next batch on, and not when some more have come.
        """
        self.seen += 1
        size, context = size or 0, context or 0
        if not self.unit_ns:
            self._first.append((size, context, target_ns))
            if len(self._first) < FIRST_ROWS:
                return
            self.unit_ns = sorted(row[2] for row in self._first)[FIRST_ROWS // 2] / TYPICAL
            first, self._first = self._first, []
            for row in first:
                self._add(*row, weight=1.0)
        else:
            self._add(size, context, target_ns, weight)
        self._unsolved += 1
        every = SOLVE_EVERY if self.seen > SETTLED_ROWS else SOLVE_EVERY_EARLY
        if at_once or self._unsolved >= every or self.ridge.rows < SOLVE_EACH_UNTIL:
            self.ridge.solve(noise)
            self.solves += 1
            self._lines.clear()
            self._unsolved = 0

    def rescale(self, factor: float, keep: float) -> None:
        """The engine became `factor` times as slow: what was learnt is calibrated, and counts `keep`.

        It is the unit that changes. Coefficients and their priors are in that unit and stay what they are,
        however often this happens.
        """
        self.ridge.discount(keep)
        self.unit_ns *= factor
        self.floor_ns *= factor
        self._lines.clear()

    def forget_lines(self) -> None:
        """The regression was solved from outside: make the lines anew."""
        self._lines.clear()

    def take_over(
        self, ridge: Ridge, unit_ns: float, floor_ns: float, largest: int, buckets: dict[int, int]
    ) -> None:
        """Go on from what another model of the same form had learnt."""
        self.ridge, self.unit_ns, self.floor_ns = ridge, unit_ns, floor_ns
        self.largest, self.buckets = largest, dict(buckets)
        self._lines.clear()
        self._rows.clear()

    def _add(self, size: int, context: int, target_ns: float, weight: float) -> None:
        if target_ns / 5 < self.floor_ns or not self.floor_ns:
            self.floor_ns = target_ns / 5
        self.largest = max(self.largest, size)
        bucket = self.bucket(size)
        if bucket not in self.buckets and len(self.buckets) < MAX_BUCKETS and bucket != _NO_SIZE:
            self.buckets[bucket] = self.ridge.size
            self.ridge.grow(BUCKET_SDS)
            self._rows.clear()
            self._lines.clear()
        row = self._rows.get(size)
        if row is None:
            row = self._rows[size] = self._row(size)
        kv = context / KV_SCALE
        row[3] = kv
        at = self.buckets.get(bucket)
        if at is not None:
            row[at + 1] = kv
        self.ridge.add(row, target_ns / self.unit_ns, weight)

    def _row(self, size: int) -> Vector:
        """The regression's row for `size`, without what depends on the KV read."""
        row = np.zeros(self.ridge.size)
        padded = self.bucket(size)
        row[0] = 1.0
        row[1] = size / SIZE_SCALE
        row[2] = padded / SIZE_SCALE
        for n, tile in enumerate(TILES):
            row[BASE + n] = padded > tile
        at = self.buckets.get(padded)
        if at is not None:
            row[at] = 1.0
        return row

    def _line(self, size: int) -> tuple[float, float]:
        """Intercept in ns and slope in ns per token of context, for batches of `size`."""
        weights = self.ridge.coefficients
        row = self._row(size)
        slope = float(weights[3])
        at = self.buckets.get(self.bucket(size))
        if at is not None:
            slope += float(weights[at + 1])
        return float(row @ weights) * self.unit_ns, slope / KV_SCALE * self.unit_ns
