"""Regression trees that are learnt with scikit-learn and walked without it.

scikit-learn's histogram trees take 1.8 ms for one row (shared/latency-model.md A7); the same trees as nested
tuples take about 10 us. Importing scikit-learn costs about a second of CPU, so it is imported when the first
trees are learnt, by the thread that learns them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from prismtop.latency.ridge import Vector

Node: TypeAlias = "float | tuple[int, float, Node, Node]"
"""A leaf's value, or (feature, threshold, if at most, else)."""

TREES = 50
LEAVES = 8
LEARNING_RATE = 0.12


class Forest:
    """A sum of trees."""

    def __init__(self, base: float, trees: Sequence[Node]) -> None:
        self.base = base
        self.trees = tuple(trees)

    def value(self, row: Sequence[float]) -> float:
        """The sum for one row of features."""
        total = self.base
        for node in self.trees:
            while isinstance(node, tuple):
                node = node[2] if row[node[0]] <= node[1] else node[3]
            total += node
        return total


def learn(rows: Vector, targets: Vector) -> Forest:
    """Trees with the least absolute error (the median is robust to anomalies that slipped in).

    Args:
        rows: [n, features], finite.
        targets: [n].
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=TREES,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=max(5, min(20, len(targets) // 40)),
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(limits=1):
        model.fit(rows, targets)
    return _flattened(model)


def _flattened(model: Any) -> Forest:
    """scikit-learn has no public form of these trees; `_predictors` has been the same since 0.21, and a test
    compares the walk with `predict`.
    """

    def node(nodes: Any, at: int) -> Node:
        entry = nodes[at]
        if entry["is_leaf"]:
            return float(entry["value"])
        return (
            int(entry["feature_idx"]),
            float(entry["num_threshold"]),
            node(nodes, int(entry["left"])),
            node(nodes, int(entry["right"])),
        )

    trees = [node(stage[0].nodes, 0) for stage in model._predictors]
    return Forest(float(model._baseline_prediction.ravel()[0]), trees)


class Background:
    """Runs one job at a time in a thread; with `inline`, at once (for files, so that answers repeat).

    Attributes:
        failure: why the last job that failed did; empty before.
    """

    def __init__(self, *, inline: bool = False) -> None:
        self.failure = ""
        self._inline = inline
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def run(self, job: Callable[[], None]) -> bool:
        """Start `job`; False when one still runs. A job that raises changes nothing but `failure`."""
        if self.busy:
            return False
        if self._inline:
            self._guarded(job)
            return True
        self._thread = threading.Thread(target=self._guarded, args=(job,), name="prismtop-refit", daemon=True)
        self._thread.start()
        return True

    def wait(self, seconds: float) -> None:
        """Give a running job that long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except ImportError as error:
            self.failure = f"{error.name or 'a package'} is not installed"
        except Exception as error:  # a thread's exception reaches nobody: it is said as a warning
            self.failure = f"{type(error).__name__}: {error}"
