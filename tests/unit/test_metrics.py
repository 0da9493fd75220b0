"""Reading a frontend's /metrics: what is taken from it, and why it is not."""

from __future__ import annotations

import http.server
import math
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import pytest

from prismtop.sources.loopback import MAX_BYTES, Unreadable
from prismtop.sources.metrics import MetricsReader, SampleParser, merge, parse, read, reader_for
from prismtop.targets.profile import MetricsRule
from prismtop.targets.profiles import load_profiles
from tests.factories import make_group, make_target

RULE = MetricsRule(
    endpoint="/metrics",
    enabled_by="on unless --disable-log-stats",
    batch_count="vllm:iteration_tokens_total_count",
    names={
        "running": "vllm:num_requests_running",
        "kv_usage": "vllm:kv_cache_usage_perc",
        "ttft": "vllm:time_to_first_token_seconds",
        "preemptions": "vllm:num_preemptions_total",
    },
)


def exposition(
    *, steps: int = 10, fast: int = 1, slow: int = 2, running: tuple[int, ...] = (3,), usage: float = 0.25
) -> str:
    """vLLM's text with one series per data-parallel engine."""
    lines = ["# HELP vllm:num_requests_running Running.", "# TYPE vllm:num_requests_running gauge"]
    lines += [f'vllm:num_requests_running{{engine="{i}"}} {n}.0' for i, n in enumerate(running)]
    lines += ["# TYPE vllm:kv_cache_usage_perc gauge"]
    lines += [f'vllm:kv_cache_usage_perc{{engine="{i}"}} {usage / (i + 1)}' for i, _ in enumerate(running)]
    lines += ["# TYPE vllm:iteration_tokens_total histogram"]
    lines += [f'vllm:iteration_tokens_total_count{{engine="{i}"}} {steps}.0' for i, _ in enumerate(running)]
    lines += ["# TYPE vllm:time_to_first_token_seconds histogram"]
    for i, _ in enumerate(running):
        for bound, count in (("0.1", fast), ("1.0", fast + slow), ("+Inf", fast + slow)):
            lines.append(f'vllm:time_to_first_token_seconds_bucket{{engine="{i}",le="{bound}"}} {count}.0')
        lines.append(f'vllm:time_to_first_token_seconds_created{{engine="{i}"}} 1.7e+09')
    lines += ["# TYPE vllm:num_preemptions_total counter", 'vllm:num_preemptions_total{engine="0"} 4.0']
    lines += ["# TYPE python_gc_objects_collected_total counter", "python_gc_objects_collected_total 5.0"]
    return "\n".join(lines) + "\n"


class Frontend:
    """A real HTTP server on the loopback address that answers what `answer` says."""

    def __init__(self, answer: str = "", status: int = 200, delay_s: float = 0.0) -> None:
        self.answer, self.status, self.delay_s, self.reads = answer, status, delay_s, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.reads += 1
                time.sleep(outer.delay_s)
                body = outer.answer.encode()
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "http://192.0.2.1/metrics")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Frontend:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on (bound, so that nobody else gets it)."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def reason(rule: MetricsRule, port: int, timeout_s: float = 0.5) -> str:
    with pytest.raises(Unreadable) as caught:
        read(rule, port, timeout_s=timeout_s)
    return str(caught.value)


def wait_for_reads(frontend: Frontend, count: int) -> None:
    deadline = time.monotonic() + 10
    while frontend.reads < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert frontend.reads >= count


def test_counters_and_gauges_are_summed_over_labels() -> None:
    reading = parse(RULE, exposition(running=(3, 4)), 1)
    assert reading.values["vllm:num_requests_running"] == 7.0
    assert reading.values["vllm:num_preemptions_total"] == 4.0
    assert reading.batch_count == 20.0


def test_a_share_of_a_cache_is_the_highest_and_not_a_sum() -> None:
    assert parse(RULE, exposition(running=(1, 1), usage=0.8), 1).values["vllm:kv_cache_usage_perc"] == 0.8


def test_histograms_are_merged_bucket_by_bucket() -> None:
    reading = parse(RULE, exposition(fast=1, slow=2, running=(1, 1)), 1)
    assert reading.histograms["vllm:time_to_first_token_seconds"] == {0.1: 2.0, 1.0: 6.0, math.inf: 6.0}


