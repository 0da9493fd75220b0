"""Discovery of real processes: the demo engine, and real engines where they are installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.model.target import Group
from prismtop.targets.discovery import discover, group_of, identity, still_alive
from prismtop.targets.profiles import load_profiles

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT.parent / "shared" / "tools" / "engines" / "serve.sh"
ENGINES = Path(
    os.environ.get("ENGINES")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prismtop-engines"
)


def no_way(pid: int) -> tuple[str, str]:
    return "external", ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def demo() -> Iterator[tuple[int, int]]:
    """(pid, port) of a running demo engine."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--layers", "1", "--die-with-parent"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield process.pid, int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def test_the_demo_engine_is_found_with_its_port_and_interpreter(demo: tuple[int, int]) -> None:
    pid, port = demo
    group = next(g for g in discover(load_profiles(), way=no_way) if any(m.id.pid == pid for m in g.members))
    target = group.members[0]
    assert (group.engine, target.role, target.probed, target.ports) == ("demo", "engine", True, (port,))
    assert target.python is not None
    assert target.python[:2] == sys.version_info[:2]
    assert target.id == identity(pid)


def test_a_process_that_ended_is_no_longer_itself(demo: tuple[int, int]) -> None:
    id = identity(demo[0])
    assert still_alive(id)
    os.kill(id.pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while still_alive(id) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not still_alive(id)


def test_this_test_is_of_no_known_engine() -> None:
    group = group_of(os.getpid(), load_profiles(), way=no_way)
    assert (group.engine, group.members[0].probed) == ("unknown", True)
    assert group.members[0].python is not None


def serve(kind: str, port: int) -> subprocess.Popen[bytes]:
    if not SERVE.is_file() or shutil.which("bash") is None:
        pytest.skip(f"{SERVE} is not here: it starts the real engines")
    if not (ENGINES / kind / "bin").is_dir():
        pytest.skip(f"{kind} is not installed under {ENGINES}")
    return subprocess.Popen(
        ["bash", str(SERVE), kind, "tiny", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not answer within 300 s")


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Group]:
    """The group of a real server that was started for this test."""
    port = free_port()
    process = serve(request.param, port)
    try:
        wait_until_it_answers(process, port)
        yield group_of(process.pid, load_profiles(), way=no_way)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.mark.real_engine
@pytest.mark.parametrize("engine", ["hf"], indirect=True)
def test_a_real_transformers_server_is_one_probed_process(engine: Group) -> None:
    (target,) = engine.members
    assert (engine.engine, target.role, target.probed) == ("transformers", "engine", True)
    assert engine.version is not None
    assert target.model == "models/qwen3-tiny"
    assert len(target.ports) == 1


@pytest.mark.real_engine
@pytest.mark.parametrize("engine", ["vllm"], indirect=True)
def test_a_real_vllm_is_a_frontend_an_engine_core_and_a_worker(engine: Group) -> None:
    assert engine.engine == "vllm"
    assert [target.role for target in engine.members] == ["frontend", "engine_core", "worker"]
    frontend, core, worker = engine.members
    assert (core.parent, worker.parent) == (frontend.id, core.id)
    assert {target.version for target in engine.members} == {engine.version}
    assert engine.version is not None
    assert {target.model for target in engine.members} == {"models/qwen3-tiny"}
    assert len(frontend.ports) == 1


@pytest.mark.real_engine
@pytest.mark.parametrize("engine", ["sgl"], indirect=True)
def test_a_real_sglang_is_a_frontend_with_scheduler_and_detokenizer(engine: Group) -> None:
    assert engine.engine == "sglang"
    assert sorted(target.role for target in engine.members) == ["detokenizer", "frontend", "scheduler"]
    assert [target.role for target in engine.probed] == ["scheduler"]
    assert {target.model for target in engine.members} == {"models/qwen3-tiny"}
    assert engine.version is not None
