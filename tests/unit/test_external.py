"""Watching from outside: what py-spy says, shares per stage, means of the engine's own count."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.model import AttachState, EngineMetrics, Origin, ProcessId
from prismtop.sources.external import ExternalSource, MeanBatches, Share, _Hooks, busiest, shares_of
from prismtop.sources.live import AttachOptions
from prismtop.sources.stacks import NoSamples, Stack, StackFrame, find_py_spy, parse, record, samplings
from prismtop.targets.discovery import identity
from prismtop.targets.profiles import load_profiles
from tests.factories import make_group, make_target

S = 1_000_000_000
RAW = """\
thread (812): MainThread;<module> (/my engine.py:9);Core.run (/x/core (1).py:68) 30
thread (812): MainThread;<module> (/my engine.py:9);Core.run (/x/core (1).py:70);step (/x/core (1).py:80) 9
thread (0x7FD478004B80): ;worker (/app/io.py) 39
not a stack
"""


def test_py_spys_raw_format_is_read() -> None:
    stacks = parse(RAW)
    assert [(s.thread, s.count, len(s.frames)) for s in stacks] == [
        ("812", 30, 2), ("812", 9, 3), ("0x7FD478004B80", 39, 1)
    ]  # fmt: skip
    assert stacks[1].frames[-1] == StackFrame("step", "/x/core (1).py", 80)
    assert stacks[2].frames[0].line == 0


def test_the_thread_that_was_there_all_the_time_says_how_often_was_sampled() -> None:
    assert samplings(parse(RAW)) == 39


# -- shares


def scheduler(line: int = 1) -> StackFrame:
    return StackFrame("Scheduler.schedule", "/x/site-packages/vllm/v1/core/sched/scheduler.py", line)


def vllm_hooks() -> _Hooks:
    return _Hooks.of(make_target(), load_profiles()["vllm"])


def test_a_frame_is_matched_to_a_hook_by_function_and_module() -> None:
    hook = vllm_hooks().find(scheduler())
    assert hook is not None
    assert (hook.name, hook.stage) == ("schedule", "schedule")


def test_a_frame_of_an_older_python_has_no_qualified_name() -> None:
    hook = vllm_hooks().find(StackFrame("schedule", scheduler().file, 1))
    assert hook is not None


def test_the_same_name_in_another_file_is_no_hook() -> None:
    assert vllm_hooks().find(StackFrame("Scheduler.schedule", "/app/scheduler.py", 1)) is None


def test_shares_are_of_the_innermost_hooked_function() -> None:
    outer = StackFrame("run", "/app/core.py", 1)
    stacks = [Stack("1", (outer, scheduler()), 30), Stack("1", (outer,), 10), Stack("2", (outer,), 40)]
    shares, idle = shares_of(stacks, vllm_hooks().find, 42, samplings(stacks))
    assert ([(s.stage, s.hook, s.fraction) for s in shares], idle) == ([("schedule", "schedule", 0.75)], 0.0)


def test_every_hook_is_listed_as_not_installed() -> None:
    assert {(h.mechanism, h.reason) for h in vllm_hooks().status} == {("", "external only")}


def test_an_engine_without_profile_shows_its_busiest_functions() -> None:
    waiting = StackFrame("Queue.get", "/usr/lib/python3.12/queue.py", 1)
    stacks = [Stack("1", (StackFrame("step\x1b[2J", "/a/e.py", 3),), 30), Stack("2", (waiting,), 40)]
    assert busiest(stacks) == "step\ufffd[2J (e.py) 75 %"


def test_a_thread_that_stands_still_is_not_the_busiest() -> None:
    still = Stack("2", (StackFrame("sleeper", "/a/e.py", 1),), 40)
    moving = [Stack("1", (StackFrame("step", "/a/e.py", line),), 20) for line in (3, 4)]
    assert busiest([still, *moving]) == "step (e.py) 100 %"


# -- means


def metrics(count: int | None) -> EngineMetrics:
    return EngineMetrics(age_s=0.0, batch_count=count)


def test_a_batch_is_the_mean_of_the_engines_own_count() -> None:
    means = MeanBatches(42, "vllm")
    assert means.add(metrics(100), 10 * S, (), 0.0) is None
    batch = means.add(metrics(200), 12 * S, (Share("launch", "execute", 42, 0.5),), 0.0)
    assert batch is not None
    assert (batch.duration_ns, batch.period_ns, batch.stage_ns()) == (S // 50, S // 50, {"launch": S // 100})
    assert (batch.origin, batch.suspect) == (Origin.SAMPLED, "mean of 100 iterations")


def test_samples_in_an_idle_hook_are_no_part_of_an_iteration() -> None:
    means = MeanBatches(42, "vllm")
    means.add(metrics(0), 10 * S, (), 0.0)
    batch = means.add(metrics(10), 11 * S, (), 0.75)
    assert batch is not None
    assert (batch.duration_ns, batch.idle_ns) == (S // 40, 3 * S // 40)


@pytest.mark.parametrize(("count", "later_s"), [(None, 2.0), (150, 0.5), (100, 2.0), (7, 2.0)])
def test_without_new_iterations_and_a_second_there_is_no_batch(count: int | None, later_s: float) -> None:
    means = MeanBatches(42, "vllm")
    means.add(metrics(100), 10 * S, (), 0.0)
    assert means.add(metrics(count), int((10 + later_s) * S), (), 0.0) is None


def test_stages_are_laid_out_in_the_order_of_a_batch() -> None:
    means = MeanBatches(42, "vllm")
    means.add(metrics(0), 10 * S, (), 0.0)
    shares = (Share("post", "update", 42, 0.3), Share("schedule", "schedule", 42, 0.1))
    batch = means.add(metrics(10), 11 * S, shares, 0.0)
    assert batch is not None
    assert [stage.name for stage in batch.stages] == ["schedule", "post"]
    assert batch.stages[1].start_ns == batch.start_ns + batch.stages[0].duration_ns


# -- the real py-spy

needs_py_spy = pytest.mark.skipif(find_py_spy() is None, reason="py-spy is not installed")


@pytest.fixture
def python() -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that computes a little."""
    code = "import time\ndef turn():\n    time.sleep(0.01)\nwhile True:\n    turn()\n"
    process = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(0.5)
    yield process
    process.kill()
    process.wait()


