"""An engine that waits where nothing can wake it: the probe is armed, and starts with the next request."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from prismtop.model import AttachState
from prismtop.sources.live import AttachOptions
from prismtop.sources.ring import find_ring
from tests.integration.engines import (
    ScriptedEngine,
    attached,
    batches_from,
    open_session,
    probe_is_gone,
    probe_is_in,
    scripted,
    ticks_until,
    watching,
)
from tests.integration.test_attach_cycle import expected_afterwards

QUICK = AttachOptions(timeout_s=0.3)
MINORS = ("3.9", "3.11", "3.13", "3.14")


def request_until(engine: ScriptedEngine, count: int) -> None:
    """Give it `count` steps and wait until it has taken them."""
    goal = engine.steps() + count
    engine.request(count)
    end = time.monotonic() + 20
    while engine.steps() < goal:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("minor", MINORS)
def test_an_idle_engine_is_armed_and_starts_with_the_next_request(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor, "read") as engine:
        before = engine.state()
        with attached(engine, QUICK) as session:
            frame = session.tick()
            assert (frame.state, frame.note) == (AttachState.ARMED, "armed: starts with the next request")
            assert {hook.reason for hook in frame.hooks} == {"waits for the next request"}
            engine.request(60)
            _, frame = ticks_until(session, lambda made, _: len(made) >= 50)
            assert frame.state is AttachState.LIVE
        assert engine.state() == expected_afterwards(before)
        assert engine.scratch_left() == 0
        assert find_ring(engine.pid) is None
        request_until(engine, 5)


@pytest.mark.parametrize("minor", MINORS)
def test_a_detach_while_armed_leaves_nothing_that_runs_later(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor, "read") as engine:
        before = engine.state()
        session = open_session(engine, QUICK)
        assert session.tick().state is AttachState.ARMED
        assert session.close() == ()
        request_until(engine, 20)
        assert engine.state() == before
        with attached(engine, QUICK) as session:  # and it can be watched
            engine.request(30)
            batches_from(session, 20)
        assert engine.state() == expected_afterwards(before)


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_a_probe_whose_monitor_died_before_it_started_leaves_by_its_lease(minor: str, tmp_path: Path) -> None:
    short = ("--set", "lease_s=2", "--set", "attach_timeout_s=0.3")
    with scripted(tmp_path, minor, "read", step_us=20_000) as engine:
        before = engine.state()
        with watching(engine.pid, *short, env=engine.environment) as watch:
            assert watch.until("session")["state"] == "armed"
            watch.process.kill()
            watch.process.wait()
        engine.request(400)
        assert probe_is_in(engine.pid, 8)
        assert probe_is_gone(engine.pid, 8)
        assert engine.state()["ids"] == before["ids"]
        assert engine.state()["files"] == []


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_watch_says_that_it_is_armed_and_then_that_it_is_live(minor: str, tmp_path: Path) -> None:
    with (
        scripted(tmp_path, minor, "read") as engine,
        watching(engine.pid, "-n", "20", "--set", "attach_timeout_s=0.3", env=engine.environment) as watch,
    ):
        first = watch.until("session")
        assert (first["state"], first["note"]) == ("armed", "armed: starts with the next request")
        engine.request(40)
        assert watch.finish()[0] == 0
        assert {line["state"] for line in watch.of("state")} == {"live"}
        assert len(watch.of("batch")) == 20


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_an_idle_engine_that_ends_while_armed_ends_the_watch(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor, "read") as engine:
        with watching(engine.pid, "--set", "attach_timeout_s=0.3", env=engine.environment) as watch:
            assert watch.until("session")["state"] == "armed"
            engine.process.kill()
            engine.process.wait()
            code, err = watch.finish()
        assert code == 3
        assert "ended after 0 batches" in err
        assert list(engine.temporary.iterdir()) == []


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.14"])
def test_a_live_engine_that_falls_idle_is_left_at_once(minor: str, tmp_path: Path) -> None:
    """No hook runs that would read the mailbox; where the wait cannot be ended, the user is told."""
    with scripted(tmp_path, minor, "read") as engine:
        before = engine.state()
        session = open_session(engine, QUICK)
        engine.request(30)
        batches_from(session, 20)
        time.sleep(0.3)
        (note,) = session.close()
        assert "removes itself at the next request" in note
        assert list(engine.temporary.iterdir()) == []
        request_until(engine, 10)
        assert engine.state() == expected_afterwards(before)


@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.13", "3.14"])
def test_an_engine_that_left_by_itself_while_a_detach_was_queued_goes_on(minor: str, tmp_path: Path) -> None:
    """Batches end on a thread of their own while its main thread sleeps: the queued call runs much later."""
    with scripted(tmp_path, minor, "worker", step_us=900_000) as engine:
        before = engine.state()
        session = open_session(engine, QUICK)
        engine.request(1)
        batches_from(session, 2)
        session.close()
        engine.request(1)
        assert engine.works()
        assert engine.state()["ids"] == before["ids"]
