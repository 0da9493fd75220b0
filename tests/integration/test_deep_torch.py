"""Deep captures of a process that runs PyTorch: its own profiler, started and stopped at batch boundaries."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prismtop.sources.deep_link import DeepStatus, FetchedDeep
from tests.integration.deep import (
    capturing_process,
    dive_into,
    layer,
    phase_reached,
    untouched,
)
from tests.integration.engines import (
    ENGINES,
    ScriptedEngine,
    attached,
    open_session,
    probe_is_gone,
    scripted,
)

pytestmark = pytest.mark.real_engine

LEASE_S = 1.5
OFF = {"python": "None", "trace": "None", "torch": False}
KINETO = ("threads",)
"""The first capture in a process starts a thread of Kineto, which stays."""
LAYERS = 20
"""Of the engine's model: each step has as many matrix products."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedEngine]:
    """An engine whose steps are forward passes of PyTorch."""
    python = ENGINES / "hf" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not installed: PyTorch comes with it (shared/tools/engines/install.sh hf)")
    with scripted(tmp_path_factory.mktemp("torch"), mode="torch", python=str(python)) as engine:
        yield engine


@pytest.fixture
def before(engine: ScriptedEngine) -> dict[str, Any]:
    assert engine.ask("watched") == OFF
    return engine.state()


def profile_of(found: FetchedDeep) -> dict[str, Any]:
    assert found.profile is not None
    assert found.profile.stat().st_mode & 0o777 == 0o600
    profile: dict[str, Any] = json.loads(found.profile.read_text())
    return profile


def monotonic_offset_ns(profile: dict[str, Any]) -> int:
    """CLOCK_MONOTONIC is Kineto's microseconds x 1000 plus this, by the last of its markers."""
    markers = [e for e in profile["traceEvents"] if str(e.get("name")).startswith("prismtop_sync_")]
    mono, real = (int(text) for text in markers[-1]["name"].split("_")[2:])
    return int(profile.get("baseTimeNanoseconds", 0)) - (real - mono)


def test_captures_have_the_operators_of_their_batches(
    engine: ScriptedEngine, before: dict[str, Any], tmp_path: Path
) -> None:
    with attached(engine) as session:
        for count in (50, 20):
            dive = dive_into(session, batches=count)
            status = phase_reached(session, dive, "ready")
            found = dive.fetch(tmp_path)
            dive.poll()
            check_profile(status, profile_of(found), count)
    assert untouched(engine, before, but=KINETO)
    assert engine.ask("watched") == OFF
    assert list(engine.temporary.iterdir()) == []


def check_profile(status: DeepStatus, profile: dict[str, Any], batches: int) -> None:
    events = [event for event in profile["traceEvents"] if event.get("ph") == "X"]
    names = Counter(event["name"] for event in events)
    assert abs(names["aten::linear"] - batches * LAYERS) <= LAYERS
    markers = [name for name in names if name.startswith("prismtop_sync_")]
    assert len(markers) == 6
    assert status.window_ns is not None
    begin, end = status.window_ns
    offset = monotonic_offset_ns(profile)
    times = [int(e["ts"] * 1000) + offset for e in events if e["name"] == "aten::linear"]
    slack = 2_000_000
    assert begin - slack <= min(times) <= max(times) <= end + slack
    assert status.batches == batches
    assert layer(status, "operators")[0] == layer(status, "python")[0] == "on"
    assert layer(status, "gpu") == ("off", "not asked for")


def test_batches_without_operators_are_told_where_the_others_cost_too_much(
    engine: ScriptedEngine, before: dict[str, Any], tmp_path: Path
) -> None:
    with attached(engine) as session:
        dive = dive_into(session, batches=60, python=False, budget=1e-9)
        status = phase_reached(session, dive, "ready")
        found = dive.fetch(tmp_path)
        dive.poll()
    assert found.events is not None
    lines = [json.loads(line) for line in found.events.read_text().splitlines()]
    gaps = [(line["t0"], line["t0"] + line["dur"]) for line in lines if line["layer"] == "unrecorded"]
    profile = profile_of(found)
    offset = monotonic_offset_ns(profile)
    made = [e for e in profile["traceEvents"] if e.get("ph") == "X" and e["name"] == "aten::linear"]
    times = [int(e["ts"] * 1000) + offset for e in made]
    assert gaps
    assert 0 < len(times) < 50 * LAYERS
    assert not [at for at in times if any(start < at < end for start, end in gaps)]
    state, reason = layer(status, "operators")
    assert (state, reason.split()[0], reason.split()[2:5]) == ("partial", "in", ["of", "60", "batches:"])
    assert engine.ask("watched") == OFF
    assert untouched(engine, before, but=KINETO)