@needs_py_spy
def test_a_running_process_is_sampled(python: subprocess.Popen[bytes]) -> None:
    stacks = record(python.pid, seconds=1)
    assert any(frame.name == "turn" for one in stacks for frame in one.frames)


@needs_py_spy
def test_a_process_that_is_gone_is_a_reason(python: subprocess.Popen[bytes]) -> None:
    python.kill()
    python.wait()
    with pytest.raises(NoSamples, match="py-spy says: Failed to get process executable name"):
        record(python.pid, seconds=1)


def test_a_py_spy_that_is_not_there_is_a_reason() -> None:
    with pytest.raises(NoSamples, match="cannot be run"):
        record(os.getpid(), seconds=1, py_spy="/nonexistent/py-spy")


def source_of(pid: int, **more: str) -> ExternalSource:
    target = make_target(pid, id=identity(pid), engine="unknown", role="engine")
    return ExternalSource(make_group(target, engine="unknown"), None, AttachOptions(metrics=False), **more)  # type: ignore[arg-type]


@needs_py_spy
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_a_missing_permission_is_said_and_cpu_is_still_shown(
    python: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    copy = tmp_path / "py-spy"
    shutil.copy(str(find_py_spy()), copy.with_suffix(".real"))
    copy.write_text(f'#!/bin/sh\nexec setpriv --reuid=65534 --clear-groups {copy}.real "$@"\n')
    for path in (copy, copy.with_suffix(".real"), *list(tmp_path.parents)[:-2]):
        path.chmod(path.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    source = source_of(python.pid, py_spy=str(copy))
    end = time.monotonic() + 15
    while "permission denied" not in (note := source.poll().note) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.6)
    note = source.poll().note
    source.close()
    assert note.startswith(f"external only: py-spy may not read process {python.pid} (permission denied)")
    assert note.endswith("% of a core")


@needs_py_spy
def test_a_target_that_ends_is_gone(python: subprocess.Popen[bytes]) -> None:
    source = source_of(python.pid)
    assert source.poll().state is AttachState.EXTERNAL
    python.kill()
    python.wait()
    end = time.monotonic() + 5
    while (state := source.poll().state) is not AttachState.GONE and time.monotonic() < end:
        time.sleep(0.05)
    source.close()
    assert state is AttachState.GONE


@needs_py_spy
def test_close_ends_py_spy(python: subprocess.Popen[bytes]) -> None:
    source = source_of(python.pid)
    children = Path(f"/proc/{os.getpid()}/task")
    end = time.monotonic() + 5
    while not spies(children) and time.monotonic() < end:
        time.sleep(0.02)
    assert spies(children)
    assert source.close() == ()
    assert spies(children) == []


def spies(tasks: Path) -> list[str]:
    """Our py-spy children."""
    found = []
    for task in tasks.iterdir():
        for pid in (task / "children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            if command.endswith(b"py-spy"):
                found.append(pid)
    return found


def test_the_reason_for_being_outside_is_in_the_note(python: subprocess.Popen[bytes]) -> None:
    source = source_of(python.pid, reason="no way in")
    note = source.poll().note
    source.close()
    assert note.startswith("external only (no way in): ")


def test_identity_is_more_than_a_pid(python: subprocess.Popen[bytes]) -> None:
    target = make_target(python.pid, id=ProcessId(python.pid, 1), engine="unknown", role="engine")
    source = ExternalSource(make_group(target), None, AttachOptions(metrics=False))
    state = source.poll().state
    source.close()
    assert state is AttachState.GONE
