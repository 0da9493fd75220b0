"""What a batch with prefill costs: a small physical regression at once, trees over its residuals later.

The regression starts from what the decoding requests of the batch would have cost alone (the decode model's
word) and adds an intercept, a piecewise linear cost of the prefill tokens, their attention, and each new
request. From `FIRST_TREES` rows on, trees learn the logarithm of what is left; they are published only if
they are better than the regression on rows that neither has seen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from prismtop.latency.decode import KV_SCALE, SIZE_SCALE, TYPICAL
from prismtop.latency.features import Features
from prismtop.latency.ridge import Ridge, Vector
from prismtop.latency.trees import Background, Forest, learn, learn_apart

KNEES = (128.0, 256.0, 512.0, 1024.0, 2048.0)
SDS = (30.0, 12.0, 100.0, *(60.0,) * len(KNEES), 60.0, 10.0, 20.0, 20.0)
MEANS = (0.0, TYPICAL, 0.0, *(0.0,) * len(KNEES), 0.0, 0.0, 0.0, 0.0)
FIRST_TREES = 200
REFIT_EVERY = 4000
KEPT = 4000
HELD_OUT = 5
"""One row in five is held out of a fit, to say whether the fit is better."""
CLIP = 1.5
NOISE_ROWS = 300
LEVEL_TOKENS = 32
NEAR = 0.3
"""Distance (doublings of tokens) within which batches tell of each other."""


class Row(NamedTuple):
    """One learnt batch."""

    phi: Vector
    features: tuple[float, ...]
    target_ns: float


class Published(NamedTuple):
    """Trees and the coefficients whose residuals they learnt: swapped as one.

    Attributes:
        residuals: log residuals of the held-out rows.
        error: their median size.
    """

    coefficients: Vector
    forest: Forest
    residuals: tuple[float, ...]
    error: float


class Neighbours:
    """How far off the regression was for batches of about the same shape: kernels jump where no line does.

    Keeps the latest `FIRST_TREES` rows as arrays: making those anew for each batch took most of its time.
    """

    def __init__(self, size: int) -> None:
        self._shapes = np.zeros((FIRST_TREES, 3))
        self._phis = np.zeros((FIRST_TREES, size))
        self._targets = np.ones(FIRST_TREES)
        self._added = 0

    def add(self, row: Row) -> None:
        """Take a learnt row; the oldest leaves."""
        at = self._added % FIRST_TREES
        self._shapes[at] = np.log2(1.0 + np.array(row.features[:3]))
        self._phis[at] = row.phi
        self._targets[at] = row.target_ns
        self._added += 1

    def clear(self) -> None:
        """Forget all rows."""
        self._added = 0

    def factor(self, features: Features, coefficients: Vector) -> float:
        """What to multiply the regression's word with; its `coefficients` give ns."""
        n = min(self._added, FIRST_TREES)
        if not n:
            return 1.0
        targets = self._targets[:n]
        expected = self._phis[:n] @ coefficients
        left = np.log(targets / np.maximum(expected, targets.min() / 5)).clip(-CLIP, CLIP)
        shape = np.log2(1.0 + np.array(tree_features(features)[:3]))
        weights = np.exp(((self._shapes[:n] - shape) ** 2).sum(axis=1) * (-1 / NEAR**2))
        total = float(weights.sum())
        return math.exp(float(weights @ left) / (total + 0.1)) if total > 1e-3 else 1.0


