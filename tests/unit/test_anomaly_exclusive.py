"""What belongs to the machine is changed by one experiment at a time, whoever runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.anomaly.catalogue import scenario
from prismtop.anomaly.exclusive import TakenError, hold
from prismtop.anomaly.faults import cgroups, frequency
from prismtop.anomaly.scenario import Request

USUAL = "3500000"
RUN = """
import sys
from pathlib import Path
from prismtop.anomaly import injector, undo
from prismtop.anomaly.catalogue import scenario
from prismtop.anomaly.faults import frequency
from prismtop.anomaly.scenario import Request
from prismtop.targets.procfs import read_stat

root, state, pid, seconds, intensity = sys.argv[1:]
undo.SYSFS_ROOTS = (root,)
for function in (frequency.ceiling, frequency.inject, getattr(frequency, "exclusive", None)):
    if function is not None:
        function.__defaults__ = (root,)
request = Request(int(pid), read_stat(int(pid)).start_time, float(seconds), float(intensity), host_wide=True)
chosen = scenario("cpu_frequency_reduction")
tell = lambda _: print("started", flush=True)
try:
    made = injector.run(chosen, request, directory=Path(state), started=tell)
    print("rollback", made.rollback.ok)
except Exception as error:
    print("refused:", error)
"""


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    root = Path(os.path.realpath(tmp_path)) / "cpu"
    policy = root / "cpufreq" / "policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_max_freq").write_text(USUAL)
    (policy / "cpuinfo_min_freq").write_text("800000")
    for cpu in range(os.cpu_count() or 1):
        (root / f"cpu{cpu}").mkdir()
        (root / f"cpu{cpu}" / "cpufreq").symlink_to(policy)
    return root


@pytest.fixture
def targets() -> Iterator[tuple[int, int]]:
    argv = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    children = [subprocess.Popen(argv) for _ in range(2)]
    yield children[0].pid, children[1].pid
    for child in children:
        child.kill()
        child.wait()


def begin(sysfs: Path, state: Path, pid: int, seconds: float, intensity: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", RUN, sysfs, state, pid, seconds, intensity]
    return subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("users", ["one user", "two users"])
def test_two_experiments_leave_the_ceiling_of_the_clock_as_it_was(
    users: str, sysfs: Path, targets: tuple[int, int], tmp_path: Path
) -> None:
    second_state = tmp_path / ("first" if users == "one user" else "second")
    first = begin(sysfs, tmp_path / "first", targets[0], 2.0, 0.5)
    assert first.stdout is not None
    assert first.stdout.readline() == "started\n"
    second = begin(sysfs, second_state, targets[1], 3.0, 0.9)
    told, _ = second.communicate(timeout=60)
    ended, _ = first.communicate(timeout=60)
    assert (sysfs / "cpu0" / "cpufreq" / "scaling_max_freq").read_text() == USUAL
    assert ended == "rollback True\n"
    assert "another experiment on this machine" in told


def test_a_target_has_one_experiment_also_when_two_users_ask(
    sysfs: Path, targets: tuple[int, int], tmp_path: Path
) -> None:
    first = begin(sysfs, tmp_path / "first", targets[0], 1.5, 0.5)
    assert first.stdout is not None
    assert first.stdout.readline() == "started\n"
    told, _ = begin(sysfs, tmp_path / "second", targets[0], 0.2, 0.9).communicate(timeout=60)
    first.communicate(timeout=60)
    assert "refused: " in told


def test_cpus_with_one_clock_have_one_ceiling(sysfs: Path) -> None:
    request = Request(os.getpid(), 0, cpus=(0, (os.cpu_count() or 1) - 1))
    assert len(frequency.exclusive(request, str(sysfs))) == 1


def test_the_lock_on_the_clocks_of_a_gpu_is_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismtop.anomaly.faults.nvml.devices_of", lambda pid: ["GPU-1"])
    assert scenario("gpu_instability").exclusive(Request(4242, 1)) == ("clocks of GPU-1",)


def test_what_is_held_is_free_again_with_its_holder() -> None:
    held = hold(["test a", "test b"])
    with pytest.raises(TakenError, match="test b"):
        hold(["test b", "test c"])
    for one in (*held, *hold(["test c"])):
        one.close()
    for one in hold(["test a", "test b"]):
        one.close()


def test_a_target_in_the_group_of_another_experiment_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = cgroups.Hierarchy(tmp_path, 2, "freezer")
    monkeypatch.setattr(cgroups, "freezer", lambda: where)
    monkeypatch.setattr(cgroups.Hierarchy, "home", lambda self, pid: tmp_path / "prismtop-1a-2b-cpu")
    with (
        pytest.raises(OSError, match="belongs to another experiment"),
        cgroups.moved(Request(4242, 1), None, "freezer"),  # type: ignore[arg-type]
    ):
        pass
