"""Deep captures of an engine without PyTorch: what they bring, and that nothing of them is left, whatever
happens.
"""

from __future__ import annotations

import json
import marshal
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from prismtop.errors import UnavailableError
from prismtop.probe import agent
from prismtop.session import Session
from prismtop.sources import deep_link
from tests.integration.deep import (
    captured,
    capturing_process,
    dive_into,
    layer,
    links_of,
    phase_reached,
    untouched,
)
from tests.integration.engines import (
    ALL_MINORS,
    FEW_MINORS,
    PROFILE,
    ScriptedEngine,
    attached,
    batches_from,
    open_session,
    probe_is_gone,
    scripted,
    write_profile,
)

LEASE_S = 1.2
WRAPPING = ("3.9", "3.11")
"""Python functions are seen by sys.setprofile there."""


def slow(phase: str) -> ParameterSet:
    """A phase that is tried with --slow."""
    return pytest.param(phase, marks=pytest.mark.slow)


@pytest.mark.parametrize("minor", ALL_MINORS)
def test_two_captures_bring_calls_and_collections(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        with attached(engine) as session:
            for _ in range(2):
                dive = dive_into(session, batches=200)
                # Meanwhile garbage is collected, in a thread of the engine's own.
                status = phase_reached(session, dive, "ready", meanwhile=lambda: engine.ask("memory"))
                found = dive.fetch(tmp_path)
                dive.poll()
        assert untouched(engine, before)
        assert engine.ask("watched") == {"python": "None", "trace": "None", "torch": False}
    assert found.profile is None
    assert found.events is not None
    assert found.events.stat().st_mode & 0o777 == 0o600
    events = [json.loads(line) for line in found.events.read_text().splitlines()]
    functions = [event for event in events if event["layer"] == "python"]
    calls = Counter(event["name"].rpartition(".")[2] for event in functions)
    assert {calls[name] for name in ("schedule", "sleep", "sample")} <= {199, 200, 201}
    assert {event["tid"] for event in functions} == {status.thread} == {engine.pid}
    assert not [event for event in functions if event["args"]["file"] == "<prismtop>"]
    assert status.window_ns is not None
    begin, end = status.window_ns
    assert all(begin <= event["t0"] <= event["t0"] + event["dur"] <= end for event in functions)
    assert [event["args"]["generation"] for event in events if event["layer"] == "gc"].count(2) >= 1
    assert status.batches == 200
    assert status.start_stall_ns
    assert status.stop_stall_ns
    assert layer(status, "operators") == ("off", "PyTorch is not loaded in this process")
    assert layer(status, "gc")[0] == layer(status, "python")[0] == "on"


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_a_batch_with_two_boundaries_is_one_batch(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        twice = PROFILE.replace('name = "schedule"\nmodule', 'name = "schedule"\nboundary = true\nmodule')
        write_profile(tmp_path, twice)
        with attached(engine) as session:
            status, events = captured(session, tmp_path, batches=30)
    steps = [event for event in events if event["name"].endswith("schedule")]
    assert status.batches == 30
    assert 29 <= len(steps) <= 31


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_functions_are_off_at_their_bound_and_said_to_be_partial(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, attached(engine) as session:
        dive = dive_into(session, max_events=101, batches=10_000)
        phase_reached(session, dive, "capturing")
        while dive.poll().batches < 30:
            session.tick()
        assert engine.ask("watched")["python"] == "None"
        dive.cancel()
        assert phase_reached(session, dive, "cancelled")
        status, events = captured(session, tmp_path, max_events=101)
    assert layer(status, "python")[0] == "partial"
    assert "bound of 101 events" in layer(status, "python")[1]
    # Where functions are wrapped, the probe's own calls are among the 101 events; they are not shown.
    assert 10 < len([event for event in events if event["layer"] == "python"]) < 101


@pytest.mark.parametrize("minor", WRAPPING)
def test_someone_elses_profiler_is_left_alone(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, attached(engine) as session:
        engine.ask("profile python")
        status, events = captured(session, tmp_path)
        assert "someone_elses_profiler" in engine.ask("watched")["python"]
        assert layer(status, "python") == ("off", "another profiler is set on the model thread")
        assert not [event for event in events if event["layer"] == "python"]
        engine.ask("profile off")
        dive = dive_into(session, batches=10_000)
        phase_reached(session, dive, "capturing")
        engine.ask("profile python")  # in the middle of the window
        dive.cancel()
        phase_reached(session, dive, "cancelled")
        assert "someone_elses_profiler" in engine.ask("watched")["python"]


@pytest.mark.parametrize("phase", [slow("waiting"), "capturing", slow("ready")])
def test_a_cancel_takes_everything_back(phase: str, tmp_path: Path) -> None:
    with scripted(tmp_path, "3.11", "busy" if phase == "capturing" else "read") as engine:
        before = engine.state()
        with attached(engine) as session:
            settle(engine, session)
            dive = dive_into(session, batches=1_000_000 if phase == "capturing" else 3)
            assert reach(engine, session, dive, phase)
            dive.cancel()
            phase_reached(session, dive, "cancelled", "ready", meanwhile=engine.request)
            engine.request(2)
        assert untouched(engine, before)


def settle(engine: ScriptedEngine, session: Session) -> None:
    """Have every hook go in."""
    while not links_of(session)[0].status.base_ns:
        engine.request()
        session.tick()
        time.sleep(0.005)


def reach(engine: ScriptedEngine, session: Session, dive: deep_link.DeepLink, phase: str) -> bool:
    """One batch after the other, until the capture is in that phase."""
    end = time.monotonic() + 20
    if phase == "waiting":
        return dive.poll().phase == phase
    while time.monotonic() < end:
        session.tick()
        if dive.poll().phase == phase:
            return True
        if dive.poll().phase != "exporting":
            engine.request()
        time.sleep(0.02)
    raise AssertionError(f"{dive.poll()} is not {phase}")


@pytest.mark.parametrize("phase", [slow("waiting"), "capturing", "exporting", slow("ready")])
@pytest.mark.parametrize("minor", FEW_MINORS)
def test_a_killed_monitor_leaves_a_healthy_engine(minor: str, phase: str, tmp_path: Path) -> None:
    # Slow steps, for a phase that must be seen before it is over; else much to export.
    mode, step = ("calls", 2000) if phase == "exporting" else ("busy", 20_000)
    batches = 1_000_000 if phase == "capturing" else 50
    with scripted(tmp_path, minor, mode, step_us=step) as engine:
        before = engine.state()
        with capturing_process(engine, LEASE_S, batches) as monitor:
            monitor.until(phase)
            monitor.kill()
            assert engine.works()
            assert probe_is_gone(engine.pid, LEASE_S + 20)
        assert untouched(engine, before)
        assert engine.ask("watched")["python"] == "None"
        assert engine.works()


def test_an_engine_that_ends_in_the_window_is_noticed(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine, attached(engine) as session:
        dive = dive_into(session, batches=1_000_000)
        phase_reached(session, dive, "capturing")
        os.kill(engine.pid, signal.SIGKILL)
        engine.process.wait()
        status = phase_reached(session, dive, "gone")
        assert "ended" in status.error
        with pytest.raises(UnavailableError, match="nothing to fetch"):
            dive.fetch(tmp_path)
        assert list(engine.temporary.iterdir()) == []


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_a_child_of_the_captured_engine_is_not_captured(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        with attached(engine) as session:
            dive = dive_into(session, batches=400)
            phase_reached(session, dive, "capturing")
            (child,) = engine.ask("fork")
            assert child["taken"] == 20
            assert child["watched"]["python"] == "None"
            assert child["collecting"] == before["collecting"]
            assert child["tools"] == before["tools"]
            opened = set(child["fds"]) - set(before["fds"])
            assert [name for name in opened if not name.startswith("pipe:")] == []
            status = phase_reached(session, dive, "ready")
            assert status.batches == 400
            assert dive.fetch(tmp_path).events
        assert untouched(engine, before)


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_a_detach_ends_the_capture_first(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        session = open_session(engine)
        dive = dive_into(session, batches=1_000_000)
        phase_reached(session, dive, "capturing")
        assert session.close() == ()
        assert dive.poll().phase in ("cancelled", "gone")
        assert untouched(engine, before)
        assert engine.ask("watched")["python"] == "None"


@pytest.mark.slow
def test_a_detach_of_an_idle_engine_ends_the_capture_first(tmp_path: Path) -> None:
    with scripted(tmp_path, "3.11", "idle") as engine:
        before = engine.state()
        session = open_session(engine)
        engine.ask("work 20")
        while not links_of(session)[0].status.base_ns:
            session.tick()
        dive = dive_into(session, batches=1000)
        engine.ask("work 5")
        assert phase_reached(session, dive, "capturing")
        assert session.close() == ()
        assert untouched(engine, before)
        assert engine.ask("watched")["python"] == "None"


def test_the_time_of_a_window_is_over_in_an_idle_engine_too(tmp_path: Path) -> None:
    with scripted(tmp_path, "3.11", "idle") as engine:
        before = engine.state()
        with attached(engine) as session:
            engine.ask("work 20")
            while not links_of(session)[0].status.base_ns:
                session.tick()
            dive = dive_into(session, batches=1000, max_s=0.3)
            engine.ask("work 5")
            assert phase_reached(session, dive, "capturing")
            time.sleep(0.5)
            assert dive.poll().phase == "capturing"
            assert dive.finish()
            status = phase_reached(session, dive, "ready")
            assert dive.fetch(tmp_path).events is not None
            dive.poll()
            engine.ask("work 2")
        assert status.window_ns is not None
        assert untouched(engine, before)


RAISING = """
class Guest:
    def __init__(self, agent, options):
        self.where = options["where"]
        if self.where == "init":
            raise ValueError("at its arrival")
    def tick(self, now):
        raise KeyError("at a boundary")
    def end(self, why):
        if self.where == "end":
            raise OSError("at its end")
        return True
"""


def test_a_guest_that_raises_is_removed_and_reported(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine:
        before = engine.state()
        with attached(engine) as session:
            batches_from(session, 3)
            ring = links_of(session)[0].ring
            assert ring is not None
            for where, said in (
                ("init", "ValueError: at its arrival"),
                ("tick", "KeyError: 'at a boundary'"),
                ("end", "KeyError: 'at a boundary'"),
            ):
                told = loaded(session, agent.NO_MAGIC, RAISING, {"where": where})
                assert (told["phase"], told["error"]) == ("failed", said)
            assert ring.faults == 0
            assert ring.state == agent.RUNNING
            assert batches_from(session, 20)
            assert captured(session, tmp_path)[0].phase == "ready"  # and the next one is let in
        assert untouched(engine, before)


def test_code_for_another_python_or_attach_is_not_run(tmp_path: Path) -> None:
    deadly = "import os; os._exit(9)"
    with scripted(tmp_path) as engine, attached(engine) as session:
        batches_from(session, 3)
        told = loaded(session, b"\x01\x02\r\n", deadly, {})
        assert (told["phase"], told["error"]) == ("failed", "ValueError: compiled for another Python")
        told = loaded(session, agent.NO_MAGIC, deadly, {}, "0" * 16)
        assert (told["phase"], told["error"]) == ("failed", "ValueError: of another attach")
        assert engine.works()


def loaded(
    session: Session, magic: bytes, code: str, options: dict[str, object], nonce: str = ""
) -> dict[str, object]:
    """What the probe says to code that is put behind its ring."""
    link = links_of(session)[0]
    while not link.status.base_ns:
        session.tick()
    assert link.ring is not None
    number = link.ring.load(magic + (nonce or link.nonce).encode() + marshal.dumps((code, options), 2))
    end = time.monotonic() + 20
    while link.ring.guest_told().get("load") != number or link.ring.acknowledged < number:
        assert time.monotonic() < end
        session.tick()
        time.sleep(0.01)
    time.sleep(0.05)
    return link.ring.guest_told()


@pytest.mark.slow
def test_without_a_compiler_at_hand_the_target_compiles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(tmp_path) as engine, attached(engine) as session:
        batches_from(session, 3)
        monkeypatch.setattr(deep_link, "compile_for", lambda *_: None)
        dive = dive_into(session, batches=5)
        assert phase_reached(session, dive, "ready").batches == 5
        assert "compiles the capture itself" in dive.warnings[0]
