"""The injector is killed at every step, and the target lives on with its own registers."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prismtop.attach.errors import AttachError
from tests.integration.targets.harness import (
    HERE,
    enter,
    newest_python,
    python_or_skip,
    run_injector,
    running,
)

FIRST_STOP = ("seized", "stopped", "prepared", "changed", "syscall 9 entered", "syscall 9 left", "restored")
SECOND_STOP = ("seized", "stopped", "prepared", "changed", "called", "restored")
STEPS = (
    *((step, 1) for step in FIRST_STOP),
    ("source written", 1),
    *((step, 1 if step == "called" else 2) for step in SECOND_STOP),
    ("queued", 1),
)
"""Every step of an injection, and the how-manieth time it is reached."""
CASES = [("loop", "aux"), ("spin", "main"), ("select", "main"), ("sleep", "main")]


def test_the_steps_tested_here_are_all_steps_there_are(tmp_path: Path) -> None:
    with running("loop", tmp_path) as target:
        done = run_injector(target.pid, "aux")
        assert done.returncode == 0, done.stderr
        steps = list(dict.fromkeys(step for step, _ in STEPS))
        assert f'"steps": {steps}'.replace("'", '"') in done.stdout


@pytest.mark.parametrize(("step", "nth"), STEPS)
@pytest.mark.parametrize(("mode", "where"), CASES)
@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.13"])
def test_the_target_lives_when_the_injector_is_killed_at(
    minor: str, mode: str, where: str, step: str, nth: int, tmp_path: Path
) -> None:
    with running(mode, tmp_path, python_or_skip(minor)) as target:
        killed = run_injector(target.pid, where, 1, step, str(nth))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert target.works()
        again = run_injector(target.pid, where)  # and it can be entered again
        assert again.returncode == 0, again.stderr
        assert target.works()


def test_the_target_lives_when_the_helper_is_killed_at_random(tmp_path: Path) -> None:
    """The real helper, SIGKILLed from outside at a random moment of its life."""
    ended = []
    with running("loop", tmp_path) as target:
        for _ in range(25):
            stop = threading.Event()
            killer = threading.Thread(target=_kill_helper, args=(random.uniform(0.05, 0.2), stop, ended))
            killer.start()
            with contextlib.suppress(AttachError):
                enter(target, "import os\nos.close(os.memfd_create('prismtop-%(nonce)s'))", timeout_s=0.05)
            stop.set()
            killer.join()
            assert target.works()
    assert ended, "no helper was hit"


def _kill_helper(after_s: float, stop: threading.Event, ended: list[int]) -> None:
    time.sleep(after_s)
    while not stop.is_set():
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if b"prismtop.attach.helper" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
                    ended.append(int(child))
                    return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def vector_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    if " avx" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX")
    library = tmp_path_factory.mktemp("lib") / "vector_check.so"
    subprocess.run(
        ["gcc", "-O2", "-mavx", "-shared", "-fPIC", "-o", str(library), str(HERE / "vector_check.c")],
        check=True,
    )
    return library


def run_vectors(
    library: Path, tmp: Path, seconds: float, work: Callable[[int], None]
) -> tuple[int, int, int]:
    """Start the register checker, call `work(pid)`, and return (exit status, rounds, mismatches)."""
    counter = tmp / "vectors"
    counter.write_bytes(bytes(16))
    process = subprocess.Popen(
        [newest_python(), str(HERE / "vectors.py"), str(library), str(seconds), str(counter)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        time.sleep(0.1)
        work(pid)
        process.wait(timeout=seconds + 20)
    finally:
        process.kill()
        process.communicate()
    turns, bad = (int.from_bytes(counter.read_bytes()[i : i + 8], "little") for i in (0, 8))
    return process.returncode, turns, bad


def clobber(pid: int, library: Path, count: int, *step: str) -> int:
    script = str(HERE / "clobber.py")
    return subprocess.run([sys.executable, script, str(pid), str(library), str(count), *step]).returncode


def test_vector_registers_and_red_zone_survive_injections(vector_library: Path, tmp_path: Path) -> None:
    def inject_many(pid: int) -> None:
        # The queue holds 32 calls at most (300 from 3.13 on), and none runs while the GIL is held.
        done = run_injector(pid, "main", 30)
        assert done.returncode == 0, done.stderr
        assert '"done": 30' in done.stdout

    status, turns, bad = run_vectors(vector_library, tmp_path, 8.0, inject_many)
    assert (status, bad) == (0, 0)
    assert turns > 100


def test_vector_registers_survive_a_call_that_spoils_them(vector_library: Path, tmp_path: Path) -> None:
    def spoil(pid: int) -> None:
        assert clobber(pid, vector_library, 200) == 0

    status, turns, bad = run_vectors(vector_library, tmp_path, 6.0, spoil)
    assert (status, bad) == (0, 0)
    assert turns > 100


@pytest.mark.parametrize("step", ["changed", "called"])
def test_spoiled_vector_registers_come_back_when_the_injector_dies(
    step: str, vector_library: Path, tmp_path: Path
) -> None:
    def kill_many(pid: int) -> None:
        for _ in range(12):
            assert clobber(pid, vector_library, 1, step) == -signal.SIGKILL

    status, turns, bad = run_vectors(vector_library, tmp_path, 8.0, kill_many)
    assert (status, bad) == (0, 0)
    assert turns > 100
