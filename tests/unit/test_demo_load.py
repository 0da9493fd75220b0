"""The load generator: what it sends, and that its report is what happened."""

from __future__ import annotations

import itertools
import math
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from prismtop.demo.load import LoadReport, main, run_load
from prismtop.demo.workload import PATTERNS, Arrival, arrivals


def arrivals_until(seconds: float, rate: float, pattern: str, seed: int = 0) -> list[Arrival]:
    return list(itertools.takewhile(lambda one: one.at_s < seconds, arrivals(rate, seed, pattern)))


def load(
    url: str, *, rate: float = 20.0, duration_s: float = 1.0, stop: threading.Event | None = None
) -> LoadReport:
    return run_load(
        url, rate=rate, duration_s=duration_s, seed=0, pattern="steady", stop=stop or threading.Event()
    )


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [
        sys.executable,
        "-m",
        "prismtop.demo.server",
        "--layers",
        "1",
        "--hidden",
        "32",
        "--heads",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield "http://" + process.stdout.readline().split()[-1]
        process.kill()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_arrivals_come_at_the_mean_rate_asked_for(pattern: str) -> None:
    assert len(arrivals_until(400.0, 25.0, pattern)) == pytest.approx(10_000, rel=0.05)


def test_a_burst_brings_most_requests_in_a_fifth_of_the_time() -> None:
    found = arrivals_until(400.0, 25.0, "burst")
    assert sum(one.at_s % 10.0 < 2.0 for one in found) / len(found) == pytest.approx(0.8, abs=0.03)


def test_mixed_arrivals_change_their_rate_and_steady_ones_do_not() -> None:
    def spread(pattern: str) -> float:
        counts = Counter(int(one.at_s / 8.0) for one in arrivals_until(400.0, 25.0, pattern))
        return max(counts.values()) / min(counts.values())

    assert spread("mixed") > 4.0
    assert spread("steady") < 2.0


def test_lengths_are_mixed_and_stay_within_their_limits() -> None:
    found = arrivals_until(100.0, 20.0, "steady")
    prompts, outputs = [one.prompt_tokens for one in found], [one.output_tokens for one in found]
    assert (min(prompts), max(prompts)) == (8, 512)
    assert (min(outputs), max(outputs)) == (8, 128)
    assert len(set(prompts)) > 200


def test_a_seed_stands_for_one_sequence_of_requests() -> None:
    assert arrivals_until(20.0, 10.0, "mixed", seed=3) == arrivals_until(20.0, 10.0, "mixed", seed=3)
    assert arrivals_until(20.0, 10.0, "mixed", seed=3) != arrivals_until(20.0, 10.0, "mixed", seed=4)


@pytest.mark.parametrize(
    ("rate", "pattern"), [(0.0, "steady"), (-1.0, "mixed"), (math.nan, "burst"), (1.0, "spiky")]
)
def test_a_rate_or_pattern_that_makes_no_sense_is_refused(rate: float, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"rate must be|unknown pattern"):
        arrivals(rate, 0, pattern)


def test_every_request_of_the_duration_is_sent_answered_and_counted(url: str) -> None:
    expected = arrivals_until(1.0, 20.0, "steady")
    report = load(url)
    assert (report.sent, report.completed) == (len(expected), len(expected))
    assert (report.failed, report.skipped, report.unfinished) == (0, 0, 0)
    assert report.prompt_tokens == sum(one.prompt_tokens for one in expected)
    assert report.output_tokens == sum(one.output_tokens for one in expected)


def test_latencies_are_ordered_and_within_the_run(url: str) -> None:
    report = load(url)
    assert report.ttft_p50_ms is not None
    assert report.ttft_p95_ms is not None
    assert 0.0 < report.ttft_p50_ms <= report.ttft_p95_ms < report.elapsed_s * 1e3


def test_setting_stop_ends_an_endless_load(url: str) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    assert load(url, duration_s=math.inf, stop=stop).sent > 0


def test_a_server_that_is_not_there_is_a_counted_failure_with_its_reason() -> None:
    port = unused_port()
    report = load(f"http://127.0.0.1:{port}", duration_s=0.3)
    assert report.failed == report.sent > 0
    assert f"127.0.0.1:{port}" in str(report.first_error)
    assert report.ttft_p50_ms is None
    assert "TTFT p50 n/a" in report.summary()


def test_an_answer_other_than_200_is_a_failure_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.0 503 Busy\r\n\r\n")
            connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        url, stop = f"http://127.0.0.1:{listener.getsockname()[1]}", threading.Event()
        threading.Timer(1.0, stop.set).start()
        report = load(url, rate=10.0, duration_s=math.inf, stop=stop)
    assert report.first_error == "the server answered 'HTTP/1.0 503 Busy'"


def test_a_stream_that_breaks_off_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def break_off() -> None:
            connection, _ = listener.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n{}\n")
            connection.close()

        threading.Thread(target=break_off, daemon=True).start()
        url, stop = f"http://127.0.0.1:{listener.getsockname()[1]}", threading.Event()
        threading.Timer(1.0, stop.set).start()
        report = load(url, rate=10.0, duration_s=math.inf, stop=stop)
    assert (report.failed, report.output_tokens) == (1, 1)
    assert report.first_error == "the server closed the connection early"


@pytest.mark.parametrize("bad", ["127.0.0.1:80", "https://127.0.0.1", "http://"])
def test_a_url_that_is_no_http_address_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        load(bad)


def test_the_command_prints_one_line_and_exits_0(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", url, "--rate", "20", "--duration", "0.5", "--pattern", "steady"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "ITL p50" in out
