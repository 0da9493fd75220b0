"""Processes that no profile describes: their loop is found, its turns are the batches, nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from prismtop.attach.errors import UnsupportedTargetError
from prismtop.model import AttachState, Batch, Mode, Origin, Workload
from prismtop.sources.external import ExternalSource
from prismtop.sources.live import AttachOptions, attach
from prismtop.sources.tick import Source
from prismtop.sources.unknown import UnknownSource
from prismtop.targets.discovery import group_of
from prismtop.targets.profiles import load_profiles
from tests.integration.targets.harness import HERE, python_or_skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only")
MONITORED = ("3.12", "3.13", "3.14")


class Engine:
    """A running loop_engine.py."""

    def __init__(self, process: subprocess.Popen[str], counter: Path) -> None:
        self.process, self.pid, self.counter = process, process.pid, counter

    def turns(self) -> int:
        return int(struct.unpack("<Q", self.counter.read_bytes())[0])

    def left_behind(self) -> dict[str, list[object]]:
        """What it says is left in it."""
        report = Path(f"{self.counter}.monitoring")
        os.kill(self.pid, signal.SIGUSR1)
        end = time.monotonic() + 10
        while not report.exists() and time.monotonic() < end:
            time.sleep(0.02)
        found: dict[str, list[object]] = json.loads(report.read_text())
        return found

    def works(self) -> bool:
        before, end = self.turns(), time.monotonic() + 10
        while time.monotonic() < end:
            if self.turns() > before + 3:
                return self.process.poll() is None
            time.sleep(0.02)
        return False


def memfds(pid: int) -> list[str]:
    """The probe's memory files in a process."""
    links = []
    for name in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(name))
    return [link for link in links if "prismtop" in link]


