"""Processes and libraries for the layers of a capture that work from outside."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WAITED_S = 60.0
NCCL = "int ncclAllReduce(int x) { return x + 1; } int other(void) { return 2; }"


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAITED_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


@contextmanager
def python_programs() -> Iterator[Callable[[str], int]]:
    """Starts Python programs; kills them afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(text: str) -> int:
        started.append(subprocess.Popen([sys.executable, "-c", text]))
        return started[-1].pid

    try:
        yield start
    finally:
        for one in started:
            one.kill()
            one.wait()


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def library(where: Path, text: str) -> Path:
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler: a library that looks like NCCL cannot be built")
    made = where / "libnccl.so.2"
    done = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(made), "-xc", "-"], input=text.encode()
    )
    assert done.returncode == 0
    return made
