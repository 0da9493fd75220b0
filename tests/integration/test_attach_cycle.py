"""The whole stack on a small engine: the probe goes in, batches come out, the probe is gone."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from prismtop.model import AttachState
from prismtop.sources.ring import find_ring
from tests.integration.engines import (
    ALL_MINORS,
    FEW_MINORS,
    ScriptedEngine,
    attached,
    batches_from,
    scripted,
    ticks_until,
)

LEFT = "_prismtop_fork"
"""The empty module that the at-fork callback looks into: both stay for the life of the process."""


def expected_afterwards(before: dict[str, Any]) -> dict[str, Any]:
    return {**before, "modules": [LEFT]}


@pytest.mark.parametrize("minor", ALL_MINORS)
def test_nothing_is_different_after_a_detach(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        for _ in range(2):  # and it can be entered again
            with attached(engine) as session:
                batches = batches_from(session, 20)
            assert engine.state() == expected_afterwards(before)
            assert engine.scratch_left() == 0
            assert find_ring(engine.pid) is None
        assert engine.works()
    assert {batch.workload.batch_size for batch in batches} == {2}


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_batches_have_the_stages_and_the_workload_of_the_steps(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, attached(engine) as session:
        _, frame = ticks_until(session, lambda _, frame: all(h.mechanism or h.reason for h in frame.hooks))
        batches = batches_from(session, 120)
        frame = session.tick()
    numbers = [batch.workload.new_requests for batch in batches]
    assert numbers == list(range(numbers[0] or 0, (numbers[0] or 0) + len(batches)))
    assert [batch.seq for batch in batches] == list(range(batches[0].seq, batches[0].seq + len(batches)))
    for batch in batches:
        assert set(batch.stage_ns()) == {"schedule", "prepare", "launch", "sample", "post"}
        assert batch.stage_ns()["launch"] > 1_900_000
        assert batch.duration_ns < 50_000_000 or batch.stage_ns()["launch"] > 25_000_000
        prefill = batch.workload.new_requests is not None and batch.workload.new_requests % 50 == 0
        assert batch.workload.prefill_tokens == (32 if prefill else 0)
        assert batch.workload.decode_tokens == (0 if prefill else 2)
        assert batch.workload.kv_usage is None
    assert frame.lost.records == 0


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_batches_are_counted_as_the_engine_counts_its_steps(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, attached(engine) as session:
        first = batches_from(session, 1)[0]
        batches = batches_from(session, 1000, within_s=60)
        last, frame = batches[-1], session.tick()
    assert (last.workload.new_requests or 0) - (first.workload.new_requests or 0) == last.seq - first.seq
    assert frame.lost.records == frame.lost.batches == 0


@pytest.mark.parametrize(
    ("minor", "mode"), [("3.10", "alone"), ("3.11", "alloc"), ("3.13", "busy"), ("3.14", "busy")]
)
def test_20_cycles_leave_nothing(minor: str, mode: str, tmp_path: Path) -> None:
    cycles(minor, mode, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("minor", ALL_MINORS)
@pytest.mark.parametrize("mode", ["busy", "alloc"])
def test_2000_cycles_leave_nothing(minor: str, mode: str, tmp_path: Path) -> None:
    cycles(minor, mode, 2000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("minor", ALL_MINORS)
def test_2000_cycles_of_an_idle_engine_leave_nothing(minor: str, tmp_path: Path) -> None:
    cycles(minor, "idle", 2000, tmp_path)


def least_memory(engine: ScriptedEngine) -> dict[str, int]:
    """Objects and blocks at the quietest of some moments: threads of the engine's own may be at work."""
    return min((engine.ask("memory") for _ in range(10)), key=lambda memory: int(memory["objects"]))


def cycles(minor: str, mode: str, count: int, home: Path) -> None:
    with scripted(home, minor, mode) as engine:
        before, warm, warm_kb = engine.state(), engine.ask("memory"), 0
        own: set[str] = set()
        started = time.monotonic()
        for number in range(count):
            with attached(engine) as session:
                if mode == "idle":
                    assert engine.ask("work 5")["steps"] == 5 * (number + 1)
                batches_from(session, 2, within_s=60)
                notes = session.close()
            assert notes == ()
            if number == min(9, count // 2):
                warm, warm_kb = least_memory(engine), engine.rss_kb()
                own = set(os.listdir("/proc/self/fd"))
        grown_kb, memory = engine.rss_kb() - warm_kb, least_memory(engine)
        after = engine.state()
        blocks = memory["blocks"] - warm["blocks"]
        print(
            f"{minor} {mode}: {count} cycles in {time.monotonic() - started:.0f} s, RSS {grown_kb:+} kB, "
            f"{blocks:+} allocated blocks, {memory['objects'] - warm['objects']:+} objects"
        )
        assert after == expected_afterwards(before)
        assert set(os.listdir("/proc/self/fd")) == own
        assert engine.scratch_left() == 0
        assert engine.works() if mode != "idle" else engine.ask("work 1")
        assert memory["objects"] - warm["objects"] < 100
        if mode != "alloc":  # its own threads come and go
            assert blocks < 500 + count / 2
            assert grown_kb < 10_000


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_an_engine_that_waits_for_work_is_entered_and_left(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor, "idle") as engine:
        before, own = engine.state(), set(os.listdir("/proc/self/fd"))
        with attached(engine) as session:
            engine.ask("work 30")
            batches_from(session, 20)
            ticks_until(session, lambda _, frame: frame.state is AttachState.LIVE)
            assert session.close() == ()
        assert engine.state() == expected_afterwards(before)
        assert engine.scratch_left() == 0
        assert set(os.listdir("/proc/self/fd")) == own
        assert engine.ask("work 5")["steps"] == 35