@contextlib.contextmanager
def engine(minor: str, mode: str, tmp_path: Path) -> Iterator[Engine]:
    python = python_or_skip(minor)
    counter = tmp_path / "turns"
    counter.write_bytes(bytes(8))
    process = subprocess.Popen(
        [python, str(HERE / "loop_engine.py"), mode, str(counter)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("PID")
        time.sleep(0.3)
        yield Engine(process, counter)
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def attached(pid: int, **options: bool) -> Iterator[Source]:
    group = group_of(pid, load_profiles())
    source = attach(group, None, AttachOptions(**options))
    try:
        yield source
    finally:
        source.close()


def batches_for(source: Source, seconds: float, at_least: int = 0) -> list[Batch]:
    """What came in `seconds`; on a starved machine until there are `at_least` batches, for 30 s at most."""
    made: list[Batch] = []
    began = time.monotonic()
    while (past := time.monotonic() - began) < seconds or (len(made) < at_least and past < 30):
        made += source.poll().batches
        time.sleep(0.05)
    return made + list(source.poll().batches)


@dataclass(frozen=True)
class Seen:
    """What one attach to one engine showed; several tests look at it."""

    source: str
    note: str
    batches: tuple[Batch, ...]
    turns: int
    notes: tuple[str, ...]
    state_after: AttachState
    left: dict[str, list[object]]
    memfds: list[str]
    works: bool


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Seen]:
    """Attach, watch for 1.5 s, detach; once per engine."""

    @cache
    def once(minor: str, mode: str) -> Seen:
        with engine(minor, mode, tmp_path_factory.mktemp(mode)) as target, attached(target.pid) as source:
            source.poll()
            first = target.turns()
            batches = batches_for(source, 1.5, at_least=30)
            turns = target.turns() - first
            note = source.poll().note
            left = source.close()
            return Seen(
                type(source).__name__, note, tuple(batches), turns, left, source.poll().state,
                target.left_behind(), memfds(target.pid), target.works(),
            )  # fmt: skip

    return once


Visit = Callable[[str, str], Seen]
PLAIN = pytest.mark.parametrize("minor", ["3.9", "3.11", *MONITORED])
ENGINES = pytest.mark.parametrize(
    ("minor", "mode"),
    [
        *((minor, "plain") for minor in ("3.9", "3.10", "3.11", *MONITORED, "3.15")),
        *((minor, "thread") for minor in ("3.11", "3.12", "3.14")),
        *((minor, "asyncio") for minor in MONITORED),
    ],
)


@ENGINES
def test_every_turn_of_the_loop_is_a_batch(minor: str, mode: str, visit: Visit) -> None:
    seen = visit(minor, mode)
    assert seen.source == "UnknownSource", seen.note
    assert seen.turns > 20
    assert abs(len(seen.batches) - seen.turns) <= max(4, seen.turns // 20)


@PLAIN
def test_a_turn_has_a_time_and_nothing_that_was_not_seen(minor: str, visit: Visit) -> None:
    batch = visit(minor, "plain").batches[-1]
    assert (batch.origin, batch.mode, batch.stages) == (Origin.EXACT, Mode.UNKNOWN, ())
    assert batch.workload == Workload()
    assert batch.duration_ns >= 4_000_000


@PLAIN
def test_the_note_names_file_and_line_of_the_loop(minor: str, visit: Visit) -> None:
    text = (HERE / "loop_engine.py").read_text().splitlines()
    loop = next(n for n, line in enumerate(text, 1) if line.strip() == "while True:")
    place, _, line = visit(minor, "plain").note.rpartition(":")
    assert place == "unknown engine, loop at targets/loop_engine.py"
    assert loop <= int(line) <= loop + 9


@ENGINES
def test_after_the_detach_nothing_is_left(minor: str, mode: str, visit: Visit) -> None:
    seen = visit(minor, mode)
    assert (seen.notes, seen.state_after, seen.memfds) == ((), AttachState.DETACHED, [])
    assert seen.left["modules"] == []
    assert seen.left["code"] == ["self", "_layer", "_head"]


@ENGINES
def test_after_the_detach_the_engine_goes_on(minor: str, mode: str, visit: Visit) -> None:
    assert visit(minor, mode).works


@pytest.mark.parametrize("mode", ["plain", "thread", "asyncio"])
@pytest.mark.parametrize("minor", MONITORED)
def test_after_the_detach_monitoring_is_as_before(minor: str, mode: str, visit: Visit) -> None:
    left = visit(minor, mode).left
    assert (left["tools"], left["events"], left["callbacks"]) == ([None] * 6, [0] * 4, [False] * 10)


def test_a_second_attach_finds_the_loop_again(tmp_path: Path) -> None:
    with engine("3.12", "plain", tmp_path) as target:
        for _ in range(2):
            with attached(target.pid) as source:
                assert isinstance(source, UnknownSource)
                assert len(batches_for(source, 0.5, at_least=12)) > 10


@pytest.mark.parametrize("minor", ["3.11", "3.12"])
def test_a_process_without_batches_is_watched_from_outside(minor: str, tmp_path: Path) -> None:
    with engine(minor, "spin", tmp_path) as target, attached(target.pid) as source:
        assert isinstance(source, ExternalSource)
        assert source.poll().note.startswith(
            ("external only (no loop was found", "external only (no function was")
        )
        assert memfds(target.pid) == []


def test_a_process_that_ends_is_gone(tmp_path: Path) -> None:
    with engine("3.12", "plain", tmp_path) as target, attached(target.pid) as source:
        target.process.kill()
        target.process.wait()
        end = time.monotonic() + 5
        while source.poll().state is not AttachState.GONE and time.monotonic() < end:
            time.sleep(0.05)
        assert source.poll().state is AttachState.GONE


def test_a_process_that_is_not_python_is_refused() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            time.sleep(0.2)
            with pytest.raises(UnsupportedTargetError), attached(process.pid):
                pass
        finally:
            process.kill()


@pytest.fixture
def demo() -> Iterator[int]:
    """Pid of a demo server under load."""
    root = HERE.parents[2]
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0", "--die-with-parent"],
        cwd=root, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    url = "http://127.0.0.1:" + server.stdout.readline().rsplit(":", 1)[1].strip()
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", "--url", url, "--duration", "0", "--pattern", "steady"],
        cwd=root, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield server.pid
    for process in (load, server):
        process.terminate()
        process.wait(20)
    server.stdout.close()


def test_from_outside_the_demo_engine_shows_sampled_means_of_its_own_count(demo: int) -> None:
    profiles = load_profiles()
    group = group_of(demo, profiles)
    source = attach(group, profiles["demo"], AttachOptions(external_only=True))
    try:
        seen: list[Batch] = []
        end = time.monotonic() + 25
        while not any(batch.stages for batch in seen) and time.monotonic() < end:
            seen += source.poll().batches
            time.sleep(0.1)
        tick = source.poll()
        assert tick.state is AttachState.EXTERNAL
        assert tick.note.startswith("external only: sampled at 20 Hz; ")
        assert "launch " in tick.note
        assert {(hook.mechanism, hook.reason) for hook in tick.hooks} == {("", "external only")}
        batch = seen[-1]
        assert batch.origin is Origin.SAMPLED
        assert batch.suspect.startswith("mean of ")
        assert 0 < batch.stage_ns()["launch"] <= batch.duration_ns * 1.05
        assert memfds(demo) == []
    finally:
        assert source.close() == ()
