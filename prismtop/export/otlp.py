"""Metrics by OTLP over HTTP, through the OpenTelemetry SDK (`pip install 'prismtop[otlp]'`)."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from prismtop.errors import UnavailableError
from prismtop.export.metrics import Distribution, Family, Totals

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric as SdkMetric

INTERVAL_S = 10.0
_UNITS = {
    "bytes_per_s": "By/s",
    "per_s": "1/s",
    "bytes": "By",
    "celsius": "Cel",
    "mhz": "MHz",
    "ratio": "1",
    "seconds": "s",
    "watts": "W",
}
"""Codes of UCUM by the ending of a name, longest first; what is a plain number has none."""


class Pushes:
    """Sends the totals every `interval_s` seconds, from a thread of its own.

    Our histograms are sent as they are: the SDK's own aggregation would need every observation again.

    Args:
        totals: what is sent.
        url: of the collector; `/v1/metrics` is added when it has no path.
        interval_s: seconds between two pushes.
        timeout_s: seconds that one push may take.

    Raises:
        UnavailableError: the OpenTelemetry SDK is not installed.
    """

    def __init__(
        self, totals: Totals, url: str, interval_s: float = INTERVAL_S, timeout_s: float = 5.0
    ) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics.export import MetricExportResult
        except ImportError:
            raise UnavailableError(
                "the OpenTelemetry SDK is not installed.", fix="Run `pip install 'prismtop[otlp]'`."
            ) from None
        # The exporter logs every failed push; how many there were is said once, at the end.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        logging.getLogger("opentelemetry").propagate = False
        self.url = _endpoint(url)
        self._totals = totals
        self._interval_s = interval_s
        self._exporter = OTLPMetricExporter(endpoint=self.url, timeout=timeout_s)
        self._success = MetricExportResult.SUCCESS
        self._started_ns = time.time_ns()
        self._ended = threading.Event()
        self.sent = 0
        self.failed = 0
        """Pushes that reached the collector, and those that did not."""
        self._thread = threading.Thread(target=self._run, name="prismtop-otlp", daemon=True)
        self._thread.start()

    def push(self) -> bool:
        """Send once; whether the collector took it."""
        try:
            result = self._exporter.export(self._data())
        except Exception:  # the exporter's HTTP client may raise anything; the next push tries again
            result = None
        done = result is self._success
        self.sent += done
        self.failed += not done
        return done

    def close(self) -> None:
        """Send a last time, then end the thread."""
        self._ended.set()
        self._thread.join(timeout=10)
        self.push()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self.push()

    def _data(self) -> Any:
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from prismtop import __version__

        now = time.time_ns()
        families = self._totals.families(time.monotonic_ns())
        metrics = [_converted(family, self._started_ns, now) for family in families]
        scope = ScopeMetrics(InstrumentationScope("prismtop", __version__), metrics, "")
        resource = Resource.create({"service.name": "prismtop"})
        return MetricsData([ResourceMetrics(resource, [scope], "")])


def _endpoint(url: str) -> str:
    from urllib.parse import urlsplit

    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1/metrics"


def _converted(family: Family, started_ns: int, now_ns: int) -> SdkMetric:
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        HistogramDataPoint,
        Metric,
        NumberDataPoint,
        Sum,
    )

    metric = family.metric
    data: Any
    if metric.kind == "histogram":
        points = [
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=sum(value.counts),
                sum=value.sum,
                bucket_counts=list(value.counts),
                explicit_bounds=list(value.bounds),
                min=cast(float, None),  # not known: the message's fields are optional, and it takes None
                max=cast(float, None),
            )
            for labels, value in family.series
            if isinstance(value, Distribution)
        ]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
    else:
        numbers = [
            NumberDataPoint(dict(labels), started_ns, now_ns, value)
            for labels, value in family.series
            if not isinstance(value, Distribution)
        ]
        if metric.kind == "counter":
            data = Sum(numbers, AggregationTemporality.CUMULATIVE, True)
        else:
            data = Gauge(numbers)
    unit = next((code for ending, code in _UNITS.items() if metric.name.endswith("_" + ending)), "")
    return Metric(metric.name, metric.help, unit, data)
