"""What is exported, whatever the protocol: one list of metrics and the totals behind them.

Counters keep the names of `prismtop.counters.catalogue`, with `prismtop_` in front. Latencies are histograms
with fixed bounds, so those of several engines, ranks or hours can be added up; percentiles cannot, and are
never exported.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prismtop.counters.align import is_current
from prismtop.counters.catalogue import CATALOGUE, labels_of
from prismtop.model import Alert, AttachState, Batch, Frame, Lost, Origin, Recording, Request, Verdict
from prismtop.safe_text import safe_text

PREFIX = "prismtop_"
STEP_BOUNDS_S = (
    0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
STAGE_BOUNDS_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
TOLD_NS = 10 * 10**9
"""So long what a batch told of its engine counts as present. An engine that has nothing to do runs no batch
which would say so, and its last one says that requests run."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Metric:
    """One exported metric.

    Attributes:
        name: without the endings that a protocol adds (`_total`, `_bucket`).
        kind: `gauge`, `counter` or `histogram`.
        help: one line.
        labels: names of its labels.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "prismtop_batch_duration_seconds", "histogram", "duration of a batch", ("engine", "pid", "mode")
        ),
        Metric(
            "prismtop_batch_period_seconds",
            "histogram",
            "time between two batches without an idle gap: what a token costs a decoding request",
            ("engine", "pid", "mode"),
        ),
        Metric(
            "prismtop_batch_expected_seconds",
            "histogram",
            "what the latency model expected of those batches",
            ("engine", "pid", "mode"),
        ),
        Metric(
            "prismtop_stage_duration_seconds",
            "histogram",
            "host time of one stage of a batch",
            ("engine", "mode", "stage"),
        ),
        Metric("prismtop_ttft_seconds", "histogram", "time to first token of finished requests", ("engine",)),
        Metric(
            "prismtop_tpot_seconds",
            "histogram",
            "time per output token after the first, of finished requests",
            ("engine",),
        ),
        Metric("prismtop_batches", "counter", "batches seen", ("engine", "pid", "mode", "origin")),
        Metric(
            "prismtop_slow_batches",
            "counter",
            "batches slower than the latency model allows",
            ("engine", "pid", "mode"),
        ),
        Metric("prismtop_prefill_tokens", "counter", "prompt tokens computed", ("engine",)),
        Metric("prismtop_decode_tokens", "counter", "tokens computed for generating requests", ("engine",)),
        Metric("prismtop_requests", "counter", "requests finished", ("engine",)),
        Metric(
            "prismtop_lost_records",
            "counter",
            "records overwritten before they were read",
            ("engine",),
        ),
        Metric("prismtop_alerts", "counter", "alerts opened", ("engine", "kind", "severity")),
        Metric("prismtop_open_alerts", "gauge", "alerts open now", ("engine", "kind", "severity")),
        Metric("prismtop_running_requests", "gauge", "requests running in the engine", ("engine", "pid")),
        Metric("prismtop_waiting_requests", "gauge", "requests queued", ("engine", "pid")),
        Metric("prismtop_kv_usage_ratio", "gauge", "used share of the KV cache", ("engine", "pid")),
        Metric(
            "prismtop_slo_attainment_ratio", "gauge", "share of requests that met all targets", ("engine",)
        ),
        Metric(
            "prismtop_session",
            "gauge",
            "1; the labels say what is watched and how",
            ("engine", "version", "state", "model_state"),
        ),
        Metric(
            "prismtop_counter_unavailable",
            "gauge",
            "1 for each counter that has no value; the label says why",
            ("counter", "device", "reason"),
        ),
    )
}
"""Everything but the counters, which have a metric each."""


def counter_metric(name: str) -> Metric | None:
    """The metric of a counter; None for a name that is not in the catalogue."""
    spec = CATALOGUE.get(name)
    if spec is None:
        return None
    kind = "counter" if spec.cumulative else "gauge"
    return Metric(PREFIX + name.removesuffix("_total"), kind, spec.meaning, spec.labels)


def exported_names() -> frozenset[str]:
    """Every name that a scrape can hold, with the endings of the Prometheus format."""
    names: set[str] = set()
    counters = [made for name in CATALOGUE if (made := counter_metric(name)) is not None]
    for metric in (*METRICS.values(), *counters):
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.kind, ("",))
        names.update(metric.name + ending for ending in endings)
    return frozenset(names)


@dataclass(frozen=True)
class Distribution:
    """A histogram: `counts[i]` observations up to `bounds[i]`, the last one above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True)
