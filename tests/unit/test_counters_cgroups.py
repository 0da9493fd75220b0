"""Control groups v1, v2 and hybrid, from made-up trees: they prove our code, not the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismtop.counters.catalogue import CATALOGUE
from prismtop.counters.cgroups import CgroupReader, group_paths
from tests.unit.counter_trees import Rounds, plant, reason, value

V1 = """\
32 31 0:29 / {at}/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / {at}/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / {at}/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
V2 = "30 24 0:26 {root} {at} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
DEVICE = "pid 42"


def system(tmp_path: Path, mounts: str, own: str) -> CgroupReader:
    plant(tmp_path / "proc", {"self/mountinfo": mounts, "42/cgroup": own})
    return CgroupReader([42], str(tmp_path / "proc"))


def v2_group(where: Path, *, throttled_us: int = 0, periods: int = 0, hit: int = 0, **files: str) -> None:
    stat = f"usage_usec 5\nnr_periods {periods}\nnr_throttled {hit}\nthrottled_usec {throttled_us}\n"
    plant(where, {"cpu.stat": stat, **{name.replace("_", ".", 1): text for name, text in files.items()}})


def v2(tmp_path: Path) -> tuple[Path, CgroupReader]:
    at = tmp_path / "cgroup"
    leaf = at / "kubepods/pod1/app"
    pressure = "some avg10=0 avg60=0 avg300=0 total=0\n"
    v2_group(leaf, cpu_max="max 100000\n", memory_current="1000\n", memory_max="max\n", cpu_pressure=pressure)
    plant(leaf, {"memory.events": "low 0\nhigh 2\nmax 3\noom 1\noom_kill 1\n"})
    v2_group(leaf.parent, cpu_max="400000 100000\n", memory_max="5000\n")
    v2_group(leaf.parent.parent, cpu_max="max 100000\n", memory_max="9000\n")
    reader = system(tmp_path, V2.format(root="/", at=at), "0::/kubepods/pod1/app\n")
    return leaf, reader


def test_v2_limits_are_the_tightest_on_the_path(tmp_path: Path) -> None:
    _, reader = v2(tmp_path)
    first = Rounds(reader).round()
    assert value(first, "cgroup_cpu_limit_cores", DEVICE) == 4
    assert value(first, "cgroup_memory_limit_bytes", DEVICE) == 5000
    assert value(first, "cgroup_memory_used_bytes", DEVICE) == 1000
    assert value(first, "cgroup_memory_high_total", DEVICE) == 2
    assert value(first, "cgroup_memory_limit_hits_total", DEVICE) == 3
    assert value(first, "cgroup_oom_kills_total", DEVICE) == 1


def test_v2_throttling_by_a_parent_counts(tmp_path: Path) -> None:
    leaf, reader = v2(tmp_path)
    rounds = Rounds(reader)
    rounds.round()
    v2_group(leaf.parent, throttled_us=250_000, periods=10, hit=5)
    plant(leaf, {"cpu.pressure": "some avg10=0 avg60=0 avg300=0 total=300000\n"})
    second = rounds.round()
    assert value(second, "cgroup_throttled_ratio", DEVICE) == pytest.approx(0.25)
    assert value(second, "cgroup_throttled_periods_ratio", DEVICE) == pytest.approx(0.5)
    assert value(second, "cgroup_pressure_cpu_some_ratio", DEVICE) == pytest.approx(0.3)


def test_v2_inside_a_container_the_mount_shows_a_part_of_the_tree(tmp_path: Path) -> None:
    at = tmp_path / "cgroup"
    v2_group(at / "app", cpu_max="200000 100000\n")
    reader = system(tmp_path, V2.format(root="/docker/abc", at=at), "0::/docker/abc/app\n")
    assert value(Rounds(reader).round(), "cgroup_cpu_limit_cores", DEVICE) == 2


def test_a_group_outside_of_the_mount_is_a_reason(tmp_path: Path) -> None:
    at = tmp_path / "cgroup"
    at.mkdir()
    reader = system(tmp_path, V2.format(root="/docker/abc", at=at), "0::/../other\n")
    assert "another cgroup namespace" in reason(Rounds(reader).round(), "cgroup_throttled_ratio", DEVICE)


