"""A whole capture of the real demo engine, and what is left of one whose prismtop was killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prismtop.sources.ring import find_ring
from tests.integration.test_cli_demo import PRISMTOP, ROOT, wait_until_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only")


@dataclass
class Engine:
    """The demo engine, under load."""

    pid: int
    url: str

    def answers(self) -> bool:
        """Whether a request gets its tokens."""
        body = json.dumps({"prompt_len": 8, "max_tokens": 3}).encode()
        request = urllib.request.Request(f"{self.url}/generate", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return len(answer.read().splitlines()) >= 3


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Steps of about a millisecond, so that windows are short."""
    small = ["--layers", "2", "--hidden", "64", "--intermediate", "128"]
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0", "--die-with-parent", *small],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    url = f"http://127.0.0.1:{server.stdout.readline().rsplit(':', 1)[-1].strip()}"
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", "--url", url, "--duration", "0", "--rate", "8"],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Engine(server.pid, url)
    finally:
        for process in (load, server):
            process.kill()
            process.wait()


def capture(engine: Engine, path: Path, *more: str) -> dict[str, Any]:
    """`prismtop deepdive --json`, whole."""
    made = subprocess.run(
        [*PRISMTOP, "deepdive", f"--pid={engine.pid}", "--json", "--yes", "-o", str(path), *more],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert isinstance(found, dict)
    return found


def checked(path: Path) -> dict[str, Any]:
    """`prismtop trace check`: what both viewers would say."""
    made = subprocess.run(
        [*PRISMTOP, "trace", "check", str(path), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    found = json.loads(made.stdout)
    assert isinstance(found, dict)
    return found


def left_behind() -> list[str]:
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("prismtop-deepdive-")]


def killed_in(engine: Engine, path: Path, phase: str) -> None:
    """Kill -9 a prismtop in that phase."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.dive_process", str(engine.pid), str(path), phase],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        seen = []
        for line in process.stdout:
            seen.append(line.strip())
            if line.split()[0] == phase:
                break
        assert seen, "it said nothing"
        assert seen[-1].split()[0] == phase, seen
        tree = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert wait_until_gone([int(pid) for pid in tree], 20) == []


@pytest.mark.parametrize("phase", ["preparing", "armed", "capturing", "merging"])
def test_a_prismtop_killed_in_any_phase_leaves_the_engine_healthy(
    engine: Engine, tmp_path: Path, phase: str
) -> None:
    killed_in(engine, tmp_path / "killed.json.gz", phase)
    assert engine.answers()
    assert not (tmp_path / "killed.json.gz").exists()


def test_after_them_a_capture_ends_in_one_sound_trace_and_a_healthy_engine(
    engine: Engine, tmp_path: Path
) -> None:
    before = left_behind()
    path = tmp_path / "dive.json.gz"
    made = capture(engine, path)
    layers = {layer["name"]: layer for layer in made["layers"]}
    assert (made["phase"], made["path"], made["batches"]) == ("done", str(path), 50)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert layers["python"]["events"] > 0
    assert layers["batches"]["events"] >= 50
    assert layers["operators"]["reason"] == "PyTorch is not loaded in this process"
    assert made["stall_ms"] > 0
    checked(path)
    assert left_behind() == before
    assert engine.answers()
    assert find_ring(engine.pid) is None


def test_ctrl_c_cancels_without_a_file(engine: Engine, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *PRISMTOP, "deepdive", f"--pid={engine.pid}", "--yes", "-o", str(tmp_path / "no.json"),
            "--batches", "1000", "--max-seconds", "60", "--set", "ui_hz=10",
        ],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "gpu" in line:
            break
    process.send_signal(signal.SIGINT)
    said.append(process.stderr.read())
    assert process.wait(60) == 130, said
    assert list(tmp_path.iterdir()) == []
    assert engine.answers()
