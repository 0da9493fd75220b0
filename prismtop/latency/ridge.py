"""Recursive ridge regression: sufficient statistics, a prior per coefficient, forgetting.

Minimises the sum of weighted squared *relative* errors, `sum w (phi.c / y - 1)^2`, plus
`sum (noise / sd)^2 (c - mean)^2`: each coefficient has a prior `mean` with standard deviation `sd`, and
`noise` is the relative error of one row. Relative errors, because a batch of 5 ms and one of 500 ms are
equally worth being right about.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from prismtop.one_thread import ONE_THREAD

for _name, _value in ONE_THREAD.items():
    os.environ.setdefault(_name, _value)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

Vector: TypeAlias = npt.NDArray[np.float64]

NOISE = 0.01
FORGET = 0.9999


class Ridge:
    """State of one regression with `len(sds)` coefficients, which may grow.

    Attributes:
        rows: learnt from, after forgetting.
        coefficients: as of the last `solve`.
    """

    def __init__(self, sds: Sequence[float], means: Sequence[float] | None = None) -> None:
        k = len(sds)
        self.sds: Vector = np.asarray(sds, dtype=np.float64)
        self.means: Vector = np.zeros(k) if means is None else np.array(means, dtype=np.float64)
        self.gram: Vector = np.zeros((k, k))
        self.moment: Vector = np.zeros(k)
        self.coefficients: Vector = self.means.copy()
        self.rows = 0.0
        self._pending = 0
        self._rows: list[Vector] = []
        self._roots: list[float] = []

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return int(self.sds.shape[0])

    def grow(self, sds: Sequence[float]) -> None:
        """Append coefficients, prior mean 0."""
        self.flush()
        more = len(sds)
        self.sds = np.concatenate([self.sds, np.asarray(sds, dtype=np.float64)])
        self.means = np.concatenate([self.means, np.zeros(more)])
        self.coefficients = np.concatenate([self.coefficients, np.zeros(more)])
        self.moment = np.concatenate([self.moment, np.zeros(more)])
        self.gram = np.pad(self.gram, (0, more))

    def add(self, phi: Vector, target: float, weight: float = 1.0) -> None:
        """Learn one row; it counts at the next `solve`. `target` must be positive. `phi` is copied."""
        root = weight**0.5
        self._rows.append(phi * (root / target))
        self._roots.append(root)
        self.rows += weight

    def flush(self) -> None:
        """Put the rows that were added into the statistics: one product of matrices for all of them."""
        if not self._rows:
            return
        rows = np.array(self._rows)
        self.gram += rows.T @ rows
        self.moment += np.array(self._roots) @ rows
        self._pending += len(self._roots)
        self._rows.clear()
        self._roots.clear()

    def solve(self, noise: float = NOISE) -> Vector:
        """The coefficients that fit best, with rows before this solve forgotten a little.

        Args:
            noise: relative error of one row; the noisier the rows, the more the prior counts.
        """
        self.flush()
        prior = (noise / self.sds) ** 2
        system = self.gram + np.diag(prior)
        try:
            solved = np.linalg.solve(system, self.moment + prior * self.means)
            self.coefficients = np.asarray(solved, dtype=np.float64)
        except np.linalg.LinAlgError:
            pass  # keep what there is: the next rows make it solvable
        kept = FORGET**self._pending
        self.gram *= kept
        self.moment *= kept
        self.rows *= kept
        self._pending = 0
        return self.coefficients

    def discount(self, keep: float) -> None:
        """Let the rows so far count `keep` as much; the coefficients stay until the next `solve`."""
        self.flush()
        self.gram *= keep
        self.moment *= keep
        self.rows *= keep

    def finite(self) -> bool:
        """Whether every number of the state is one."""
        parts = (self.gram, self.moment, self.coefficients, self.means, self.sds)
        return all(bool(np.isfinite(part).all()) for part in parts) and bool((self.sds > 0).all())
