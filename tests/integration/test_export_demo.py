"""`prismtop export` and `watch --counters` on a real engine, the embedded one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_S = 60.0


@pytest.fixture(scope="module")
def engine() -> Iterator[int]:
    """The pid of an engine under load."""
    sizes = ["--port", "0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", *sizes], cwd=ROOT, stdout=subprocess.PIPE
    )
    load: subprocess.Popen[bytes] | None = None
    try:
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip().rsplit(":", 1)[-1]
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "prismtop.demo.load", "--url", url, "--duration", "0", "--rate", "5"]
        load = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        yield server.pid
    finally:
        for process in (load, server):
            if process is not None:
                process.kill()
                process.wait()
        assert server.stdout is not None
        server.stdout.close()


def scrape(url: str) -> dict[str, float]:
    """Sums of all samples by name."""
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    made: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            made[sample.name] = made.get(sample.name, 0.0) + sample.value
    return made


def test_an_engine_is_exported_with_its_latencies_and_counters_until_a_signal_comes(engine: int) -> None:
    wanted = {
        "prismtop_batch_duration_seconds_count",
        "prismtop_stage_duration_seconds_sum",
        "prismtop_decode_tokens_total",
        "prismtop_process_cpu_ratio",
        "prismtop_thread_runq_wait_ratio",
        "prismtop_host_cpu_busy_ratio",
        "prismtop_host_pressure_cpu_some_ratio",
        "prismtop_counter_unavailable",
        "prismtop_sampler_cpu_ratio",
    }
    if not Path("/proc/pressure/cpu").exists():
        wanted.discard("prismtop_host_pressure_cpu_some_ratio")
    export = subprocess.Popen(
        [sys.executable, "-m", "prismtop", "export", "--pid", str(engine), "--prometheus", ":0", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert export.stdout is not None
    url = json.loads(export.stdout.readline())["prometheus"]
    end = time.monotonic() + WAIT_S
    while not wanted <= (found := scrape(url)).keys():
        assert time.monotonic() < end, wanted - found.keys()
        time.sleep(0.3)
    export.send_signal(signal.SIGTERM)
    _, errors = export.communicate(timeout=WAIT_S)
    assert found["prismtop_batch_duration_seconds_count"] > 0
    assert found["prismtop_process_threads_count"] >= 2
    assert export.returncode == 143
    assert re.search(r"prometheus http://127\.0\.0\.1:\d+/metrics", errors.decode())
    assert "Traceback" not in errors.decode()


def test_watch_shows_counters_of_the_engine_only_when_asked(engine: int) -> None:
    command = [sys.executable, "-m", "prismtop", "watch", "--pid", str(engine), "--json", "--duration", "3"]
    plain = subprocess.run([*command, "-n", "3"], cwd=ROOT, capture_output=True, check=True, timeout=WAIT_S)
    asked = subprocess.run(
        [*command, "--counters"], cwd=ROOT, capture_output=True, check=True, timeout=WAIT_S
    )
    assert b'"type":"counter"' not in plain.stdout
    lines = [json.loads(line) for line in asked.stdout.splitlines()]
    counters = [line for line in lines if line["type"] == "counter"]
    assert {"process_rss_bytes", "host_memory_available_bytes"} <= {line["name"] for line in counters}
    assert all(("value" in line) != ("reason" in line) for line in counters)