def test_only_bounds_that_every_series_has_can_be_merged() -> None:
    assert merge([{0.1: 1.0, 1.0: 3.0}, {1.0: 2.0, math.inf: 2.0}]) == {1.0: 5.0}


def test_metrics_that_the_profile_does_not_name_are_not_read() -> None:
    assert "python_gc_objects_collected_total" not in parse(RULE, exposition(), 1).values


def test_what_is_not_exposed_is_absent() -> None:
    reading = parse(RULE, "vllm:num_requests_running 1.0\n", 1)
    assert set(reading.values) == {"vllm:num_requests_running"}
    assert reading.batch_count is None


def test_malformed_text_is_refused() -> None:
    with pytest.raises(Unreadable, match="not in the Prometheus text format"):
        parse(RULE, 'vllm:num_requests_running{engine="0" what\n', 1)


def test_counts_are_differences_since_attach_in_the_same_interval_as_the_batches_seen() -> None:
    with Frontend(exposition(steps=1000, fast=5, slow=5)) as frontend:
        reader = MetricsReader(RULE, [frontend.port], interval_s=0.05)
        reader.start()
        try:
            wait_for_reads(frontend, 2)
            base = reader.latest(batches=7)
            assert (base.batch_count, base.batches_seen) == (0, 0)
            frontend.answer = exposition(steps=1040, fast=6, slow=9)
            wait_for_reads(frontend, frontend.reads + 2)
            metrics = reader.latest(batches=47)
        finally:
            reader.close()
    assert (metrics.batch_count, metrics.batches_seen) == (40, 40)
    assert metrics.ttft_s == ((0.1, 1.0), (1.0, 5.0), (math.inf, 5.0))
    assert metrics.queue_s is None
    assert metrics.url == f"http://127.0.0.1:{frontend.port}/metrics"
    assert metrics.reason == ""


def test_batches_that_ended_after_the_reading_are_not_compared_with_it() -> None:
    with Frontend(exposition(steps=1000)) as frontend:
        reader = MetricsReader(RULE, [frontend.port])
        before = time.monotonic_ns()
        reader.read_once()
        after = time.monotonic_ns()
        # Batch 1 and 2 ended before the first reading but are assembled after it, batch 3 ended later.
        assert reader.latest(3, [before - 2, before - 1, after]).batches_seen == 0
        frontend.answer = exposition(steps=1001)
        reader.read_once(3)
        metrics = reader.latest(4, [time.monotonic_ns()])
    assert (metrics.batch_count, metrics.batches_seen) == (1, 1)


def test_an_engine_that_counts_from_zero_again_is_not_shown_as_negative() -> None:
    with Frontend(exposition(steps=1000, fast=50)) as frontend:
        reader = MetricsReader(RULE, [frontend.port])
        reader.read_once()
        frontend.answer = exposition(steps=3, fast=1, slow=0)
        metrics = reader.read_once()
    assert metrics.batch_count == 3
    assert metrics.ttft_s == ((0.1, 1.0), (1.0, 1.0), (math.inf, 1.0))


def test_a_refused_connection_is_the_reason(closed_port: int) -> None:
    metrics = MetricsReader(RULE, [closed_port]).read_once()
    assert metrics.reason == f"http://127.0.0.1:{closed_port}/metrics refuses the connection"
    assert metrics.batch_count is None
    assert metrics.values == {}


def test_the_port_that_has_the_metrics_is_found_among_several(closed_port: int) -> None:
    with Frontend("nothing here\n", status=404) as other, Frontend(exposition()) as frontend:
        metrics = MetricsReader(RULE, [closed_port, other.port, frontend.port]).read_once()
    assert metrics.url.endswith(f":{frontend.port}/metrics")


def test_a_404_says_what_switches_metrics_on() -> None:
    with Frontend("no", status=404) as frontend:
        assert reason(RULE, frontend.port) == "answers 404 (metrics are on unless --disable-log-stats)"


def test_json_statistics_are_recognised() -> None:
    with Frontend('[{"iter": 1, "gpuMemUsage": 3}]') as frontend:
        assert "JSON" in reason(RULE, frontend.port)


def test_a_page_without_the_expected_names_is_refused() -> None:
    with Frontend("up 1\n") as frontend:
        assert reason(RULE, frontend.port) == "has none of the metrics that the profile names"


