"""A payload runs once, in the main thread, in every CPython, whatever the target is doing."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from prismtop.attach.errors import AttachError, UnsupportedTargetError
from prismtop.attach.handshake import Handshake
from prismtop.attach.ladder import confirm_started, free_scratch, withdraw
from prismtop.attach.preflight import WayIn, preflight
from tests.integration.targets.harness import MINORS, enter, proof_of, python_or_skip, running

# Modes in which a main thread can be brought to look at once, on every version.
PROMPT = ("spin", "spin_threads", "loop", "sleep", "queue", "malloc")
# Asleep in a call that CPython <= 3.13 takes up again without looking (PEP 475).
DEAF = ("select", "asyncio")


@pytest.mark.parametrize("mode", PROMPT)
@pytest.mark.parametrize("minor", MINORS)
def test_a_payload_runs_at_once_in_the_main_thread(minor: str, mode: str, tmp_path: Path) -> None:
    with running(mode, tmp_path, python_or_skip(minor)) as target:
        done, nonce = enter(target)
        assert done.started, done
        assert not done.armed
        in_main, _ = json.loads(proof_of(target, nonce))
        assert in_main
        assert target.works()


@pytest.mark.parametrize("mode", DEAF)
@pytest.mark.parametrize("minor", MINORS)
def test_a_deaf_idle_target_is_armed_and_runs_the_payload_at_its_next_request(
    minor: str, mode: str, tmp_path: Path
) -> None:
    with running(mode, tmp_path, python_or_skip(minor)) as target:
        done, nonce = enter(target, timeout_s=0.4)
        assert done.armed is not done.started
        assert target.works()  # this is the next request
        if done.armed:
            for _ in range(100):
                done = confirm_started(target.start_time, done, Handshake.of(nonce))
                if done.started or not target.works():
                    break
        assert done.started, done
        assert json.loads(proof_of(target, nonce))[0]


@pytest.mark.parametrize("minor", MINORS)
def test_the_best_way_is_the_one_of_the_version(minor: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        found = preflight(target.pid)
        assert found.best is (WayIn.PEP768 if int(minor[2:]) >= 14 else WayIn.PTRACE)
        assert found.refusal() is None
        assert found.runtime is not None
        assert found.runtime.version is not None
        assert f"{found.runtime.version[0]}.{found.runtime.version[1]}" == minor
        assert found.runtime.free_threaded is False


@pytest.mark.parametrize("mode", ["loop", "spin", "queue"])
@pytest.mark.parametrize("minor", ["3.14", "3.15"])
def test_ptrace_works_on_new_versions_too(minor: str, mode: str, tmp_path: Path) -> None:
    with running(mode, tmp_path, python_or_skip(minor)) as target:
        done, _ = enter(target, way=WayIn.PTRACE)
        assert done.started
        assert done.way is WayIn.PTRACE
        assert target.works()


@pytest.mark.parametrize("minor", MINORS)
def test_nothing_is_bound_in_the_targets_main_module(minor: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        _, first = enter(target)
        _, second = enter(target)
        assert json.loads(proof_of(target, first))[1] == json.loads(proof_of(target, second))[1]
        assert not {"source", "begun", "resend", "fd"} & set(json.loads(proof_of(target, second))[1])


@pytest.mark.parametrize("minor", MINORS)
def test_the_scratch_mapping_is_given_back(minor: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        enter(
            target, "import os\nos.close(os.memfd_create('prismtop-%(nonce)s'))"
        )  # imports and arenas settle
        done, _ = enter(
            target,
            "import os, time\nfd = os.memfd_create('prismtop-%(nonce)s')\ntime.sleep(0.1)\nos.close(fd)",
            way=WayIn.PTRACE,
        )
        assert done.scratch is not None
        assert done.started
        assert free_scratch(target.pid, target.start_time, done.scratch)
        assert not free_scratch(target.pid, target.start_time, done.scratch)
        assert not [d for d in target.descriptors() if "prismtop" in d]
        assert target.works()


@pytest.mark.parametrize("minor", ["3.12", "3.14"])
def test_an_armed_payload_keeps_its_source_and_can_be_withdrawn(minor: str, tmp_path: Path) -> None:
    with running("select", tmp_path, python_or_skip(minor)) as target:
        done, nonce = enter(target, timeout_s=0.3)
        assert done.armed
        if done.scratch:
            assert not free_scratch(target.pid, target.start_time, done.scratch)
        assert withdraw(target.start_time, done)
        for _ in range(20):
            assert target.works()
        assert proof_of(target, nonce) == ""
        assert not list(Path("/tmp").glob("prismtop-*.py")) or done.script not in map(
            str, Path("/tmp").iterdir()
        )


def test_an_idle_target_is_left_asleep_when_waking_is_not_wanted(tmp_path: Path) -> None:
    with running("queue", tmp_path, python_or_skip("3.11")) as target:
        done, nonce = enter(target, timeout_s=0.3, wake=False)
        assert done.armed
        assert target.works()
        for _ in range(50):
            if proof_of(target, nonce):
                break
            target.works()
        assert proof_of(target, nonce)


def test_a_script_written_for_a_new_python_is_removed(tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("prismtop-*.py"))
    with running("loop", tmp_path, python_or_skip("3.14")) as target:
        done, _ = enter(target)
        assert done.started
        assert done.script is None
    assert set(Path("/tmp").glob("prismtop-*.py")) <= before


@pytest.mark.parametrize("minor", ["3.11", "3.13"])
def test_gdb_queues_nothing_where_no_memory_can_be_mapped(minor: str, tmp_path: Path) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        resource.prlimit(target.pid, resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
        with pytest.raises(AttachError) as caught:
            enter(target, way=WayIn.GDB)
        if isinstance(caught.value, UnsupportedTargetError):
            pytest.skip(f"this gdb cannot make calls here, and the target was spared: {caught.value}")
        assert "maps no more memory" in caught.value.message
        assert target.works()


@pytest.mark.parametrize("minor", ["3.11", "3.13"])
def test_gdb_queues_the_same_call_when_it_is_allowed(minor: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        found = preflight(target.pid)
        rung = next(r for r in found.rungs if r.way is WayIn.GDB)
        if "not installed" in rung.reason:
            pytest.skip("gdb is not installed")
        assert not rung.usable
        assert "--allow-gdb" in rung.reason
        try:
            done, nonce = enter(target, way=WayIn.GDB)
        except UnsupportedTargetError as e:
            assert target.works()
            pytest.skip(f"this gdb cannot make calls here, and the target was spared: {e.message}")
        assert done.started
        assert json.loads(proof_of(target, nonce))[0]
        assert target.works()
