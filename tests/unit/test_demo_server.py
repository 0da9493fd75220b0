"""The demo server as a client and an operator see it: a real process, real sockets."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

TINY = ["--layers", "2", "--hidden", "64", "--heads", "4", "--intermediate", "96", "--vocab", "509"]


@dataclass(frozen=True)
class RunningServer:
    """A server process that has said that it listens."""

    process: subprocess.Popen[str]
    port: int

    def generate(self, **body: object) -> tuple[int, list[dict[str, object]]]:
        """Status and the JSON lines of one ``POST /generate``."""
        return self.post(json.dumps(body).encode())

    def post(self, body: bytes, path: str = "/generate") -> tuple[int, list[dict[str, object]]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", path, body)
        response = connection.getresponse()
        lines = [json.loads(line) for line in response.read().splitlines()]
        connection.close()
        return response.status, lines

    def metrics(self) -> dict[str, float]:
        """Every sample of ``GET /metrics`` that has no labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {sample.name: sample.value for sample in samples if not sample.labels}

    def open_stream(self, **body: object) -> socket.socket:
        """A connection on which a request has been sent and nothing read."""
        payload = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(
            b"POST /generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(payload), payload)
        )
        return connection


def start_server(*arguments: str) -> RunningServer:
    command = [sys.executable, "-m", "prismtop.demo.server", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[:2] == ["listening", "on"], process.communicate()
    return RunningServer(process, int(words[2].rpartition(":")[2]))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def start() -> Iterator[Callable[..., RunningServer]]:
    started: list[RunningServer] = []

    def start_one(*arguments: str) -> RunningServer:
        started.append(start_server(*TINY, *arguments))
        return started[-1]

    yield start_one
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    running = start_server(*TINY)
    yield running
    running.process.kill()
    running.process.communicate()


def test_a_request_is_answered_with_one_json_line_per_token(server: RunningServer) -> None:
    status, lines = server.generate(prompt_len=40, max_tokens=5)
    assert status == 200
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line.get("finish_reason") for line in lines] == [None, None, None, None, "length"]


