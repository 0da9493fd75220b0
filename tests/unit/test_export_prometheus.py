"""What is exported: names, histograms that can be merged, a scrape over HTTP, and a push by OTLP."""

from __future__ import annotations

import json
import math
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from prismtop.counters.catalogue import CATALOGUE
from prismtop.counters.clock_limits import CLOCK_LIMITS, HARMFUL
from prismtop.errors import UnavailableError, UsageError
from prismtop.export.metrics import METRICS, STEP_BOUNDS_S, TOLD_NS, Distribution, Totals, exported_names
from prismtop.export.otlp import Pushes
from prismtop.export.prometheus import Exposition, Scrapes, parse_address
from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Counter,
    Frame,
    Lost,
    Mode,
    Origin,
    Prediction,
    Request,
    Severity,
    SloStatus,
    SloTargets,
    Verdict,
    Workload,
)
from tests.factories import MS, make_batch, make_frame

DASHBOARD = Path(__file__).resolve().parent.parent.parent / "examples" / "grafana-prismtop.json"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def full_frame(**changes: object) -> Frame:
    """Everything that is exported, once."""
    now = time.monotonic_ns()
    prediction = Prediction(7 * MS, 6 * MS, 9 * MS, verdict=Verdict.SLOW)
    batches = (
        make_batch(0, now, duration_ns=8 * MS, prediction=prediction),
        make_batch(1, now, mode=Mode.PREFILL, duration_ns=80 * MS, period_ns=None),
        make_batch(2, now, origin=Origin.SAMPLED),
    )
    alert = Alert(1, "spike", Severity.CRITICAL, now, now, 4242, 0, 0, 1, MS, "slow")
    counters = (
        Counter("gpu_busy_ratio", "gpu 0", "ratio", now, 0.75),
        Counter("gpu_xid_errors_total", "gpu 0", "count", now, 3.0),
        Counter("gpu_process_busy_ratio", "gpu 0 pid 4242", "ratio", now, 0.5),
        Counter("thread_cpu_ratio", "pid 4242 tid 4250 worker", "ratio", now, 0.9),
        Counter("gpu_fan_ratio", "gpu 0", "ratio", now, None, "not supported by this device"),
        Counter("host_cpu_busy_ratio", "host", "ratio", now - 3 * 10**9, 0.1),
    )
    fields = {
        "new_batches": batches,
        "requests": (Request(now, 400 * MS, 9 * MS, 12, 34), Request(now)),
        "counters": counters,
        "alerts": (alert,),
        "changed_alerts": (alert,),
        "lost": Lost(records=5),
        "slo": SloStatus(SloTargets(ttft_ms=500), 10.0, attainment=0.99),
    }
    return make_frame(0, **{**fields, **changes})


def totals_of(*frames: Frame) -> Totals:
    totals = Totals()
    for frame in frames:
        assert totals.take(frame) is None
    return totals


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def scraped(totals: Totals) -> Iterator[Samples]:
    """What a scrape holds, without the server around it."""
    registry = CollectorRegistry()
    registry.register(Exposition(totals))
    yield samples_of(generate_latest(registry).decode())


def test_a_scrape_over_http_holds_the_same() -> None:
    totals = totals_of(full_frame())
    with (
        closing(Scrapes(totals, "127.0.0.1", 0)) as scrapes,
        urllib.request.urlopen(scrapes.url, timeout=20) as answer,
    ):
        answered = samples_of(answer.read().decode())
    with scraped(totals) as expected:
        assert answered.keys() == expected.keys()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(scrapes.url, timeout=20)


