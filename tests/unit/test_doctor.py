"""`prismtop doctor`: each check measures, and says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prismtop.sources.metrics import MetricsReader
from prismtop.targets import doctor
from prismtop.targets.doctor import NONE, OK, PARTIAL
from prismtop.targets.profiles import load_profiles
from tests.factories import make_group, make_target

PTRACE_CAPABILITY = f"{1 << 19:016x}"


def fake_proc(tmp_path: Path, *, yama: str | None = None, caps: str = "0" * 16, nspid: str = "1") -> str:
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "status").write_text(f"Name:\tpython\nNSpid:\t{nspid}\nCapEff:\t{caps}\n")
    kernel = proc / "sys" / "kernel"
    (kernel / "yama").mkdir(parents=True)
    if yama is not None:
        (kernel / "yama" / "ptrace_scope").write_text(f"{yama}\n")
    return str(proc)


@pytest.mark.parametrize(
    ("yama", "caps", "status", "words"),
    [
        (None, "0", OK, "no Yama"),
        ("0", "0", OK, "ptrace_scope 0"),
        ("1", "0", PARTIAL, "only own descendants"),
        ("1", PTRACE_CAPABILITY, OK, "overruled by CAP_SYS_PTRACE"),
        ("2", "0", PARTIAL, "only with CAP_SYS_PTRACE"),
        ("2", PTRACE_CAPABILITY, OK, "overruled"),
        ("3", PTRACE_CAPABILITY, NONE, "until a reboot"),
    ],
)
def test_yama_is_judged_together_with_the_capability(
    tmp_path: Path, yama: str | None, caps: str, status: str, words: str
) -> None:
    check = doctor._yama(fake_proc(tmp_path, yama=yama, caps=caps))
    assert (check.id, check.status) == ("ptrace.yama", status)
    assert words in check.reason
    assert bool(check.fix) is (status != OK)


def test_without_the_capability_the_limit_and_the_fix_are_said(tmp_path: Path) -> None:
    check = doctor._capability(fake_proc(tmp_path))
    assert (check.status, check.fix) == (PARTIAL, "For others run `sudo prismtop`.")
    assert doctor._capability(fake_proc(tmp_path / "2", caps=PTRACE_CAPABILITY)).status == OK


def test_a_nested_pid_namespace_is_a_container(tmp_path: Path) -> None:
    assert doctor._container(fake_proc(tmp_path, nspid="4242\t1")).status == PARTIAL


def test_a_missing_procfs_is_essential(tmp_path: Path) -> None:
    check = doctor._procfs(str(tmp_path / "proc"))
    assert (check.status, check.essential, check.fix) == (NONE, True, "Mount procfs.")


def test_a_program_that_is_not_installed_says_how_to_get_it() -> None:
    check = doctor._program("gdb", ("prismtop-no-such-program",), "last resort", "Install gdb.")
    assert (check.status, check.fix) == (NONE, "Install gdb.")


def test_a_program_that_fails_is_not_ok() -> None:
    assert doctor._program("false", ("false",), "nothing", "").status == NONE


def test_ids_are_stable_unique_and_every_problem_of_this_machine_has_a_fix() -> None:
    checks = list(doctor.machine_checks())
    ids = [check.id for check in checks]
    assert ids == [
        "python",
        "platform",
        "procfs",
        "container",
        "ptrace.call",
        "ptrace.yama",
        "ptrace.capability",
        "pep768.memory",
        "gdb",
        "py-spy",
        "memfd",
        "schedstat",
        "perf",
        "clock",
    ]
    assert all(check.reason for check in checks)
    assert not [check.id for check in checks if check.status != OK and not check.fix]


def test_the_clock_is_measured() -> None:
    reading = re.search(r"(\d+) ns a reading", doctor._clock().reason)
    assert reading is not None
    assert int(reading[1]) > 0


def test_a_target_without_a_full_way_in_says_why() -> None:
    group = make_group(make_target(way_in="external", refusal="it is traced by strace (pid 9)."))
    check = next(iter(doctor.target_checks([group], load_profiles())))
    assert (check.id, check.status, check.essential) == ("target.4242", NONE, True)
    assert check.reason.endswith("external, because it is traced by strace (pid 9).")


def test_a_target_that_can_be_entered_is_ok() -> None:
    check = next(iter(doctor.target_checks([make_group()], load_profiles())))
    assert (check.status, check.reason) == (OK, "vllm 0.33.0 engine_core, 3.12.1: ptrace")


def test_metrics_that_cannot_be_read_are_no_failure_of_attaching() -> None:
    *_, check = doctor.target_checks([make_group()], load_profiles())
    assert (check.id, check.status, check.essential) == ("metrics.4242", NONE, False)
    assert "no listening port" in check.reason


def test_metrics_that_answer_are_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    from prismtop.model import EngineMetrics

    answer = EngineMetrics(url="http://127.0.0.1:8000/metrics", values={"a": 1.0, "b": 2.0})
    monkeypatch.setattr(MetricsReader, "read_once", lambda self: answer)
    *_, check = doctor.target_checks([make_group()], load_profiles())
    assert (check.status, check.reason) == (OK, "http://127.0.0.1:8000/metrics: 2 values")


def test_every_profile_of_the_user_is_checked_by_itself(tmp_path: Path) -> None:
    packaged = Path(doctor.__file__).parent / "engines" / "demo.toml"
    (tmp_path / "good.toml").write_text(packaged.read_text())
    (tmp_path / "bad.toml").write_text("schema = 1\nname = \n")
    checks = {check.id: check for check in doctor.profile_checks(tmp_path)}
    assert checks["profiles.user.good"].status == OK
    assert checks["profiles.user.bad"].status == NONE
    assert "bad.toml:2" in checks["profiles.user.bad"].reason
    assert checks["profiles.user.bad"].essential
