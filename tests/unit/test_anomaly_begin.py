"""When a fault that needs time to start has taken effect: it says so with the first number that it yields."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prismtop.anomaly.faults import burners, gpu, gpu_worker, paging
from prismtop.anomaly.scenario import Request
from prismtop.targets.procfs import read_stat
from tests.unit.test_anomaly_faults import UUID, FakeCuda


class FakeGuard:
    """Starts nothing, and remembers what it should have started."""

    def __init__(self) -> None:
        self.spawned: list[list[str]] = []

    def check(self) -> None:
        """The watchdog lives."""

    def spawn(self, program: list[str], **more: Any) -> int:
        self.spawned.append(program)
        return 100 + len(self.spawned)

    def ended(self, pid: int) -> int | None:
        """It runs."""


@pytest.fixture
def guard() -> Any:
    return FakeGuard()


def test_a_burner_in_python_begins_when_it_says_so(tmp_path: Path, guard: Any) -> None:
    turns = burners.compute(Request(os.getpid(), 0, cpus=(0,), work_dir=str(tmp_path)), guard)
    assert [next(turns), next(turns)] == [None, None]
    fma, _ = guard.spawned
    assert subprocess.run([*fma[:4], "0.05", *fma[5:]], timeout=120).returncode == 0
    assert next(turns) == 0.1


def test_burners_of_many_cpus_begin_with_the_first(tmp_path: Path, guard: Any) -> None:
    (tmp_path / burners._PROGRAM).touch()
    turns = burners.bandwidth(Request(os.getpid(), 0, cpus=(0, 1), work_dir=str(tmp_path)), guard)
    assert (next(turns), len(guard.spawned)) == (0.0, 1)
    assert [next(turns), next(turns)] == [0.0, 0.1]


def test_a_gpu_load_begins_when_its_context_is_made(
    tmp_path: Path, guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.nvml, "devices_of", lambda pid: [UUID])
    monkeypatch.setattr(gpu.nvml, "others_on", lambda uuid, pid: [])
    request = Request(4242, 1, duration_s=-0.9, work_dir=str(tmp_path), experiment="x")
    turns = gpu.load("preempt")(request, guard)
    assert next(turns) is None
    (argv,) = guard.spawned
    assert gpu_worker.main(argv[3:], FakeCuda()) == 0
    assert next(turns) == 0.1


def test_paging_out_begins_before_the_first_pages_have_gone(
    guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(paging, "page_out", lambda fd, pid, share: asked.append(pid))
    stat = read_stat(os.getpid())
    assert stat is not None
    turns = paging.inject(Request(os.getpid(), stat.start_time), guard)
    assert (next(turns), asked) == (0.0, [])
    next(turns)
    assert asked == [os.getpid()]
