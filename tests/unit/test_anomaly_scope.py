"""Who is refused as a target, and what must be agreed to first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.anomaly import scope
from prismtop.anomaly.catalogue import SCENARIOS, scenario
from prismtop.anomaly.scenario import Request
from prismtop.cli import main
from prismtop.errors import PermissionDeniedError, UsageError
from prismtop.targets.procfs import Status, pids, read_stat


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv(scope.MARKER_VARIABLE, raising=False)


def start_sleeper(**more: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, **more}
    program = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", program], env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = start_sleeper()
    yield process.pid
    end(process)


def run(*argv: object) -> int:
    return main(["anomaly", *map(str, argv)])


def test_init_is_never_a_target() -> None:
    with pytest.raises(UsageError, match="process 1 is init"):
        scope.identify(1)


def test_prismtop_itself_is_never_a_target() -> None:
    with pytest.raises(UsageError, match="prismtop itself"):
        scope.identify(os.getpid())


def test_an_ancestor_is_never_a_target() -> None:
    if os.getppid() <= 1:
        pytest.skip("the parent of this process is init")
    with pytest.raises(UsageError, match="one of its ancestors"):
        scope.identify(os.getppid())


def test_a_kernel_thread_is_never_a_target() -> None:
    thread = next((pid for pid in pids() if (stat := read_stat(pid)) and stat.kernel_thread), None)
    if thread is None:
        pytest.skip("no kernel thread is visible here")
    with pytest.raises(UsageError, match="kernel thread"):
        scope.identify(thread)


def test_a_stopped_process_is_refused_because_the_rollback_would_wake_it(sleeper: int) -> None:
    os.kill(sleeper, signal.SIGSTOP)
    limit = time.monotonic() + 10
    while (stat := read_stat(sleeper)) and stat.state != "T" and time.monotonic() < limit:
        time.sleep(0.01)
    with pytest.raises(UsageError, match="stopped or traced"):
        scope.identify(sleeper)


def test_a_process_that_does_not_exist_is_refused() -> None:
    assert run("run", "freeze_bursts", "--pid", 2**22 + 1, "--yes") == 2


def test_two_targets_are_refused(sleeper: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "freeze_bursts", "--pid", sleeper, "--pid", sleeper + 1, "--yes") == 2
    assert "one target at a time" in capsys.readouterr().err


def test_a_run_without_a_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "freeze_bursts", "--yes") == 2
    assert "--pid" in capsys.readouterr().err


def test_another_users_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "read_status", lambda pid: Status(pid, os.getuid() + 1, pid, 1))
    with pytest.raises(PermissionDeniedError, match="belongs to"):
        scope.check_owner(4242, other_user=False)


def test_another_users_process_is_accepted_when_that_is_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "read_status", lambda pid: Status(pid, os.getuid() + 1, pid, 1))
    scope.check_owner(4242, other_user=True)


def test_a_production_file_refuses(sleeper: int, tmp_path: Path) -> None:
    marker = tmp_path / "production"
    marker.touch()
    assert "exists" in scope.production_marker(sleeper, {}, (str(marker),))


def test_a_production_variable_of_ours_refuses(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scope.MARKER_VARIABLE, "1")
    assert run("run", "freeze_bursts", "--pid", sleeper, "--duration", "0.1", "--yes") == 2


def test_a_production_variable_of_the_target_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    process = start_sleeper(APP_ENV="production")
    try:
        code = run("run", "freeze_bursts", "--pid", process.pid, "--duration", "0.1", "--yes")
    finally:
        end(process)
    assert (code, "this is production" in capsys.readouterr().err) == (2, True)


def test_a_variable_that_says_no_is_no_marker(sleeper: int) -> None:
    assert scope.production_marker(sleeper, {scope.MARKER_VARIABLE: "0"}, ()) == ""


def test_a_fault_on_the_whole_machine_needs_agreement(
    sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "disk_pressure", "--pid", sleeper, "--yes") == 2
    assert "--host-wide" in capsys.readouterr().err


def test_burners_on_every_cpu_need_agreement(sleeper: int) -> None:
    everywhere = tuple(range(os.cpu_count() or 1))
    request = Request(sleeper, 0, cpus=everywhere)
    with pytest.raises(UsageError, match="--cpus"):
        scope.check_scope(scenario("cpu_compute_squeeze_out"), request)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"duration_s": 601.0}, "duration"), ({"intensity": 1.5}, "intensity"), ({"ramp_s": 31.0}, "ramp")],
)
def test_a_number_out_of_range_is_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scope.check_scope(scenario("freeze_bursts"), Request(4242, 1, **changes))


def test_without_yes_only_the_plan_is_printed(sleeper: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "freeze_bursts", "--pid", sleeper, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"][0].startswith(f"SIGSTOP to {sleeper}")
    assert "nothing was done" in said.err


def test_a_plan_leaves_no_journal(sleeper: int, tmp_path: Path) -> None:
    run("plan", "freeze_bursts", "--pid", sleeper)
    assert list(tmp_path.rglob("*.journal")) == []


def test_the_paper_s_eight_are_there() -> None:
    assert {one.id for one in SCENARIOS if one.paper} == {
        "cpu_compute_squeeze_out",
        "cpu_frequency_reduction",
        "cpu_swap",
        "gpu_instability",
        "gpu_memory_squeeze_out_nvlink",
        "gpu_memory_squeeze_out_pcie",
        "gpu_preemption",
        "gpu_swap",
    }


def test_every_scenario_that_is_unavailable_says_why() -> None:
    assert [one.id for one in SCENARIOS if not (there := one.check(None)).ok and not there.reason] == []


def test_the_list_says_for_each_whether_it_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["scenarios"]
    assert {row["id"] for row in rows if not row["available"]} == {
        row["id"] for row in rows if row.get("reason")
    }


def test_a_gpu_fault_without_a_gpu_is_exit_code_3(sleeper: int, capsys: pytest.CaptureFixture[str]) -> None:
    if scenario("gpu_preemption").check(None).ok:
        pytest.skip("there is a GPU here")
    assert run("run", "gpu_preemption", "--pid", sleeper, "--yes") == 3
    assert "unavailable here" in capsys.readouterr().err


def test_a_fault_inside_the_target_has_to_be_agreed_to(
    sleeper: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "gc_storm", "--pid", sleeper, "--yes") == 2
    assert "--in-target" in capsys.readouterr().err


def test_a_misspelt_scenario_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "freeze_burst") == 2
    assert "freeze_bursts" in capsys.readouterr().err
