"""Causes from two deep captures: what only operators, kernels, collections and the scheduler can tell."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prismtop.commands.diagnose import evidence_of_traces
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import write_trace
from prismtop.diagnosis.collect import gather
from prismtop.diagnosis.observations import observe
from prismtop.diagnosis.ranking import NAMED, rank
from prismtop.model import Batch, Cause, Layer, LayerState
from prismtop.trace.load import load
from tests.factories import MS
from tests.unit.deep_profiles import (
    MONO,
    PID,
    TID,
    US,
    Fetched,
    batch_times,
    cuda_profile,
    decode_step,
    eight_ms_batch,
    frames_of,
    make_capture,
    two_ranks,
)

COUNT = 30
OTHER = 4300
TIMES = batch_times(COUNT)
CAPTURE = make_capture(layers=(Layer("gc", LayerState.ON), Layer("scheduler", LayerState.ON)))


def capture(
    folder: Path,
    *,
    gemm: float = 1.0,
    collect_ns: int = 0,
    wait_ns: int = 0,
    ranks: Sequence[float] = (1.0,),
    seed: int = 1,
) -> Path:
    """A capture of 30 batches whose figures vary by 1 %.

    Args:
        gemm: factor on all kernels.
        collect_ns, wait_ns: garbage collection, and wait for a core, in every batch.
        ranks: factor on each rank's compute kernels; ranks leave their collective together.
    """
    folder.mkdir()
    about = random.Random(seed)
    fetched = []
    for number, factor in enumerate(ranks):
        made = cuda_profile(0, pid=(PID, OTHER)[number], tid=(TID, OTHER + 1)[number], device=number)
        for start in TIMES:
            compute = round(2 * MS * gemm * factor * about.gauss(1, 0.01))
            decode_step(made, start, compute, collective_ns=round(4 * MS * gemm) - compute)
        made.markers(TIMES[-1] + 9 * MS)
        fetched.append(Fetched(made.pid, made.write(folder / f"profile{number}.json")))
    layers = [LayerEvent("scheduler", "slice", "oncpu", TIMES[0], 8 * COUNT * MS, PID, TID)]
    pauses = []
    for start in TIMES:
        if wait_ns:
            args = {"instead": "stress-ng"}
            layers.append(LayerEvent("scheduler", "slice", "runq", start + MS, wait_ns, PID, TID, args))
        if collect_ns:
            pause = {"layer": "gc", "name": "gen 2", "t0": start + 2 * MS, "dur": collect_ns, "tid": TID}
            pauses.append(json.dumps(pause))
    events = folder / "events.jsonl"
    events.write_text("\n".join(pauses))
    fetched[0] = Fetched(PID, fetched[0].profile, events)
    batches: list[Batch] = [eight_ms_batch(seq, start) for seq, start in enumerate(TIMES)]
    if len(ranks) > 1:
        batches = [two_ranks(batch, OTHER, (2 * MS, 2 * MS)) for batch in batches]
    path = folder / "deep.json.gz"
    write_trace(path, frames=frames_of(batches), fetched=fetched, layers=layers, capture=CAPTURE)
    return path


def causes(tmp_path: Path, normal: dict[str, Any], abnormal: dict[str, Any]) -> tuple[Cause, ...]:
    before = capture(tmp_path / "normal", **normal)
    after = capture(tmp_path / "abnormal", **abnormal, seed=2)
    return rank(evidence_of_traces(load([before]), load([after])))


@pytest.mark.parametrize(
    ("normal", "abnormal", "cause", "said"),
    [
        ({}, {"collect_ns": 1200 * US}, "gc_or_gil", "garbage collection, as a share of a batch 0 % -> 15 %"),
        ({}, {"wait_ns": 900 * US}, "cpu_contention", "the core had stress-ng"),
        ({}, {"gemm": 1.5}, "gpu_clock_limited", "time of the GPU kernels that changed least"),
        (
            {"ranks": (1.0, 1.0)},
            {"ranks": (1.0, 1.4)},
            "straggler_rank",
            "slowest rank's compute kernels, over the median rank's x1",
        ),
    ],
    ids=["garbage collection", "another process on the core", "every kernel slower", "a slow rank"],
)
def test_a_fault_that_only_a_capture_shows_is_named(
    tmp_path: Path, normal: dict[str, Any], abnormal: dict[str, Any], cause: str, said: str
) -> None:
    first, *others = causes(tmp_path, normal, abnormal)
    assert first.id == cause
    assert first.score >= NAMED
    assert any(said in line for line in first.evidence), first.evidence
    assert all(other.score < first.score for other in others)


def test_between_two_equal_captures_no_cause_is_named(tmp_path: Path) -> None:
    first, *others = causes(tmp_path, {"ranks": (1.0, 1.0)}, {"ranks": (1.0, 1.0)})
    assert first.id == "unknown"
    assert all(other.score < NAMED for other in others)


def test_the_late_rank_is_named_by_its_process(tmp_path: Path) -> None:
    first, *_ = causes(tmp_path, {"ranks": (1.0, 1.0)}, {"ranks": (1.0, 1.4)})
    assert any(f"[pid {OTHER}]" in line for line in first.evidence), first.evidence


@pytest.mark.parametrize(
    ("fault", "cause", "said"),
    [
        (
            {"wait_ns": 5 * MS},
            "cpu_contention",
            "ready without a core, as a share of a batch 62.5 %",
        ),
        ({"collect_ns": 3 * MS}, "gc_or_gil", "garbage collection, as a share of a batch 37.5 %"),
    ],
    ids=["no core", "garbage collection"],
)
def test_a_capture_of_the_incident_alone_names_what_its_shares_say(
    tmp_path: Path, fault: dict[str, Any], cause: str, said: str
) -> None:
    seen = [observe(batch) for batch in load([capture(tmp_path / "incident", **fault)]).batches()]
    first, *_ = rank(gather({}, ([], seen), slower=0.5, onset_ns=MONO))
    assert first.id == cause
    assert f"{said}, with nothing before it to compare" in first.evidence
    # Of two captures it explains no difference.
    assert rank(gather({}, ([], seen), slower=None, onset_ns=None))[0].id == "unknown"