def test_operators_can_have_their_python_stacks(
    engine: ScriptedEngine, before: dict[str, Any], tmp_path: Path
) -> None:
    with attached(engine) as session:
        dive = dive_into(session, batches=5, stacks=True)
        status = phase_reached(session, dive, "ready")
        names = {str(event.get("name")) for event in profile_of(dive.fetch(tmp_path))["traceEvents"]}
    assert layer(status, "stacks")[0] == "on"
    assert layer(status, "python") == ("off", "the profiler's own stacks take its place")
    assert any("engine_loop.py" in name and "forward" in name for name in names)
    assert engine.ask("watched") == OFF
    assert untouched(engine, before, but=KINETO)


def test_a_profiler_that_runs_already_is_left_alone(
    engine: ScriptedEngine, before: dict[str, Any], tmp_path: Path
) -> None:
    engine.ask("profile torch")
    with attached(engine) as session:
        dive = dive_into(session, batches=5)
        status = phase_reached(session, dive, "ready")
        found = dive.fetch(tmp_path)
        assert engine.ask("watched")["torch"] is True
    engine.ask("profile off")
    assert found.profile is None
    assert layer(status, "operators") == ("off", "another PyTorch profiler is running in this process")
    assert untouched(engine, before, but=KINETO)


@pytest.mark.parametrize("phase", ["capturing", pytest.param("exporting", marks=pytest.mark.slow)])
def test_a_killed_monitor_leaves_no_profiler_running(
    phase: str, engine: ScriptedEngine, before: dict[str, Any]
) -> None:
    batches = 1_000_000 if phase == "capturing" else 100
    with capturing_process(engine, LEASE_S, batches) as monitor:
        monitor.until(phase)
        monitor.kill()
        assert engine.works()
        assert probe_is_gone(engine.pid, LEASE_S + 30)
    assert untouched(engine, before, but=KINETO)
    assert engine.ask("watched") == OFF
    assert list(engine.temporary.iterdir()) == []


def test_a_cancel_and_a_detach_stop_the_profiler(engine: ScriptedEngine, before: dict[str, Any]) -> None:
    session = open_session(engine)
    try:
        dive = dive_into(session, batches=1_000_000)
        phase_reached(session, dive, "capturing")
        assert engine.ask("watched")["torch"] is True
        dive.cancel()
        phase_reached(session, dive, "cancelled")
        assert engine.ask("watched") == OFF
        phase_reached(session, dive_into(session, batches=1_000_000), "capturing")
    finally:
        assert session.close() == ()
    assert untouched(engine, before, but=KINETO)
    assert engine.ask("watched") == OFF


def test_a_child_is_not_profiled_and_the_parent_goes_on(
    engine: ScriptedEngine, before: dict[str, Any], tmp_path: Path
) -> None:
    with attached(engine) as session:
        dive = dive_into(session, batches=250)
        phase_reached(session, dive, "capturing")
        (child,) = engine.ask("fork")
        status = phase_reached(session, dive, "ready")
        found = dive.fetch(tmp_path)
    assert child["taken"] == 20
    assert child["watched"] == OFF
    check_profile(status, profile_of(found), 250)
    assert untouched(engine, before, but=KINETO)


def test_a_window_ends_by_time_too(engine: ScriptedEngine, tmp_path: Path) -> None:
    with attached(engine) as session:
        started = time.monotonic()
        dive = dive_into(session, batches=1_000_000, max_s=0.2)
        status = phase_reached(session, dive, "ready")
        assert time.monotonic() - started >= 0.2
        dive.cancel()
    assert status.window_ns is not None
    assert status.window_ns[1] - status.window_ns[0] >= 200_000_000
