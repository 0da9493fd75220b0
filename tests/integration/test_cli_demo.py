"""The commands on the real demo engine, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PRISMTOP = [sys.executable, "-m", "prismtop"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only")


def prismtop(*argv: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PRISMTOP, *argv], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PRISMTOP, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids: list[int], seconds: float = 10) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def engine() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A demo engine under load that prismtop did not start, and its port."""
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0", "--die-with-parent"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = int(server.stdout.readline().rsplit(":", 1)[1])
    url = f"http://127.0.0.1:{port}"
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", "--url", url, "--duration", "0", "--pattern", "steady"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    yield server, port
    for process in (load, server):
        process.terminate()
        process.wait(20)
    server.stdout.close()


def test_the_demo_prints_200_batches_and_nothing_else_on_stdout() -> None:
    done = prismtop("demo", "--headless", "-n", "200", "--json")
    assert done.returncode == 0, done.stderr
    lines = objects(done.stdout)
    batches = [line for line in lines if line["type"] == "batch"]
    assert lines[0]["type"] == "session"
    assert lines[0]["engine"] == "demo"
    assert [batch["seq"] for batch in batches] == list(range(200))
    assert {batch["origin"] for batch in batches} == {"exact"}
    modes = {batch["mode"] for batch in batches}
    assert "decode" in modes
    assert modes & {"prefill", "mixed"}  # on a busy machine no prompt finds the engine empty
    assert all(sum(batch["stages"].values()) <= batch["dur_us"] * 1.001 + 1 for batch in batches)
    starts = [batch["t_us"] for batch in batches]
    assert starts == sorted(starts)
    assert abs(starts[-1] / 1e6 - time.time()) < 60


def test_the_demo_without_a_terminal_is_a_table_of_200_batches() -> None:
    done = prismtop("demo")
    assert done.returncode == 0, done.stderr
    assert "no terminal for the screen" in done.stderr
    assert sum(line.split()[0].isdigit() for line in done.stdout.splitlines()) == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_leaves_no_process_behind_however_it_ends(number: signal.Signals) -> None:
    process = start("demo", "--json", "--duration", "60")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "session"
    process.stdout.readline()
    started = children(process.pid)
    assert len(started) >= 2
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert wait_until_gone(started) == []


def test_watch_finds_the_one_engine_that_the_pid_names(engine: tuple[subprocess.Popen[str], int]) -> None:
    server, port = engine
    done = prismtop("watch", "--pid", str(server.pid), "-n", "50", "--json")
    assert done.returncode == 0, done.stderr
    first, *rest = objects(done.stdout)
    assert first["pids"] == [server.pid]
    assert first["targets"][0]["ports"] == [port]
    assert sum(line["type"] == "batch" for line in rest) == 50
    assert server.poll() is None


def test_a_second_watch_follows_the_first_on_the_same_engine(
    engine: tuple[subprocess.Popen[str], int],
) -> None:
    server, _ = engine
    for _ in range(3):
        done = prismtop("watch", "--pid", str(server.pid), "-n", "10", "--json")
        assert done.returncode == 0, done.stderr
    assert server.poll() is None


def test_a_reader_that_leaves_detaches_and_the_engine_lives_on(
    engine: tuple[subprocess.Popen[str], int],
) -> None:
    server, _ = engine
    command = f"{sys.executable} -m prismtop watch --pid {server.pid} --json | head -n 3"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3), done.stderr
    assert server.poll() is None
    assert prismtop("watch", "--pid", str(server.pid), "-n", "5", "--json").returncode == 0


def test_an_engine_that_ends_while_it_is_watched_is_reported(
    engine: tuple[subprocess.Popen[str], int],
) -> None:
    server, _ = engine
    process = start("watch", "--pid", str(server.pid), "--json")
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["type"] != "batch":
        pass
    os.kill(server.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "ended after" in err


def test_the_engines_own_count_is_the_count_of_batches(engine: tuple[subprocess.Popen[str], int]) -> None:
    from prismtop.sources.metrics import read
    from prismtop.targets.profiles import load_profiles

    server, port = engine
    rule = load_profiles()["demo"].metrics
    process = start("watch", "--pid", str(server.pid), "--json", "--duration", "6")
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["type"] != "batch":
        pass
    before = read(rule, port)
    time.sleep(3)
    after = read(rule, port)
    # Not communicate(): it reads past what the text layer has buffered since the last readline().
    out = process.stdout.read()
    assert process.wait(timeout=60) == 0
    wall = time.time_ns() - time.monotonic_ns()
    low, high = ((wall + reading.time_ns) / 1000 for reading in (before, after))
    lines = objects(out)
    seen = sum(line["type"] == "batch" and low < line["t_us"] + line["dur_us"] <= high for line in lines)
    lost = sum(line["count"] for line in lines if line["type"] == "lost")
    assert before.batch_count is not None
    assert after.batch_count is not None
    # Each reading may fall into a batch that is counted on one side and not yet on the other.
    assert abs(after.batch_count - before.batch_count - seen - lost) <= 2


def test_list_shows_the_running_engine(engine: tuple[subprocess.Popen[str], int]) -> None:
    server, port = engine
    groups = json.loads(prismtop("list", "--json").stdout)["groups"]
    targets = {target["pid"]: target for group in groups for target in group["targets"]}
    assert targets[server.pid]["engine"] == "demo"
    assert targets[server.pid]["ports"] == [port]
    assert targets[server.pid]["way_in"] in ("ptrace", "pep768")


def test_doctor_reads_the_engines_metrics(engine: tuple[subprocess.Popen[str], int]) -> None:
    server, port = engine
    answer = json.loads(prismtop("doctor", "--pid", str(server.pid), "--json").stdout)
    checks = {check["id"]: check for check in answer["checks"]}
    assert checks[f"target.{server.pid}"]["status"] == "ok"
    assert checks[f"metrics.{server.pid}"]["reason"].startswith(f"http://127.0.0.1:{port}/metrics")
