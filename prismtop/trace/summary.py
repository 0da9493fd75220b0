"""What a trace amounts to: percentiles of batches and stages by mode, anomalies, counters, a timeline.

Takes the frames of a session that replays the trace. Memory does not grow with the trace: beyond
`RESERVOIR` observations a distribution is a uniform sample of them (Vitter's algorithm R, fixed seed).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from prismtop.model import STAGES, Alert, Batch, Counter, Frame, ModelCard, Origin, Percentiles, Verdict
from prismtop.throughput import percentiles

_Key = TypeVar("_Key")
RESERVOIR = 50_000
BINS = 600
MS = 1e6


class Distribution:
    """Observations of one quantity."""

    def __init__(self, seed: str) -> None:
        self.count = 0
        self.total = 0.0
        self.low = float("inf")
        self.high = float("-inf")
        self.values = array("d")
        self._random = random.Random(seed)

    def add(self, value: float) -> None:
        """Take one."""
        self.count += 1
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)
        if len(self.values) < RESERVOIR:
            self.values.append(value)
            return
        place = self._random.randrange(self.count)
        if place < RESERVOIR:
            self.values[place] = value

    @property
    def mean(self) -> float | None:
        """Of all observations."""
        return self.total / self.count if self.count else None

    def percentiles(self) -> Percentiles | None:
        """p50, p95, p99; None without observations."""
        made = percentiles([(value, 1) for value in self.values])
        return None if made is None else Percentiles(self.count, made.p50, made.p95, made.p99)


@dataclass
class Bin:
    """Batches of one mode that ended in one slice of the trace; milliseconds."""

    count: int = 0
    total: float = 0.0
    low: float = float("inf")
    high: float = 0.0
    slow: int = 0
    expected: float = 0.0
    predicted: int = 0


@dataclass
class Reading:
    """One counter series.

    Attributes:
        points: (seconds since the start, value), thinned to at most twice `BINS`.
        missing: readings without a value; reason: why the last of those had none.
    """

    unit: str
    values: Distribution
    last: float | None = None
    missing: int = 0
    reason: str = ""
    points: list[tuple[float, float]] = field(default_factory=list)
    stride: int = 1


@dataclass
class Summary:
    """Figures of a whole trace; times in milliseconds unless the name says otherwise.

    Attributes:
        start_ns, end_ns: of the trace.
        modes: durations by mode.
        periods: by mode.
        stages: durations by (mode, stage).
        ttft, tpot: of requests.
        tokens, decode_tokens: None when no batch tells.
        busy_ns: time in batches, overlap counted once by period.
        slow: batches judged slow; judged: batches with a verdict.
        alerts: by id, as they stood last.
        counters: by (name, device).
        bins: timeline by mode.
        card: the model as it stood last.
    """

    start_ns: int
    end_ns: int
    batches: int = 0
    modes: dict[str, Distribution] = field(default_factory=dict)
    periods: dict[str, Distribution] = field(default_factory=dict)
    stages: dict[tuple[str, str], Distribution] = field(default_factory=dict)
    ttft: Distribution = field(default_factory=lambda: Distribution("ttft"))
    tpot: Distribution = field(default_factory=lambda: Distribution("tpot"))
    requests: int = 0
    tokens: int | None = None
    decode_tokens: int | None = None
    busy_ns: int = 0
    slow: int = 0
    judged: int = 0
    suspect: int = 0
    sampled: int = 0
    lost: int = 0
    alerts: dict[int, Alert] = field(default_factory=dict)
    counters: dict[tuple[str, str], Reading] = field(default_factory=dict)
    bins: dict[str, dict[int, Bin]] = field(default_factory=dict)
    card: ModelCard | None = None
    warnings: dict[str, None] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length of the trace."""
        return max(0.0, (self.end_ns - self.start_ns) / 1e9)

    def take(self, frame: Frame) -> None:
        """What is new in a frame."""
        for batch in frame.new_batches:
            self._batch(batch)
        for request in frame.requests:
            self.requests += 1
            if request.ttft_ns is not None:
                self.ttft.add(request.ttft_ns / MS)
            if request.tpot_ns is not None:
                self.tpot.add(request.tpot_ns / MS)
        for counter in frame.new_counters:
            self._counter(counter)
        for alert in frame.changed_alerts:
            self.alerts[alert.id] = alert
        self.card = frame.model or self.card
        self.lost = max(self.lost, frame.lost.records)
        self.warnings.update(dict.fromkeys(frame.warnings))

    def _batch(self, batch: Batch) -> None:
        self.batches += 1
        mode = batch.mode.value
        length = batch.duration_ns / MS
        self._of(self.modes, mode).add(length)
        if batch.period_ns is not None:
            self._of(self.periods, mode).add(batch.period_ns / MS)
        for stage, ns in batch.stage_ns().items():
            self._of(self.stages, (mode, stage)).add(ns / MS)
        self.busy_ns += min(batch.duration_ns, batch.period_ns or batch.duration_ns)
        tokens, decode = batch.workload.tokens, batch.workload.decode_tokens
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if decode is not None:
            self.decode_tokens = (self.decode_tokens or 0) + decode
        self.suspect += bool(batch.suspect)
        self.sampled += batch.origin is Origin.SAMPLED
        span = max(1, self.end_ns - self.start_ns)
        place = min(BINS - 1, max(0, (batch.end_ns - self.start_ns) * BINS // span))
        slot = self.bins.setdefault(mode, {}).setdefault(place, Bin())
        slot.count += 1
        slot.total += length
        slot.low, slot.high = min(slot.low, length), max(slot.high, length)
        prediction = batch.prediction
        if prediction is not None:
            if prediction.verdict is not Verdict.UNKNOWN:
                self.judged += 1
            if prediction.verdict is Verdict.SLOW:
                self.slow += 1
                slot.slow += 1
            slot.expected += prediction.expected_ns / MS
            slot.predicted += 1

    def _of(self, table: dict[_Key, Distribution], key: _Key) -> Distribution:
        made = table.get(key)
        if made is None:
            made = table[key] = Distribution(repr(key))
        return made

    def _counter(self, counter: Counter) -> None:
        reading = self.counters.get(counter.key)
        if reading is None:
            if len(self.counters) >= 5000:
                return
            reading = self.counters[counter.key] = Reading(counter.unit, Distribution(repr(counter.key)))
        if counter.value is None:
            reading.missing += 1
            reading.reason = counter.reason
            return
        reading.values.add(counter.value)
        reading.last = counter.value
        if reading.values.count % reading.stride == 0:
            reading.points.append(((counter.time_ns - self.start_ns) / 1e9, counter.value))
            if len(reading.points) > 2 * BINS:
                reading.points = reading.points[::2]
                reading.stride *= 2


def summarise(frames: Iterable[Frame], start_ns: int, end_ns: int) -> Summary:
    """The summary of every frame of a replay."""
    made = Summary(start_ns, end_ns)
    for frame in frames:
        made.take(frame)
    return made


def stages_of(summary: Summary, mode: str) -> list[str]:
    """The stages seen in a mode, in the order in which a batch passes them."""
    return [stage for stage in STAGES if (mode, stage) in summary.stages]
