"""The merge in a process of its own gives the same as without, and its errors are ours."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.deepdive.apart import Apart
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import write_trace
from prismtop.errors import UnavailableError, UsageError
from prismtop.model import Capture, CapturePhase, CaptureRequest, Frame
from prismtop.sources.deep_fetched import FetchedDeep
from tests.factories import make_frame
from tests.unit.outside_processes import gone, wait_for
from tests.unit.trace_frames import full_frame

ROOT = Path(__file__).resolve().parents[2]
CAPTURE = Capture(1, CaptureRequest(), CapturePhase.MERGING, 10**12)
EVENT = LayerEvent("scheduler", "slice", "runs", 10**12 + 5, 1000, 4242, 4242, {"cpu": 1})


@pytest.fixture
def apart() -> Iterator[Apart]:
    made = Apart()
    yield made
    made.end()


def write(write_it: Any, target: Path, frames: Sequence[Frame] = ()) -> object:
    given = frames or [make_frame(5)]
    return write_it(target, frames=given, fetched=[], layers=iter([EVENT]), capture=CAPTURE)


def children() -> set[int]:
    """Processes that this one began and that run."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(word) for word in (task / "children").read_text().split()}
    return {pid for pid in found if not gone(pid)}


@pytest.mark.parametrize("begun", [False, True], ids=["begun when needed", "begun before"])
def test_it_writes_what_the_merge_here_would_write(apart: Apart, tmp_path: Path, begun: bool) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    if begun:
        apart.begin()
    assert write(apart.write, there) == write(write_trace, here)
    assert there.read_bytes() == here.read_bytes()


def test_frames_leave_behind_what_is_no_part_of_a_trace(
    apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = {("gpu_busy_ratio", f"gpu {n}"): (0.5,) * 120 for n in range(8)}
    first = full_frame()
    known = {"counters": first.new_counters, "alerts": first.changed_alerts, "batches": first.new_batches}
    first = replace(first, new_counters=(), changed_alerts=(), counter_history=history, **known)
    frames = [replace(first, time_ns=first.time_ns + n) for n in range(5)]
    write(write_trace, tmp_path / "here.json", frames)
    write(apart.write, tmp_path / "there.json", frames)
    assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
    given: list[bytes] = []
    monkeypatch.setattr("prismtop.deepdive.apart._Process.ask", lambda _, more: given.append(more))
    write(apart.write, tmp_path / "unwritten.json", frames)
    sent = pickle.loads(given[0])[1]
    assert [(frame.batches, dict(frame.counter_history)) for frame in sent] == [((), {})] * 5
    assert [len(frame.counters) for frame in sent] == [len(first.counters), 0, 0, 0, 0]


def test_a_refusal_is_raised_here(apart: Apart, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    with pytest.raises(UsageError.__bases__[0], match="exists already") as raised:
        write(apart.write, taken)
    assert raised.value.exit_code == 2
    assert taken.read_text() == "mine"


def test_a_process_that_dies_is_an_error_with_its_last_words(
    apart: Apart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no memory left' >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(UnavailableError, match="the process that merges failed: no memory left"):
        write(apart.write, tmp_path / "x.json")


def test_one_that_died_while_it_waited_is_replaced(apart: Apart, tmp_path: Path) -> None:
    before = children()
    apart.begin()
    (waiting,) = children() - before
    os.kill(waiting, 9)
    wait_for(lambda: gone(waiting), "its end")
    write(apart.write, tmp_path / "x.json")
    assert (tmp_path / "x.json").exists()


def test_it_is_begun_once_and_ended_when_nothing_is_to_be_merged(apart: Apart) -> None:
    before = children()
    apart.begin()
    apart.begin()
    (waiting,) = children() - before
    apart.end()
    wait_for(lambda: gone(waiting), "its end")


def test_one_that_writes_is_stopped_and_leaves_no_file(apart: Apart, tmp_path: Path) -> None:
    before = children()
    apart.begin()
    (waiting,) = children() - before
    os.kill(waiting, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(write, apart.write, tmp_path / "x.json")
        wait_for(lambda: apart._spare is None, "being asked")
        apart.end()
        os.kill(waiting, signal.SIGCONT)
        with pytest.raises(UnavailableError, match="the process that merges failed"):
            asked.result(30)
    assert list(tmp_path.iterdir()) == []


def test_after_its_end_nothing_is_written_until_it_is_begun_again(apart: Apart, tmp_path: Path) -> None:
    apart.end()
    with pytest.raises(UnavailableError, match="cancelled"):
        write(apart.write, tmp_path / "x.json")
    apart.begin()
    write(apart.write, tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_it_brings_nothing_of_how_a_process_is_entered() -> None:
    """All of that would be read from disk and run between the window and its trace."""
    fetched = pickle.dumps(FetchedDeep(1, Path("profile"), None))
    program = (
        "import pickle, sys\nfrom prismtop.deepdive import apart\napart._preload()\n"
        f"pickle.loads({fetched!r})\n"
        "print([name for name in sys.modules if name.startswith(('prismtop.attach', 'prismtop.probe'))])"
    )
    made = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (made.stdout.strip(), made.stderr) == ("[]", "")


def test_it_does_not_outlive_who_began_it() -> None:
    program = (
        "import sys, time\nfrom prismtop.deepdive.apart import Apart\napart = Apart()\napart.begin()\n"
        "print(apart._spare._process.pid, flush=True)\ntime.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        waiting = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        wait_for(lambda: gone(waiting), "its end")
    finally:
        owner.kill()
        owner.wait()