def one(samples: Samples, name: str, **labels: str) -> float:
    found = [
        value
        for (sample, has), value in samples.items()
        if sample == name and set(labels.items()) <= set(has)
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_a_scrape_has_histograms_by_mode_and_stage() -> None:
    with scraped(totals_of(full_frame())) as samples:
        name = "prismtop_batch_duration_seconds"
        assert one(samples, f"{name}_count", mode="decode", engine="vllm", pid="4242") == 1
        assert one(samples, f"{name}_sum", mode="decode") == pytest.approx(0.008)
        assert one(samples, f"{name}_bucket", mode="decode", le="0.0075") == 0
        assert one(samples, f"{name}_bucket", mode="decode", le="0.01") == 1
        assert one(samples, f"{name}_bucket", mode="prefill", le="0.1") == 1
        assert one(
            samples, "prismtop_stage_duration_seconds_sum", mode="decode", stage="wait"
        ) == pytest.approx(0.005)
        assert one(samples, "prismtop_batch_expected_seconds_sum", mode="decode") == pytest.approx(0.007)
        assert one(samples, "prismtop_ttft_seconds_sum") == pytest.approx(0.4)
        assert one(samples, "prismtop_tpot_seconds_count") == 1


def test_a_sampled_batch_is_counted_and_is_no_observation() -> None:
    with scraped(totals_of(full_frame())) as samples:
        assert one(samples, "prismtop_batches_total", origin="sampled") == 1
        assert one(samples, "prismtop_batch_duration_seconds_count", mode="decode") == 1


def test_totals_alerts_and_objectives() -> None:
    with scraped(totals_of(full_frame())) as samples:
        assert one(samples, "prismtop_requests_total") == 2
        assert one(samples, "prismtop_decode_tokens_total") == 48
        assert one(samples, "prismtop_slow_batches_total", mode="decode") == 1
        assert one(samples, "prismtop_lost_records_total") == 5
        assert one(samples, "prismtop_alerts_total", kind="spike", severity="critical") == 1
        assert one(samples, "prismtop_open_alerts", kind="spike") == 1
        assert one(samples, "prismtop_slo_attainment_ratio") == 0.99
        assert one(samples, "prismtop_session", engine="vllm", version="0.33.0", state="live") == 1


def test_counters_have_their_own_names_labels_and_kinds() -> None:
    with scraped(totals_of(full_frame())) as samples:
        assert one(samples, "prismtop_gpu_busy_ratio", device="gpu 0") == 0.75
        assert one(samples, "prismtop_gpu_xid_errors_total", device="gpu 0") == 3
        assert one(samples, "prismtop_gpu_process_busy_ratio", device="gpu 0 pid 4242", pid="4242") == 0.5
        assert one(samples, "prismtop_thread_cpu_ratio", pid="4242", tid="4250") == 0.9


def test_a_gap_is_exported_with_its_reason_and_an_old_reading_is_not_exported() -> None:
    with scraped(totals_of(full_frame())) as samples:
        gap = {"counter": "gpu_fan_ratio", "reason": "not supported by this device"}
        assert one(samples, "prismtop_counter_unavailable", **gap) == 1
        names = {name for name, _ in samples}
        assert "prismtop_gpu_fan_ratio" not in names
        assert "prismtop_host_cpu_busy_ratio" not in names


def test_frames_add_up_and_a_closed_alert_is_open_no_more() -> None:
    first = full_frame()
    (alert,) = first.alerts
    from dataclasses import replace

    closed = replace(alert, closed_ns=alert.opened_ns + 1)
    second = full_frame(alerts=(closed,), changed_alerts=(closed,), lost=Lost(records=7))
    with scraped(totals_of(first, second)) as samples:
        assert one(samples, "prismtop_batch_duration_seconds_count", mode="prefill") == 2
        assert one(samples, "prismtop_alerts_total") == 1
        assert one(samples, "prismtop_open_alerts") == 0
        assert one(samples, "prismtop_lost_records_total") == 7


def gauges_of(totals: Totals, now_ns: int) -> dict[str, object]:
    return {
        family.metric.name.removeprefix("prismtop_"): family.series[0][1]
        for family in totals.families(now_ns)
        if family.metric.name.endswith(("running_requests", "waiting_requests", "kv_usage_ratio"))
    }


def batch_that_tells(running: int | None, waiting: int | None) -> Batch:
    return make_batch(0, 10**12, workload=Workload(running=running, waiting=waiting, kv_usage=0.25))


@pytest.mark.parametrize(
    ("running", "waiting", "state", "stays"),
    [
        (3, 0, AttachState.LIVE, False),
        (None, None, AttachState.LIVE, False),
        (0, 2, AttachState.LIVE, False),
        (0, 0, AttachState.LIVE, True),
        (0, None, AttachState.LIVE, True),
        (0, 0, AttachState.GONE, False),
    ],
)
def test_what_the_last_batch_told_is_present_for_a_while_or_while_nothing_runs(
    running: int | None, waiting: int | None, state: AttachState, stays: bool
) -> None:
    batch = batch_that_tells(running, waiting)
    totals = totals_of(full_frame(new_batches=(batch,), state=state))
    told = gauges_of(totals, batch.end_ns + TOLD_NS)
    assert told["kv_usage_ratio"] == 0.25
    assert (told.get("running_requests"), told.get("waiting_requests")) == (running, waiting)
    assert gauges_of(totals, batch.end_ns + TOLD_NS + 1) == (told if stays else {})


def test_an_attainment_that_nothing_tells_any_more_is_left_out() -> None:
    idle = SloStatus(SloTargets(ttft_ms=500), 10.0, attainment=None)
    for later in (full_frame(slo=idle), full_frame(slo=None)):
        names = {family.metric.name for family in totals_of(full_frame(), later).families(0)}
        assert "prismtop_slo_attainment_ratio" not in names


def test_two_engines_histograms_can_be_added_up() -> None:
    families = {family.metric.name: family for family in totals_of(full_frame()).families(0)}
    for _, value in families["prismtop_batch_duration_seconds"].series:
        assert isinstance(value, Distribution)
        assert value.bounds == STEP_BOUNDS_S
        assert len(value.counts) == len(STEP_BOUNDS_S) + 1


def test_every_sample_of_a_scrape_has_a_name_that_is_declared() -> None:
    with scraped(totals_of(full_frame())) as samples:
        assert {name for name, _ in samples} <= exported_names()


def test_every_metric_of_the_dashboard_is_exported() -> None:
    text = DASHBOARD.read_text()
    expressions = re.findall(r'"(?:expr|query)": "((?:[^"\\]|\\.)*)"', text)
    used = {name for expression in expressions for name in re.findall(r"\bprismtop_\w+", expression)}
    assert len(used) > 15
    assert used - exported_names() == set()


def test_the_dashboard_shows_a_clock_as_limited_for_the_bits_that_are_power_or_heat() -> None:
    """PromQL has no operators for bits; the arithmetic of its expression is that of Python."""
    expressions = re.findall(r'"expr": "((?:[^"\\]|\\.)*clock_limits(?:[^"\\]|\\.)*)"', DASHBOARD.read_text())
    (expression,) = expressions
    name = "prismtop_gpu_clock_limits_bitmask"
    for bit in CLOCK_LIMITS:
        shown = eval(expression, {name: bit, "floor": math.floor})
        assert bool(shown) == bool(bit & HARMFUL), hex(bit)


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in board["panels"]:
        assert panel["type"] == "row" or panel["targets"]


def test_every_counter_is_exported_under_its_own_name() -> None:
    assert {f"prismtop_{name}" for name in CATALOGUE} <= exported_names()
    assert all(metric.help and metric.labels for metric in METRICS.values())


def test_text_of_a_target_cannot_carry_control_characters() -> None:
    counter = Counter("net_errors_per_s", "a\x1b[2J\nb", "per_s", time.monotonic_ns(), 1.0)
    with scraped(totals_of(make_frame(0, counters=(counter,)))) as samples:
        devices = [dict(labels)["device"] for name, labels in samples if name == "prismtop_net_errors_per_s"]
    assert devices == ["a\ufffd[2J\u23ceb"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9777", ("127.0.0.1", 9777)),
        ("9777", ("127.0.0.1", 9777)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_an_address_without_a_host_is_on_the_loopback_address(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", ":x", ":70000", "9777:"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        parse_address(text)


def test_a_port_that_is_taken_is_an_error_with_a_fix() -> None:
    with closing(Scrapes(Totals(), "127.0.0.1", 0)) as scrapes:
        port = int(scrapes.url.split(":")[2].split("/")[0])
        with pytest.raises(UnavailableError, match="cannot listen"):
            Scrapes(Totals(), "127.0.0.1", port)


class Collector(HTTPServer):
    """Takes what an OTLP exporter posts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[tuple[str, bytes]] = []
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        self.server.posts.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_push_carries_counters_and_histograms_as_they_are() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `otlp` is not installed")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    with closing(Collector()) as collector:
        now = time.monotonic_ns()
        more = [
            ("gpu_memory_used_bytes", "gpu 0"),
            ("gpu_power_watts", "gpu 0"),
            ("net_receive_bytes_per_s", "x"),
        ]
        frame = full_frame()
        counters = (*frame.counters, *(Counter(name, device, "", now, 7.0) for name, device in more))
        pushes = Pushes(totals_of(replace(frame, counters=counters)), collector.url, interval_s=3600)
        assert pushes.push()
        pushes.close()
        path, body = collector.posts[0]
    request = ExportMetricsServiceRequest.FromString(body)
    (resource,) = request.resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "prismtop"
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert path == "/v1/metrics"
    assert metrics["prismtop_gpu_busy_ratio"].gauge.data_points[0].as_double == 0.75
    xids = metrics["prismtop_gpu_xid_errors"].sum
    assert (xids.is_monotonic, xids.data_points[0].as_double) == (True, 3)
    points = metrics["prismtop_batch_duration_seconds"].histogram.data_points
    assert sorted(point.count for point in points) == [1, 1]
    assert list(points[0].explicit_bounds) == list(STEP_BOUNDS_S)
    assert not points[0].HasField("min")
    assert not points[0].HasField("max")
    units = {
        name: metrics[f"prismtop_{name}"].unit
        for name in ("batch_duration_seconds", "gpu_busy_ratio", "gpu_memory_used_bytes", "gpu_power_watts")
    }
    assert list(units.values()) == ["s", "1", "By", "W"]
    assert metrics["prismtop_net_receive_bytes_per_s"].unit == "By/s"
    assert metrics["prismtop_gpu_xid_errors"].unit == ""


def test_pushes_that_reach_nobody_are_counted() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `otlp` is not installed")
    with closing(Collector()) as collector:
        url = collector.url
    pushes = Pushes(Totals(), f"{url}/v1/metrics", interval_s=3600, timeout_s=0.5)
    pushes.close()
    assert (pushes.sent, pushes.failed) == (0, 1)


def test_without_the_sdk_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(UnavailableError, match=r"pip install 'prismtop\[otlp\]'"):
        Pushes(Totals(), "http://127.0.0.1:1")