class Raw:
    """A server that sends these pieces to whoever connects, and closes."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            connection.recv(65536)
            for piece in self.pieces:
                connection.sendall(piece)
                time.sleep(0.01)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    def __enter__(self) -> Raw:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD, b"Content-Length: 27\r\n\r\nvllm:num_req", b"uests_running 4\nleftover"),
        (HEAD + b"\r\nvllm:num_requests_", b"running 4\n"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nvllm:",
            b"\r\n17\r\nnum_requests_running 4\n\r",
            b"\n0\r\n\r\n",
        ),
    ],
    ids=["length", "until the end", "chunks"],
)
def test_answers_of_any_framing_are_read(pieces: tuple[bytes, ...]) -> None:
    with Raw(*pieces) as server:
        assert read(RULE, server.port, timeout_s=5.0).values == {"vllm:num_requests_running": 4.0}


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n",),
        (b"HTTP/1.1 what\r\n\r\n",),
        (HEAD + b"Content-Length: 99\r\n\r\nshort",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n",),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\ncut",),
    ],
)
def test_what_is_no_http_is_refused(pieces: tuple[bytes, ...]) -> None:
    with Raw(*pieces) as server:
        assert reason(RULE, server.port, timeout_s=5.0).startswith("does not answer as HTTP/1 does")


def test_an_answer_without_end_is_given_up() -> None:
    with Frontend("x" * (MAX_BYTES + 1)) as frontend:
        assert reason(RULE, frontend.port, timeout_s=5.0) == "answers with more than 8 MiB"


def test_reads_that_follow_say_the_same_as_a_first_one() -> None:
    parser = SampleParser(RULE)
    for fast in (1, 5):
        text = exposition(fast=fast, steps=10 * fast, running=(3, fast))
        assert parser.parse(text, 1) == parse(RULE, text, 1)


def test_a_time_stamp_after_a_value_is_not_taken_for_it() -> None:
    parser = SampleParser(RULE)
    for value, stamp in ((4, 1700000000), (4, 1700000005), (6, 1700000009)):
        text = f"vllm:num_requests_running {value} {stamp}\n"
        assert parser.parse(text, 1).values == {"vllm:num_requests_running": value}


@pytest.mark.parametrize(
    "line", ['vllm:num_requests_running{a="x} y"}4', 'vllm:num_requests_running{a="} y"}4']
)
def test_a_line_without_a_space_before_its_value_is_read_again_and_again(line: str) -> None:
    parser = SampleParser(RULE)
    for _ in range(3):
        assert parser.parse(line + "\n", 1).values == {"vllm:num_requests_running": 4.0}


def test_a_redirect_is_not_followed() -> None:
    with Frontend("", status=302) as frontend:
        assert reason(RULE, frontend.port).startswith("answers 302")


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:9")
    with Frontend(exposition()) as frontend:
        assert read(RULE, frontend.port).batch_count == 10.0


def test_a_frontend_that_does_not_answer_costs_its_timeout_only() -> None:
    with Frontend(exposition(), delay_s=2.0) as frontend:
        assert reason(RULE, frontend.port, timeout_s=0.1) == "did not answer within 0.1 s"


def test_asking_never_waits_for_a_frontend_that_hangs() -> None:
    with Frontend(exposition(), delay_s=2.0) as frontend:
        reader = MetricsReader(RULE, [frontend.port])
        reader.start()
        for _ in range(100):
            assert reader.latest(0).reason == "not read yet"
        reader.close()


def test_an_engine_without_metrics_is_never_asked() -> None:
    reader = MetricsReader(MetricsRule(), [1])
    reader.start()
    reader.close()
    assert reader.latest(0).reason == "this engine has no /metrics"


def test_a_group_without_a_port_says_so() -> None:
    profile = load_profiles()["vllm"]
    metrics = reader_for(make_group(), profile).read_once()
    assert metrics.reason == "no listening port of the engine was found"


def test_the_frontends_ports_are_tried_first() -> None:
    with Frontend(exposition()) as other, Frontend(exposition()) as frontend:
        group = make_group(
            make_target(1, ports=(other.port,)),
            make_target(2, role="frontend", probed=False, ports=(frontend.port,)),
        )
        metrics = reader_for(group, load_profiles()["vllm"]).read_once()
    assert metrics.url.endswith(f":{frontend.port}/metrics")
