"""Regression trees that are learnt with scikit-learn and walked without it.

scikit-learn's histogram trees take 1.8 ms for one row (shared/latency-model.md A7); the same trees as nested
tuples take about 10 us. Importing scikit-learn costs about a second of CPU and 100 MB, and a fit in a thread
holds up the others for up to 0.2 s, so a monitor learns trees in a process of its own that ends afterwards:
`python -m prismtop.latency.trees`, rows and targets as an .npy file on stdin, the trees as JSON on stdout.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from prismtop.latency.ridge import Vector
from prismtop.one_thread import ONE_THREAD

Node: TypeAlias = "float | tuple[int, float, Node, Node]"
"""A leaf's value, or (feature, threshold, if at most, else)."""

TREES = 50
LEAVES = 8
LEARNING_RATE = 0.12
APART_TIMEOUT_S = 120.0


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


def learn_apart(rows: Vector, targets: Vector) -> Forest:
    """As `learn`, in a process of its own that gives way to all others.

    Raises:
        RuntimeError: it ended without an answer; the sentence holds its last line.
        OSError, subprocess.TimeoutExpired: it could not be started, or took too long and was killed.
    """
    import numpy as np

    table = io.BytesIO()
    np.save(table, np.column_stack([rows, targets]), allow_pickle=False)
    done = subprocess.run(
        [sys.executable, "-m", "prismtop.latency.trees"],
        input=table.getvalue(),
        capture_output=True,
        env={**os.environ, **ONE_THREAD},
        timeout=APART_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RuntimeError(said[-1] if said else f"exit status {done.returncode}")
    base, trees = json.loads(done.stdout)
    return Forest(base, [_node(tree) for tree in trees])


def _node(made: Any) -> Node:
    """A tree from JSON, where a tuple is a list."""
    if isinstance(made, list):
        feature, threshold, low, high = made
        return feature, threshold, _node(low), _node(high)
    return float(made)


def main() -> None:
    """The process of `learn_apart`."""
    import numpy as np

    os.nice(19)
    table = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    forest = learn(table[:, :-1], table[:, -1])
    json.dump([forest.base, forest.trees], sys.stdout)


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
        inline: see above.
    """

    def __init__(self, *, inline: bool = False) -> None:
        self.failure = ""
        self.inline = inline
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def run(self, job: Callable[[], None]) -> bool:
        """Start `job`; False when one still runs. A job that raises changes nothing but `failure`."""
        if self.busy:
            return False
        if self.inline:
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


if __name__ == "__main__":
    main()
