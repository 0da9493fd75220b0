"""A terminal that is lost while the screen records: the recording runs on, and the next screen offers it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only")
WAIT_S = 60.0


@pytest.fixture
def engine() -> Iterator[int]:
    """The pid of a demo engine with load of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    port = re.search(r":(\d+)", server.stdout.readline())
    assert port is not None
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", "--url", f"http://127.0.0.1:{port[1]}", "--duration",
         "0"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield server.pid
    for process in (load, server):
        process.kill()
        process.wait()


class Terminal:
    """A terminal that can be taken away."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                TERM="xterm-256color", LC_ALL="C.UTF-8", PYTHONPATH=str(ROOT), XDG_STATE_HOME=str(folder),
                XDG_CONFIG_HOME=str(folder),
            )  # fmt: skip
            os.execv(sys.executable, [sys.executable, "-m", "prismtop", "--pid", str(pid)])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self.output = ""

    def read(self, until: str) -> None:
        end = time.monotonic() + WAIT_S
        while until not in self.output:
            assert time.monotonic() < end, f"{until!r} did not come: {self.output[-2000:]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.output += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"it ended without {until!r}: {self.output[-2000:]!r}") from None

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def lose(self) -> None:
        os.close(self.fd)

    def end(self) -> int:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("it did not end")


def recordings(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "prismtop", "record", "--list", "--json"],
        cwd=ROOT, env={**os.environ, "XDG_STATE_HOME": str(folder)}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return list(json.loads(done.stdout)["recordings"])


def test_a_recording_outlives_its_terminal_and_is_rejoined(engine: int, tmp_path: Path) -> None:
    first = Terminal(engine, tmp_path)
    first.read("batch/s")
    first.type(b"R")
    first.read("REC")
    first.lose()
    assert first.end() == 128 + signal.SIGHUP
    (running,) = recordings(tmp_path)
    traces = {Path(running["path"]), *tmp_path.rglob("*.json*")} - set(tmp_path.rglob("running/*"))
    assert len(traces) >= 2, "the file of the screen, and the one that goes on"

    second = Terminal(engine, tmp_path)
    second.read("Rejoin it?")
    second.type(b"y\r")
    second.read("batch/s")
    second.read("REC")
    assert recordings(tmp_path) == []
    second.type(b"q")
    assert second.end() == 0
    second.lose()


def test_a_lost_terminal_without_a_recording_leaves_nothing_behind(engine: int, tmp_path: Path) -> None:
    terminal = Terminal(engine, tmp_path)
    terminal.read("batch/s")
    terminal.lose()
    assert terminal.end() == 128 + signal.SIGHUP
    assert recordings(tmp_path) == []