def v1(tmp_path: Path, cpu: str = "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n") -> CgroupReader:
    at = tmp_path / "cgroup"
    plant(
        at,
        {
            "cpu,cpuacct/docker/x/cpu.stat": cpu,
            "cpu,cpuacct/docker/x/cpu.cfs_quota_us": 150_000,
            "cpu,cpuacct/docker/x/cpu.cfs_period_us": 100_000,
            "cpu,cpuacct/docker/cpu.cfs_quota_us": -1,
            "memory/docker/x/memory.usage_in_bytes": 700,
            "memory/docker/x/memory.limit_in_bytes": 800,
            "memory/docker/memory.limit_in_bytes": 9223372036854771712,
            "memory/docker/x/memory.failcnt": 9,
            "memory/docker/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        },
    )
    own = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n"
    return system(tmp_path, V1.format(at=at), own)


def test_v1_has_its_own_files_and_nanoseconds(tmp_path: Path) -> None:
    rounds = Rounds(v1(tmp_path))
    first = rounds.round()
    assert value(first, "cgroup_cpu_limit_cores", DEVICE) == 1.5
    assert value(first, "cgroup_memory_used_bytes", DEVICE) == 700
    assert value(first, "cgroup_memory_limit_bytes", DEVICE) == 800
    assert value(first, "cgroup_memory_limit_hits_total", DEVICE) == 9
    assert value(first, "cgroup_oom_kills_total", DEVICE) == 2
    v1(tmp_path, "nr_periods 10\nnr_throttled 4\nthrottled_time 400000000\n")
    second = rounds.round()
    assert value(second, "cgroup_throttled_ratio", DEVICE) == pytest.approx(0.4)
    assert value(second, "cgroup_throttled_periods_ratio", DEVICE) == pytest.approx(0.4)


def test_throttling_of_several_cores_adds_up(tmp_path: Path) -> None:
    """As the kernel counts: two busy threads under a limit of 0.2 cores were kept off for 1.8 s a second."""
    rounds = Rounds(v1(tmp_path))
    rounds.round()
    v1(tmp_path, "nr_periods 10\nnr_throttled 10\nthrottled_time 1800000000\n")
    assert value(rounds.round(), "cgroup_throttled_ratio", DEVICE) == pytest.approx(1.8)
    assert "added up" in CATALOGUE["cgroup_throttled_ratio"].meaning


def test_v1_says_what_it_does_not_have(tmp_path: Path) -> None:
    first = Rounds(v1(tmp_path)).round()
    assert "version 1" in reason(first, "cgroup_memory_high_total", DEVICE)
    assert "version 1" in reason(first, "cgroup_pressure_cpu_some_ratio", DEVICE)


def test_hybrid_takes_controllers_from_v1_and_pressure_from_v2(tmp_path: Path) -> None:
    v1(tmp_path)
    unified = tmp_path / "unified"
    plant(unified, {"docker/x/cpu.pressure": "some avg10=0 avg60=0 avg300=0 total=0\n"})
    mounts = V1.format(at=tmp_path / "cgroup") + V2.format(root="/", at=unified)
    own = "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/docker/x\n"
    rounds = Rounds(system(tmp_path, mounts, own))
    first = rounds.round()
    assert value(first, "cgroup_cpu_limit_cores", DEVICE) == 1.5
    plant(unified, {"docker/x/cpu.pressure": "some avg10=0 avg60=0 avg300=0 total=100000\n"})
    second = rounds.round()
    assert value(second, "cgroup_pressure_cpu_some_ratio", DEVICE) == pytest.approx(0.1)
    assert value(second, "cgroup_throttled_ratio", DEVICE) == 0


def test_a_group_without_controllers_says_so(tmp_path: Path) -> None:
    at = tmp_path / "cgroup"
    plant(at, {"user.slice/cpu.stat": "usage_usec 5\n"})
    reader = system(tmp_path, V2.format(root="/", at=at), "0::/user.slice\n")
    first = Rounds(reader).round()
    assert "nothing limits it" in reason(first, "cgroup_throttled_ratio", DEVICE)
    assert "no memory controller" in reason(first, "cgroup_memory_used_bytes", DEVICE)


def test_processes_of_one_group_are_one_series(tmp_path: Path) -> None:
    leaf, _ = v2(tmp_path)
    plant(tmp_path / "proc", {"43/cgroup": "0::/kubepods/pod1/app\n"})
    reader = CgroupReader([42, 43], str(tmp_path / "proc"))
    assert {device for _, device in Rounds(reader).round()} == {"pid 42"}
    assert leaf.exists()


def test_a_process_that_moves_is_followed_at_once(tmp_path: Path) -> None:
    leaf, reader = v2(tmp_path)
    rounds = Rounds(reader)
    rounds.round()
    v2_group(leaf.parent / "other", memory_current="77\n")
    plant(tmp_path / "proc", {"42/cgroup": "0::/kubepods/pod1/other\n"})
    assert value(rounds.round(slow=False), "cgroup_memory_used_bytes", DEVICE) == 77


def test_what_is_mounted_later_is_found(tmp_path: Path) -> None:
    leaf, reader = v2(tmp_path)
    plant(tmp_path / "proc", {"self/mountinfo": ""})
    rounds = Rounds(reader)
    assert "no control group hierarchy" in reason(rounds.round(), "cgroup_memory_used_bytes", DEVICE)
    at = leaf.parents[2]
    plant(tmp_path / "proc", {"self/mountinfo": V2.format(root="/", at=at)})
    assert value(rounds.round(), "cgroup_memory_used_bytes", DEVICE) == 1000
    plant(leaf.parent, {"memory.current": "7000\n"})
    plant(tmp_path / "proc", {"self/mountinfo": V2.format(root="/kubepods/pod1/app", at=leaf.parent)})
    assert value(rounds.round(), "cgroup_memory_used_bytes", DEVICE) == 7000


def test_a_frozen_group_is_seen(tmp_path: Path) -> None:
    leaf, reader = v2(tmp_path)
    plant(leaf, {"cgroup.events": "populated 1\nfrozen 0\n"})
    rounds = Rounds(reader)
    assert value(rounds.round(), "cgroup_frozen_ratio", DEVICE) == 0
    plant(leaf, {"cgroup.events": "populated 1\nfrozen 1\n"})
    assert value(rounds.round(slow=False), "cgroup_frozen_ratio", DEVICE) == 1


def test_this_very_process_is_found_or_a_reason_is_given() -> None:
    import os

    paths, why = group_paths(os.getpid())
    assert bool(paths.key) is not bool(why)