class Family:
    """A metric with its present series."""

    metric: Metric
    series: tuple[tuple[Labels, float | Distribution], ...]


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Totals:
    """Adds up what frames hold, as a `Sink` of a session; read by exporters in threads of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histograms: dict[tuple[str, tuple[str, ...]], _Histogram] = {}
        self._counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self._gauges: dict[tuple[str, tuple[str, ...]], float] = {}
        self._told: dict[tuple[str, tuple[str, ...]], tuple[int, float]] = {}
        self._known_alerts: set[int] = set()
        self._lost = Lost()
        self._frame: Frame | None = None

    def take(self, frame: Frame) -> Recording | None:
        """Add what is new in a frame."""
        engine = safe_text(frame.group.engine, 60)
        with self._lock:
            self._frame = frame
            for batch in frame.new_batches:
                self._batch(engine, batch)
            for request in frame.requests:
                self._request(engine, request)
            self._count("prismtop_lost_records", (engine,), frame.lost.records - self._lost.records)
            self._lost = frame.lost
            self._alerts(engine, frame.changed_alerts, frame.alerts)
            attainment = ("prismtop_slo_attainment_ratio", (engine,))
            self._gauges.pop(attainment, None)
            if frame.slo is not None and frame.slo.attainment is not None:
                self._gauges[attainment] = frame.slo.attainment
        return None

    def close(self) -> tuple[str, ...]:
        """Nothing is left behind."""
        return ()

    def families(self, now_ns: int) -> list[Family]:
        """Every metric that has a series now; counters and what batches tell only while they are current."""
        with self._lock:
            frame = self._frame
            made: dict[str, list[tuple[Labels, float | Distribution]]] = {}
            told = {key: value for key, (_, value) in self._told.items() if self._present(key, now_ns)}
            for (name, values), total in (*self._counts.items(), *self._gauges.items(), *told.items()):
                made.setdefault(name, []).append((_labels(name, values), total))
            for (name, values), histogram in self._histograms.items():
                shown = Distribution(histogram.bounds, tuple(histogram.counts), histogram.sum)
                made.setdefault(name, []).append((_labels(name, values), shown))
        families = [Family(METRICS[name], tuple(series)) for name, series in made.items()]
        return families if frame is None else [*families, _session(frame), *_counters(frame, now_ns)]

    def _present(self, key: tuple[str, tuple[str, ...]], now_ns: int) -> bool:
        """Whether what a batch told still holds: it is recent, or nothing was left to do in a live engine."""
        if now_ns - self._told[key][0] <= TOLD_NS:
            return True
        left = [
            self._told.get((name, key[1]), (0, None))[1]
            for name in ("prismtop_running_requests", "prismtop_waiting_requests")
        ]
        live = self._frame is not None and self._frame.state is AttachState.LIVE
        return live and left[0] == 0 and not left[1]

    def _batch(self, engine: str, batch: Batch) -> None:
        pid, mode = str(batch.pid), batch.mode.value
        self._count("prismtop_batches", (engine, pid, mode, batch.origin.value), 1)
        work = batch.workload
        self._count("prismtop_prefill_tokens", (engine,), work.prefill_tokens)
        self._count("prismtop_decode_tokens", (engine,), work.decode_tokens)
        for name, value in (
            ("prismtop_running_requests", work.running),
            ("prismtop_waiting_requests", work.waiting),
            ("prismtop_kv_usage_ratio", work.kv_usage),
        ):
            if value is not None:
                self._told[name, (engine, pid)] = (batch.end_ns, float(value))
        if batch.origin is Origin.SAMPLED:
            return  # its duration is a mean of many: no observation
        key = (engine, pid, mode)
        self._observe("prismtop_batch_duration_seconds", key, batch.duration_ns)
        if batch.period_ns is not None:
            self._observe("prismtop_batch_period_seconds", key, batch.period_ns)
        for stage, duration_ns in batch.stage_ns().items():
            self._observe("prismtop_stage_duration_seconds", (engine, mode, stage), duration_ns)
        if batch.prediction is not None:
            self._observe("prismtop_batch_expected_seconds", key, batch.prediction.expected_ns)
            slow = batch.prediction.verdict is Verdict.SLOW
            self._count("prismtop_slow_batches", key, int(slow))

    def _request(self, engine: str, request: Request) -> None:
        self._count("prismtop_requests", (engine,), 1)
        if request.ttft_ns is not None:
            self._observe("prismtop_ttft_seconds", (engine,), request.ttft_ns)
        if request.tpot_ns is not None:
            self._observe("prismtop_tpot_seconds", (engine,), request.tpot_ns)

    def _alerts(self, engine: str, changed: Iterable[Alert], alerts: Iterable[Alert]) -> None:
        for alert in changed:
            if alert.id not in self._known_alerts:
                self._known_alerts.add(alert.id)
                self._count("prismtop_alerts", (engine, alert.kind, alert.severity.value), 1)
        for key in [key for key in self._gauges if key[0] == "prismtop_open_alerts"]:
            self._gauges[key] = 0.0
        for alert in alerts:
            if alert.closed_ns is None:
                key = ("prismtop_open_alerts", (engine, alert.kind, alert.severity.value))
                self._gauges[key] = self._gauges.get(key, 0.0) + 1

    def _count(self, name: str, values: tuple[str, ...], more: float | None) -> None:
        if more is not None:
            key = (name, values)
            self._counts[key] = self._counts.get(key, 0.0) + more

    def _observe(self, name: str, values: tuple[str, ...], ns: int) -> None:
        histogram = self._histograms.get((name, values))
        if histogram is None:
            bounds = STAGE_BOUNDS_S if name == "prismtop_stage_duration_seconds" else STEP_BOUNDS_S
            histogram = self._histograms[name, values] = _Histogram(bounds)
        histogram.add(ns / 1e9)


def _labels(name: str, values: tuple[str, ...]) -> Labels:
    return tuple(zip(METRICS[name].labels, values, strict=True))


@lru_cache(maxsize=8192)
def _series(name: str, device: str) -> Labels:
    return tuple((label, safe_text(value, 80)) for label, value in labels_of(name, device).items())


def _session(frame: Frame) -> Family:
    group = frame.group
    values = (
        safe_text(group.engine, 60),
        safe_text(group.version or "", 60),
        frame.state.value,
        frame.model.state.value if frame.model else "",
    )
    return Family(METRICS["prismtop_session"], ((_labels("prismtop_session", values), 1.0),))


def _counters(frame: Frame, now_ns: int) -> Iterable[Family]:
    series: dict[str, list[tuple[Labels, float | Distribution]]] = {}
    gaps: list[tuple[Labels, float | Distribution]] = []
    for counter in frame.counters:
        if counter.value is None:
            values = (counter.name, safe_text(counter.device, 80), safe_text(counter.reason, 160))
            gaps.append((_labels("prismtop_counter_unavailable", values), 1.0))
        elif is_current(counter, now_ns):
            series.setdefault(counter.name, []).append((_series(counter.name, counter.device), counter.value))
    for name, found in series.items():
        metric = counter_metric(name)
        if metric is not None:
            yield Family(metric, tuple(found))
    if gaps:
        yield Family(METRICS["prismtop_counter_unavailable"], tuple(gaps))
