"""prismtop sees when Linux leaves it waiting for a processor, says so, and takes a little more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prismtop.own_priority import NICE, PERIOD_NS, OwnPriority, Share

SECOND = 1_000_000_000


def proc_with(folder: Path, *, ran_ms: float, waited_ms: float, session: int | None = None) -> str:
    """A /proc that tells how the calling thread fared so far."""
    (folder / "thread-self").mkdir(exist_ok=True)
    figures = f"{int(ran_ms * 1e6)} {int(waited_ms * 1e6)} 7\n"
    (folder / "thread-self/schedstat").write_text(figures)
    if session is not None:
        (folder / "self").mkdir(exist_ok=True)
        (folder / "self/autogroup").write_text(f"/autogroup-12 nice {session}\n")
    return str(folder)


def looked(proc: str, *, times: int = 1, may_raise: bool = False) -> tuple[OwnPriority, tuple[str, ...]]:
    priority = OwnPriority(may_raise, proc)
    said: tuple[str, ...] = ()
    for n in range(times):
        priority.look((n + 2) * PERIOD_NS)
        said += priority.warnings()
    return priority, said


def test_a_thread_that_waits_nine_tenths_of_its_time_is_starved() -> None:
    assert Share(ran_ns=SECOND // 10, waited_ns=SECOND * 9 // 10).starved


def test_a_thread_that_shares_a_core_with_one_other_is_not_starved() -> None:
    assert not Share(ran_ns=SECOND // 2, waited_ns=SECOND // 2).starved


def test_a_thread_that_hardly_wants_a_core_is_not_starved() -> None:
    assert not Share(ran_ns=SECOND // 1000, waited_ns=SECOND // 50).starved


def test_the_share_that_it_got_is_said(tmp_path: Path) -> None:
    _, said = looked(proc_with(tmp_path, ran_ms=300, waited_ms=2_700))
    assert "for 10% of the time that it wanted one" in said[0]


def test_what_gives_it_more_is_said_where_it_may_not_raise_its_priority(tmp_path: Path) -> None:
    _, said = looked(proc_with(tmp_path, ran_ms=300, waited_ms=2_700))
    assert f"'echo {NICE} | sudo tee /proc/{os.getpid()}/autogroup'" in said[0]


def test_it_is_said_once(tmp_path: Path) -> None:
    _, said = looked(proc_with(tmp_path, ran_ms=300, waited_ms=2_700), times=3)
    assert len(said) == 1


def test_nothing_is_said_where_it_gets_what_it_wants(tmp_path: Path) -> None:
    assert looked(proc_with(tmp_path, ran_ms=300, waited_ms=20))[1] == ()


def test_nothing_is_said_where_the_kernel_does_not_count(tmp_path: Path) -> None:
    assert looked(str(tmp_path))[1] == ()


def test_only_what_was_added_since_the_last_look_counts(tmp_path: Path) -> None:
    priority, _ = looked(proc_with(tmp_path, ran_ms=9_000, waited_ms=9_000))
    proc_with(tmp_path, ran_ms=9_050, waited_ms=9_900)
    priority.look(10 * PERIOD_NS)
    assert "5%" in priority.warnings()[0]


def test_a_second_look_within_a_second_does_not_read(tmp_path: Path) -> None:
    priority, _ = looked(proc_with(tmp_path, ran_ms=300, waited_ms=20))
    proc_with(tmp_path, ran_ms=310, waited_ms=9_000)
    priority.look(2 * PERIOD_NS + 1)
    assert priority.warnings() == ()


RAISED = """
import os, sys, threading
from prismtop.own_priority import OwnPriority
def now():
    session = open(sys.argv[1] + "/self/autogroup").read()
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), session
priority = OwnPriority(True, sys.argv[1])
before = now()
priority.look(2_000_000_000)
print(priority.raised, now(), "runs at nice -5" in priority.warnings()[0])
priority.restore()
print(now()[0] == before[0], now()[1])
"""


@pytest.fixture(scope="module")
def may_raise() -> None:
    """Skips where this user may not lower a nice value."""
    tried = subprocess.run([sys.executable, "-c", "import os; os.nice(-1)"], capture_output=True)
    if tried.returncode:
        pytest.skip("lowering a nice value needs CAP_SYS_NICE")


def raised(folder: Path) -> list[str]:
    """What a process of its own prints that raises and restores its priority; its session is a plain file."""
    proc = proc_with(folder, ran_ms=300, waited_ms=2_700, session=0)
    done = subprocess.run([sys.executable, "-c", RAISED, proc], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_it_raises_the_thread_and_the_session_where_it_may(tmp_path: Path, may_raise: None) -> None:
    assert raised(tmp_path)[0] == "True (-5, '-5') True"


def test_it_gives_both_back(tmp_path: Path, may_raise: None) -> None:
    assert raised(tmp_path)[1] == "True 0"
