"""prismtop as a process: signals, closed streams, start-up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

ENDLESS = """
import itertools, sys
sys.path.insert(0, {root!r})
import prismtop.commands.watch as watch
from tests.factories import make_batch, make_frame, make_group
from tests.unit.doubles import FakeSession

class Endless(FakeSession):
    def tick(self):
        self.ticks += 1
        return make_frame({batches})
    def close(self):
        print("detached", file=sys.stderr, flush=True)
        return ()

watch.only_group = lambda *_: make_group()
watch.open_session = lambda *_, **__: Endless([])
from prismtop.cli import entry
entry()
"""


def start(*argv: str, batches: int = 1, **options: object) -> subprocess.Popen[bytes]:
    """`prismtop` on a session that never ends."""
    program = ENDLESS.format(root=str(ROOT), batches=batches)
    return subprocess.Popen(
        [sys.executable, "-c", program, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what was read here is not missing from communicate()
        **options,  # type: ignore[call-overload]
    )


def first_lines(process: subprocess.Popen[bytes], count: int) -> list[dict[str, object]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_detaches_and_is_the_exit_code(number: int, code: int) -> None:
    process = start("watch", "--json", batches=200)
    first_lines(process, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert err == b"detached\n"
    for line in out.splitlines():
        json.loads(line)  # none is cut in its middle


def test_nohup_survives_the_end_of_the_terminal() -> None:
    process = start("watch", "--json", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    first_lines(process, 2)
    process.send_signal(signal.SIGHUP)
    first_lines(process, 5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=20)


@pytest.mark.parametrize("batches", [1, 0])
def test_a_reader_that_leaves_ends_it_quietly_and_detaches(batches: int) -> None:
    process = start("watch", "--json", batches=batches)
    first_lines(process, 1)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=20) == 0
    assert process.stderr.read() == b"detached\n"
    process.stderr.close()


def test_started_without_a_stdout_it_ends_quietly() -> None:
    command = f"{sys.executable} -m prismtop config show >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "<&- >&-"])
def test_started_without_a_stdout_it_does_what_it_is_asked_to(closed: str) -> None:
    command = f"{sys.executable} -m prismtop list --pid {2**22 + 1} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"no process" in done.stderr


def test_started_without_a_stderr_errors_are_still_exit_codes() -> None:
    command = f"{sys.executable} -m prismtop nonsense 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence() -> None:
    command = f"{sys.executable} -m prismtop config show >/dev/full"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 3
    assert done.stderr == b"prismtop: cannot write to stdout: No space left on device.\n"


def test_rows_reach_a_pipe_while_it_runs() -> None:
    process = start("watch")
    assert process.stdout is not None
    started = time.monotonic()
    rows = [process.stdout.readline() for _ in range(4)]
    assert b"mode" in rows[0]
    assert process.poll() is None, f"ended after {time.monotonic() - started:.1f} s"
    process.terminate()
    process.communicate(timeout=20)


def test_stderr_has_no_spinner_and_no_escape_sequence_when_it_is_no_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prismtop", "list"], cwd=ROOT, capture_output=True, check=False
    )
    assert b"\x1b" not in done.stderr + done.stdout