class MixedModel:
    """Online model of one regime with prefill.

    Attributes:
        seen: rows offered to `learn`.
        published: the trees in use; None while the regression stands alone.
        refits: fits of trees that ended, published or not.
        solves: how often the regression was solved.
    """

    def __init__(self, background: Background) -> None:
        self.ridge = Ridge(SDS, MEANS)
        self.seen = 0
        self.unit_ns = 0.0
        self.published: Published | None = None
        self.refits = 0
        self.solves = 0
        self._background = background
        self._rows: deque[Row] = deque(maxlen=KEPT)
        self._next_fit = FIRST_TREES
        self._near = Neighbours(self.ridge.size)
        self._unsolved = 0
        self.floor_ns = 0.0

    @property
    def trained(self) -> bool:
        """Whether it can predict."""
        return self.unit_ns > 0.0

    @staticmethod
    def bucket(features: Features) -> int:
        """Batches of about the same number of tokens share a level: kernels jump at some numbers of them."""
        return ((features.prefill or 0) + (features.size or 0)) // LEVEL_TOKENS

    def phi(self, features: Features, decode_ns: float) -> Vector:
        """The regression's row; `decode_ns` is what the decoding requests would have cost, 0 without any."""
        prefill = float(features.prefill or 0)
        values = [1.0, decode_ns / self.unit_ns / TYPICAL, prefill / 1000.0]
        values += [max(0.0, prefill - knee) / 1000.0 for knee in KNEES]
        values += [
            features.attention / 1e6,
            float(min(features.new, 8)),
            (features.context or 0) / KV_SCALE,
            (features.size or 0) / SIZE_SCALE,
        ]
        return np.array(values)

    def regression(self, phi: Vector, decode_ns: float) -> float:
        """Expected ns from the regression alone, never below half of the decoding requests' cost."""
        expected = float(phi @ self.ridge.coefficients) * self.unit_ns
        return max(expected, decode_ns / 2, self.floor_ns)

    def predict(self, features: Features, decode_ns: float) -> float | None:
        """Expected ns; None before the first row."""
        if not self.unit_ns:
            return None
        phi = self.phi(features, decode_ns)
        trees = self.published
        if trees is None:
            return self.regression(phi, decode_ns) * self._near.factor(
                features, self.ridge.coefficients * self.unit_ns
            )
        expected = float(phi @ trees.coefficients) * self.unit_ns
        expected = max(expected, decode_ns / 2, self.floor_ns)
        left = trees.forest.value(tree_features(features))
        return expected * math.exp(max(-CLIP, min(CLIP, left)))

    def learn(
        self, features: Features, decode_ns: float, target_ns: float, weight: float, noise: float
    ) -> None:
        """Take one row; see `DecodeModel.learn`."""
        self.seen += 1
        if not self.unit_ns:
            self.unit_ns = (decode_ns or target_ns) / TYPICAL
        phi = self.phi(features, decode_ns)
        self.floor_ns = min(self.floor_ns or target_ns / 5, target_ns / 5)
        self.ridge.add(phi, target_ns / self.unit_ns, weight)
        self._unsolved += 1
        if self._unsolved >= 5 or self.seen < 50:
            self.ridge.solve(noise)
            self.solves += 1
            self._unsolved = 0
        row = Row(phi, tree_features(features), target_ns)
        self._rows.append(row)
        self._near.add(row)
        if self.seen >= self._next_fit and self._background.run(self._job()):
            self._next_fit = self.seen + min(self.seen // 2, REFIT_EVERY)

    def rescale(self, factor: float, keep: float) -> None:
        """See `DecodeModel.rescale`. Rows of the old regime are dropped; trees are learnt again."""
        self.ridge.discount(keep)
        self.unit_ns *= factor
        self.floor_ns *= factor
        self._rows.clear()
        self._near.clear()
        self._next_fit = self.seen + FIRST_TREES

    def forget_rows(self) -> None:
        """Drop the rows kept for the next fit."""
        self._rows.clear()
        self._near.clear()

    def take_over(self, ridge: Ridge, unit_ns: float, floor_ns: float) -> None:
        """Go on from what another model of the same form had learnt."""
        self.ridge, self.unit_ns, self.floor_ns = ridge, unit_ns, floor_ns

    def _job(self) -> Callable[[], None]:
        rows, unit = list(self._rows), self.unit_ns
        coefficients = self.ridge.coefficients.copy()
        learner = learn if self._background.inline else learn_apart

        def fit() -> None:
            made = fitted(rows, coefficients, unit, learner)
            self.refits += 1
            if made is not None:
                self.published = made

        return fit


def tree_features(features: Features) -> tuple[float, ...]:
    """What the trees split on."""
    size, prefill = float(features.size or 0), float(features.prefill or 0)
    return (
        size + prefill,
        size,
        prefill,
        float(features.context or 0),
        features.attention,
        float(features.new),
        float(features.cached),
    )


def fitted(
    rows: list[Row], coefficients: Vector, unit_ns: float, learner: Callable[[Vector, Vector], Forest]
) -> Published | None:
    """Trees over the regression's residuals; None when they are no better on the rows held out."""
    phi = np.array([row.phi for row in rows])
    inputs = np.array([row.features for row in rows])
    targets = np.array([row.target_ns for row in rows])
    expected = np.maximum(phi @ coefficients * unit_ns, targets.min() / 5)
    left = np.clip(np.log(targets / expected), -CLIP, CLIP)
    held = np.arange(len(rows)) % HELD_OUT == HELD_OUT - 1
    forest = learner(inputs[~held], left[~held])
    residuals = left[held] - np.array([forest.value(row) for row in inputs[held].tolist()])
    error = float(np.median(np.abs(residuals)))
    if error >= float(np.median(np.abs(left[held]))):
        return None
    return Published(coefficients, forest, tuple(residuals[-NOISE_ROWS:].tolist()), error)