def test_the_same_prompt_gives_the_same_tokens(server: RunningServer) -> None:
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    first, second = (
        [line["token_id"] for line in server.generate(prompt_token_ids=prompt, max_tokens=20)[1]]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Content-Length"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "JSON object"),
        (b"{}", "prompt_len"),
        (b'{"prompt_len": 0}', "prompt_len"),
        (b'{"prompt_len": true}', "prompt_len"),
        (b'{"prompt_len": 1000000000}', "max_model_len"),
        (b'{"prompt_len": 1000, "max_tokens": 100}', "max_model_len"),
        (b'{"prompt_len": 4, "max_tokens": -1}', "max_tokens"),
        (b'{"prompt_token_ids": []}', "at least one"),
        (b'{"prompt_token_ids": [509]}', "0 to 508"),
        (b'{"prompt_token_ids": "abc"}', "0 to 508"),
        (b'{"prompt_len": 4, "temperature": NaN}', "temperature"),
        (b'{"prompt_len": 4, "seed": -1}', "seed"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(server: RunningServer, body: bytes, reason: str) -> None:
    status, lines = server.post(body)
    assert status == 400
    assert reason in str(lines[0]["error"])


def test_an_unknown_path_is_refused_with_the_paths_that_exist(server: RunningServer) -> None:
    status, lines = server.post(b"{}", path="/v1/completions")
    assert (status, "/generate" in str(lines[0]["error"])) == (404, True)


def test_the_step_counter_accounts_for_every_token_computed(start: Callable[..., RunningServer]) -> None:
    running = start()
    for prompt_len, max_tokens in ((300, 7), (5, 1), (128, 3)):
        running.generate(prompt_len=prompt_len, max_tokens=max_tokens)
    wait_until(lambda: running.metrics()["demo:num_requests_running"] == 0.0)
    metrics = running.metrics()
    # One request at a time and a budget of 128: 3 + 1 + 1 prefill steps and 6 + 0 + 2 decode steps.
    assert metrics["demo:iteration_tokens_total_count"] == 13.0
    assert metrics["demo:iteration_tokens_total_sum"] == 433.0 + 8.0
    assert metrics["demo:time_to_first_token_seconds_count"] == 3.0
    assert metrics["demo:request_queue_time_seconds_count"] == 3.0
    assert metrics["demo:generation_tokens_total"] == 11.0
    assert metrics["demo:kv_cache_usage_perc"] == 0.0


def test_a_client_that_goes_away_is_dropped_while_running_and_while_waiting(
    start: Callable[..., RunningServer],
) -> None:
    running = start("--max-num-seqs", "1", "--layers", "8")
    first = running.open_stream(prompt_len=8, max_tokens=1000)
    first.recv(4096)
    second = running.open_stream(prompt_len=8, max_tokens=1000)
    wait_until(lambda: running.metrics()["demo:num_requests_waiting"] == 1.0)
    second.close()
    wait_until(lambda: running.metrics()["demo:num_requests_waiting"] == 0.0)
    assert running.metrics()["demo:num_requests_running"] == 1.0
    first.close()
    wait_until(lambda: running.metrics()["demo:num_requests_running"] == 0.0)
    assert running.metrics()["demo:generation_tokens_total"] < 1000.0


def test_the_engine_runs_on_the_main_thread(start: Callable[..., RunningServer]) -> None:
    running = start("--layers", "8")
    running.generate(prompt_len=500, max_tokens=300)
    spent = {thread.id: thread.user_time for thread in psutil.Process(running.process.pid).threads()}
    assert max(spent, key=lambda thread_id: spent[thread_id]) == running.process.pid


def test_blas_starts_no_threads_of_its_own(start: Callable[..., RunningServer]) -> None:
    running = start()
    running.generate(prompt_len=128, max_tokens=2)
    wait_until(lambda: psutil.Process(running.process.pid).num_threads() == 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_cleanly(
    start: Callable[..., RunningServer], number: signal.Signals
) -> None:
    running = start()
    running.process.send_signal(number)
    assert running.process.communicate(timeout=20) == ("", "")
    assert running.process.returncode == 0


def test_a_signal_ends_a_busy_server_cleanly(start: Callable[..., RunningServer]) -> None:
    running = start()
    with running.open_stream(prompt_len=8, max_tokens=1000) as stream:
        stream.recv(4096)
        running.process.terminate()
        assert running.process.communicate(timeout=20) == ("", "")
    assert running.process.returncode == 0


def test_the_server_dies_with_the_parent_that_was_killed() -> None:
    script = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'prismtop.demo.server',"
        " '--die-with-parent', *sys.argv[1:]], stdout=subprocess.PIPE, text=True);"
        " child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script, *TINY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_server_whose_named_parent_is_gone_does_not_start() -> None:
    command = [sys.executable, "-m", "prismtop.demo.server", *TINY, "--die-with-parent", str(2**22 + 1)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=20).stdout == ""


def test_a_taken_port_is_one_sentence_on_stderr(server: RunningServer) -> None:
    command = [sys.executable, "-m", "prismtop.demo.server", *TINY, "--port", str(server.port)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert finished.returncode == 3
    assert finished.stderr.count("\n") == 1
    assert f"127.0.0.1:{server.port}" in finished.stderr


def test_impossible_sizes_are_a_usage_error() -> None:
    command = [sys.executable, "-m", "prismtop.demo.server", "--heads", "3"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert finished.returncode == 2
    assert "even multiple of num_heads" in finished.stderr


def test_the_demo_imports_numpy_only_to_compute_and_nothing_of_the_monitor() -> None:
    script = (
        "import sys, prismtop.demo, prismtop.demo.server, prismtop.demo.load;"
        " assert 'numpy' not in sys.modules;"
        " import prismtop.demo.http_front, prismtop.demo.metrics;"
        " print(*(name for name in sys.modules if name.startswith('prismtop.')))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    names = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    assert "prismtop.demo.engine" in names
    assert [name for name in names if not name.startswith("prismtop.demo")] == []


def without_module(name: str) -> list[str]:
    """A command that runs the server as if ``name`` were not installed."""
    script = (
        f"import sys; sys.modules[{name!r}] = None; from prismtop.demo.server import main; sys.exit(main())"
    )
    return [sys.executable, "-c", script, *TINY]


def test_without_numpy_the_server_says_what_to_install() -> None:
    finished = subprocess.run(without_module("numpy"), capture_output=True, text=True, timeout=20)
    assert finished.returncode == 3
    assert finished.stderr == "demo server: numpy is not installed; install it with: pip install numpy\n"


def test_without_prometheus_client_the_server_serves_and_says_why_there_are_no_metrics() -> None:
    with subprocess.Popen(without_module("prometheus_client"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        running = RunningServer(process, int(process.stdout.readline().rpartition(":")[2]))
        status, _ = running.generate(prompt_len=4, max_tokens=1)
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        refusal = response.read().decode()
        connection.close()
        process.kill()
    assert (status, response.status) == (200, 503)
    assert "prometheus_client is not installed" in refusal
