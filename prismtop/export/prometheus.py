"""/metrics for Prometheus, through prometheus-client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prismtop.errors import UnavailableError, UsageError
from prismtop.export.metrics import Distribution, Family, Totals

if TYPE_CHECKING:
    from prometheus_client.core import Metric as PrometheusMetric

DEFAULT_ADDRESS = ":9777"


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of `:9777`, `9777`, `0.0.0.0:9777` or `[::]:9777`; without a host the loopback address.

    Raises:
        UsageError: anything else.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"{text!r} is no address to listen on.", fix="Use :9777, or 0.0.0.0:9777.")
    return host or "127.0.0.1", int(port)


class Exposition:
    """A collector for a registry of prometheus-client: the totals, as they are at the scrape."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[PrometheusMetric]:
        """Everything that has a series now."""
        for family in self._totals.families(time.monotonic_ns()):
            yield _converted(family)

    def describe(self) -> tuple[()]:
        """Nothing in advance: what there is depends on the machine and the engine."""
        return ()


class Scrapes:
    """A server in threads of its own; each scrape shows the totals as they are.

    Args:
        totals: what is shown.
        host: address to listen on.
        port: 0 takes a free one.

    Raises:
        UnavailableError: the address cannot be listened on.
    """

    def __init__(self, totals: Totals, host: str, port: int) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(Exposition(totals))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {host} port {port}: {error.strerror or error}.",
                fix="Choose another with --prometheus HOST:PORT; port 0 takes a free one.",
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _converted(family: Family) -> PrometheusMetric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    metric = family.metric
    if metric.kind == "histogram":
        made = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in family.series:
            if isinstance(value, Distribution):
                made.add_metric([text for _, text in labels], _buckets(value), value.sum)
        return made
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    other = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in family.series:
        if not isinstance(value, Distribution):
            other.add_metric([text for _, text in labels], value)
    return other


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as the format has them."""
    made, total = [], 0
    for bound, count in zip((*value.bounds, None), value.counts, strict=True):
        total += count
        made.append(("+Inf" if bound is None else repr(bound), float(total)))
    return made
