"""Whatever happens to the injector, the target runs on as before and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prismtop.anomaly import recovery
from prismtop.anomaly.journal import all_journals, boot_id, make_header, path_for
from prismtop.targets.procfs import read_stat

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ROOT / "tests" / "integration" / "targets"
PATIENCE_S = 30.0
KILLS = 100


def start(*argv: object, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def prismtop(state: Path, *argv: object) -> subprocess.Popen[str]:
    return start("-m", "prismtop", "anomaly", *argv, XDG_STATE_HOME=str(state))


@pytest.fixture
def victim() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time\nwhile True: time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    return tmp_path / "prismtop" / "anomaly"


def state_of(pid: int) -> str:
    stat = read_stat(pid)
    return stat.state if stat is not None else "gone"


def wait_for(condition: Callable[[], bool]) -> bool:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.005)
    return True


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    assert wait_for(lambda: state_of(pid) == "T")


def gone(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.dead


def hang(journals: Path, victim: int, ttl_s: float) -> tuple[subprocess.Popen[str], int, int]:
    """An injector that has frozen the victim; its watchdog and its burner."""
    injector = start(TARGETS / "hung_injector.py", journals, victim, ttl_s)
    assert injector.stdout is not None
    watchdog, burner = map(int, injector.stdout.readline().split())
    return injector, watchdog, burner


def test_a_hundred_kills_at_random_moments_are_all_rolled_back(tmp_path: Path) -> None:
    process = start(TARGETS / "killed_injector.py", tmp_path, KILLS, 11)
    out, err = process.communicate(timeout=300)
    times = [json.loads(line) for line in out.splitlines()]
    assert len(times) == KILLS, err
    acts = [one["journal_lines"] for one in times]
    for what, name in (("target free", "victim_ms"), ("nothing left", "ms")):
        each = [one[name] for one in times]
        soon = sum(ms < 100 for ms in each)
        print(f"kill -9 to {what}: median {statistics.median(each):.0f} ms, {soon} of {KILLS} within 100 ms")
    assert [one for one in times if one["left"]] == []
    assert max(acts) >= 4, "no kill came late enough to have anything to undo"


def test_after_a_hundred_kills_no_journal_is_left(tmp_path: Path) -> None:
    start(TARGETS / "killed_injector.py", tmp_path, 5, 12).communicate(timeout=120)
    assert all_journals(tmp_path) == []


def test_an_injector_that_hangs_is_ended_when_its_time_is_up(journals: Path, victim: int) -> None:
    injector, _, burner = hang(journals, victim, 1.0)
    assert injector.wait(PATIENCE_S) == -signal.SIGKILL
    assert wait_for(lambda: not all_journals(journals))
    assert wait_for(lambda: state_of(victim) == "S" and gone(burner))


def test_an_injector_that_is_stopped_is_ended_when_its_time_is_up(journals: Path, victim: int) -> None:
    injector, _, _ = hang(journals, victim, 1.0)
    injector.send_signal(signal.SIGSTOP)
    assert injector.wait(PATIENCE_S) == -signal.SIGKILL
    assert wait_for(lambda: state_of(victim) == "S")


def test_recover_undoes_what_a_killed_watchdog_could_not(journals: Path, victim: int) -> None:
    injector, watchdog, burner = hang(journals, victim, 60.0)
    os.kill(watchdog, signal.SIGKILL)
    injector.kill()
    injector.wait()
    assert wait_for(lambda: gone(watchdog) and state_of(victim) == "T")
    (made,) = recovery.recover(journals)
    assert (made.ok, made.scenario) == (True, "test")
    assert wait_for(lambda: state_of(victim) == "S" and gone(burner))
    assert all_journals(journals) == []


def test_recover_leaves_a_running_experiment_alone(journals: Path, victim: int) -> None:
    injector, _, _ = hang(journals, victim, 60.0)
    assert recovery.recover(journals) == []
    assert wait_for(lambda: state_of(victim) == "T")
    injector.kill()
    injector.wait()
    assert wait_for(lambda: not all_journals(journals))


def test_recover_ends_an_injector_that_lost_its_watchdog(journals: Path, victim: int) -> None:
    injector, watchdog, _ = hang(journals, victim, 60.0)
    os.kill(watchdog, signal.SIGKILL)
    assert wait_for(lambda: not all_journals(journals)[0].running)
    recovery.recover(journals)
    assert injector.wait(PATIENCE_S) == -signal.SIGKILL
    assert wait_for(lambda: state_of(victim) == "S")


def write_journal(directory: Path, pid: int, start_time: int, *lines: str) -> Path:
    path = path_for(directory, pid, start_time)
    directory.mkdir(parents=True)
    header = make_header("old", "test", pid, start_time)
    header = type(header)(**{**header.__dict__, "injector": 2**22 + 5, "injector_start": 1})
    path.write_text("\n".join([header.line(), *lines]))
    return path


def test_an_act_that_was_not_finished_in_the_journal_was_not_done(journals: Path) -> None:
    path = write_journal(journals, 2**22 + 3, 1, '{"kind": "directory", "pa')
    (made,) = recovery.recover(journals)
    assert (made.ok, path.exists()) == (True, False)


def test_a_process_with_a_reused_pid_is_left_alone(journals: Path, victim: int) -> None:
    freeze(victim)
    stat = read_stat(victim)
    assert stat is not None
    act = json.dumps({"kind": "continue", "pid": victim, "start": stat.start_time + 1})
    write_journal(journals, victim, stat.start_time + 1, act, "")
    (made,) = recovery.recover(journals)
    assert (made.ok, state_of(victim)) == (True, "T")
    os.kill(victim, signal.SIGCONT)


def test_a_directory_that_was_not_made_here_is_not_removed(journals: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    path = write_journal(journals, 2**22 + 3, 1, json.dumps({"kind": "directory", "path": str(precious)}), "")
    (made,) = recovery.recover(journals)
    assert (made.ok, precious.exists(), path.exists()) == (False, True, True)


def test_a_file_outside_sysfs_is_not_written_to(journals: Path, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("mine")
    write_journal(journals, 2**22 + 3, 1, json.dumps({"kind": "value", "path": str(file), "old": "1"}), "")
    assert recovery.recover(journals)[0].ok is False
    assert file.read_text() == "mine"


def test_one_failure_keeps_nothing_else_from_being_undone(journals: Path, victim: int) -> None:
    freeze(victim)
    stat = read_stat(victim)
    assert stat is not None
    acts = [{"kind": "continue", "pid": victim, "start": stat.start_time}, {"kind": "no such kind"}]
    write_journal(journals, victim, stat.start_time, *map(json.dumps, acts), "")
    assert recovery.recover(journals)[0].ok is False
    assert wait_for(lambda: state_of(victim) == "S")


def test_the_journal_is_readable_by_its_owner_only(journals: Path, victim: int) -> None:
    injector, _, _ = hang(journals, victim, 60.0)
    (journal,) = all_journals(journals)
    assert (journal.path.stat().st_mode & 0o777, journals.stat().st_mode & 0o777) == (0o600, 0o700)
    assert journal.header is not None
    assert journal.header.boot == boot_id()
    injector.kill()
    injector.wait()
    assert wait_for(lambda: not all_journals(journals))


def test_a_run_undoes_everything_and_says_so(tmp_path: Path, victim: int, journals: Path) -> None:
    out, err = prismtop(
        tmp_path, "run", "freeze_bursts", "--pid", victim, "--duration", "0.5", "--yes", "--json"
    ).communicate(timeout=60)
    said = json.loads(out)
    assert (said["rollback"], said["kind"], err) == ("ok", "fault", "")
    assert (state_of(victim), all_journals(journals)) == ("S", [])


def test_a_second_experiment_on_a_target_is_refused(tmp_path: Path, victim: int, journals: Path) -> None:
    injector, _, _ = hang(journals, victim, 60.0)
    os.kill(victim, signal.SIGCONT)
    assert wait_for(lambda: state_of(victim) == "S")
    second = prismtop(tmp_path, "run", "freeze_bursts", "--pid", victim, "--duration", "0.5", "--yes")
    _, err = second.communicate(timeout=60)
    assert (second.returncode, "already runs" in err) == (2, True)
    injector.kill()
    injector.wait()
    assert wait_for(lambda: not all_journals(journals))


def test_stop_ends_a_run_and_waits_until_it_is_undone(tmp_path: Path, victim: int, journals: Path) -> None:
    run = prismtop(tmp_path, "run", "freeze_bursts", "--pid", victim, "--duration", "60", "--yes")
    assert wait_for(lambda: bool(all_journals(journals)) and len(all_journals(journals)[0].acts) >= 2)
    stop = prismtop(tmp_path, "stop", "--json")
    out, _ = stop.communicate(timeout=60)
    (one,) = json.loads(out)["experiments"]
    assert (stop.returncode, one["ok"], state_of(victim)) == (0, True, "S")
    run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM


def test_ctrl_c_undoes(tmp_path: Path, victim: int, journals: Path) -> None:
    run = prismtop(tmp_path, "run", "freeze_bursts", "--pid", victim, "--duration", "60", "--yes")
    assert wait_for(lambda: bool(all_journals(journals)) and len(all_journals(journals)[0].acts) >= 2)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGINT
    assert (state_of(victim), all_journals(journals)) == ("S", [])


def test_a_target_that_ends_ends_the_experiment(tmp_path: Path, journals: Path) -> None:
    target = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    run = prismtop(
        tmp_path, "run", "freeze_bursts", "--pid", target.pid, "--duration", "60", "--yes", "--json"
    )
    assert wait_for(lambda: bool(all_journals(journals)) and len(all_journals(journals)[0].acts) >= 2)
    target.kill()
    target.wait()
    out, _ = run.communicate(timeout=60)
    assert (run.returncode, json.loads(out)["ended_by"], all_journals(journals)) == (0, "target", [])
