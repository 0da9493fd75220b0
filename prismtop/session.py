"""The session: source -> model -> sinks. The only place that holds state over time."""

from __future__ import annotations

import time
from collections import deque

from prismtop.model import Batch, Frame, Group
from prismtop.sources.tick import Source
from prismtop.throughput import Window

CPU_PERIOD_S = 5.0


class Session:
    """Polls a source and turns what is new into frames.

    Not thread safe: one owner calls `tick`, usually ten to twenty-five times a second.

    Args:
        history: batches kept in `Frame.batches`.
        window_s: seconds over which rates and percentiles are taken.
        figures: False leaves `Frame.throughput` out, for sinks that print new batches only.
    """

    def __init__(
        self, source: Source, *, history: int = 512, window_s: float = 10.0, figures: bool = True
    ) -> None:
        self._source = source
        self._history: deque[Batch] = deque(maxlen=history)
        self._latest: tuple[Batch, ...] = ()
        self._window = Window(window_s) if figures else None
        self._total = 0
        self._notes: tuple[str, ...] | None = None
        self._cpu = _OwnCpu()

    @property
    def group(self) -> Group:
        """The engine instance watched."""
        return self._source.group

    def tick(self) -> Frame:
        """Poll, aggregate, and return what a screen or an export needs."""
        tick = self._source.poll()
        if tick.batches:
            self._history.extend(tick.batches)
            self._latest = tuple(self._history)
            self._total += len(tick.batches)
        if self._window:
            self._window.add(tick.batches, tick.first_tokens, tick.requests)
        return Frame(
            time_ns=tick.time_ns,
            clock=self._source.clock,
            group=self._source.group,
            state=tick.state,
            note=tick.note,
            new_batches=tick.batches,
            batches=self._latest,
            requests=tick.requests,
            throughput=self._window.throughput(tick.time_ns) if self._window else None,
            hooks=tick.hooks,
            costs=tick.costs,
            lost=tick.lost,
            metrics=tick.metrics,
            total_batches=self._total,
            monitor_cpu=self._cpu.share(),
            warnings=tick.warnings,
            target_states=dict(tick.target_states),
        )

    def close(self) -> tuple[str, ...]:
        """Let go of the target; sentences about what is still there. Idempotent."""
        if self._notes is None:
            self._notes = self._source.close()
        return self._notes


class _OwnCpu:
    """prismtop's own CPU, as a fraction of one core over the last seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque([(time.monotonic(), time.process_time())])
        self._share: float | None = None

    def share(self) -> float | None:
        now = time.monotonic()
        if now - self._marks[-1][0] > 0.5:
            self._marks.append((now, time.process_time()))
            while len(self._marks) > 2 and now - self._marks[1][0] > CPU_PERIOD_S:
                self._marks.popleft()
            (since, before), (until, after) = self._marks[0], self._marks[-1]
            self._share = (after - before) / (until - since) if until - since > 0.9 else None
        return self._share
