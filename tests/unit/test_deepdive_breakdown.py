"""What device and host did in each batch: intervals, the split of stages, what limits a batch, ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismtop.deepdive.activity import Kind, kind_of
from prismtop.deepdive.analysis import DeepAnalysis, of_trace
from prismtop.deepdive.breakdown import stage_spans
from prismtop.deepdive.intervals import Intervals, union
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import write_trace
from prismtop.export.deep_report import deep_object, parts_tables
from prismtop.model import Batch, Bound, Breakdown, Layer, LayerState, Part
from prismtop.trace.load import load
from tests.factories import MS
from tests.unit.deep_profiles import (
    MONO,
    PID,
    TID,
    US,
    Fetched,
    Kineto,
    batch_times,
    cuda_profile,
    decode_step,
    eight_ms_batch,
    frames_of,
    make_capture,
    make_stage,
    real_cpu_frames,
    real_cpu_profile,
    two_ranks,
)

BATCHES = [eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(6))]
LATE = 3_500
"""By so much the constructed clock is off: times of the device appear earlier by it."""


def merged(tmp_path: Path, made: Kineto, batches: list[Batch] | None = None, **changes: Any) -> Path:
    fetched = Fetched(made.pid, made.write(tmp_path / "profile.json"))
    fields: dict[str, Any] = {"fetched": [fetched], "layers": (), "capture": make_capture()}
    fields["frames"] = frames_of(BATCHES if batches is None else batches)
    write_trace(tmp_path / "deep.json", **{**fields, **changes})
    return tmp_path / "deep.json"


def breakdowns_of(path: Path) -> list[Breakdown]:
    found = [batch.breakdown for batch in load([path]).batches()]
    assert all(found)
    return [one for one in found if one is not None]


def part_of(breakdown: Breakdown, stage: str) -> Part:
    return next(part for part in breakdown.parts if part.stage == stage)


def analysis_of(*paths: Path) -> DeepAnalysis:
    made = of_trace(load(paths))
    assert made is not None
    return made


# -- intervals

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12)


def as_set(spans: list[tuple[int, int]]) -> Intervals:
    starts = np.array([start for start, _ in spans], np.int64)
    return union(starts, starts + np.array([length for _, length in spans], np.int64))


def points(spans: list[tuple[int, int]]) -> set[int]:
    return {at for start, length in spans for at in range(start, start + length)}


@given(SPANS, SPANS)
def test_sets_of_intervals_are_sets_of_points(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    one, other = as_set(a), as_set(b)
    assert one.total == len(points(a))
    assert one.without(other).total == len(points(a) - points(b))
    assert one.common(other).total == len(points(a) & points(b))
    assert (one.starts[1:] > one.ends[:-1]).all()


@given(SPANS, st.integers(-5, 90), st.integers(0, 40))
def test_the_part_within_a_stretch_is_what_lies_there(
    spans: list[tuple[int, int]], start: int, length: int
) -> None:
    inside = len({at for at in points(spans) if start <= at < start + length})
    covered = as_set(spans)
    assert covered.within(np.array([start]), np.array([start + length])).tolist() == [inside]
    assert covered.cut(start, start + length).total == inside


@pytest.mark.parametrize(
    ("cat", "name", "kind"),
    [
        ("cuda_runtime", "cudaLaunchKernel", Kind.LAUNCH),
        ("cuda_runtime", "cudaLaunchKernelExC", Kind.LAUNCH),
        ("cuda_runtime", "cudaGraphLaunch", Kind.LAUNCH),
        ("cuda_driver", "cuLaunchKernelEx", Kind.LAUNCH),
        ("cuda_runtime", "hipModuleLaunchKernel", Kind.LAUNCH),
        ("cuda_runtime", "cudaLaunchHostFunc", Kind.RUNTIME),
        ("cuda_runtime", "cudaStreamSynchronize", Kind.SYNC),
        ("cuda_runtime", "cudaEventSynchronize", Kind.SYNC),
        ("cuda_runtime", "cudaMemcpy", Kind.SYNC),
        ("cuda_runtime", "cudaMemcpyAsync", Kind.RUNTIME),
        ("cuda_runtime", "cudaStreamWaitEvent", Kind.RUNTIME),
        ("kernel", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage)", Kind.COLLECTIVE),
        ("kernel", "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>", Kind.COLLECTIVE),
        ("kernel", "hcom_allReduce__123", Kind.COLLECTIVE),
        ("kernel", "void at::native::reduce_kernel<512, 1>", Kind.COMPUTE),
        ("gpu_memset", "Memset (Device)", Kind.COPY),
        ("python_function", "aten::mm", Kind.OTHER),
    ],
)
def test_spans_are_told_apart_by_category_and_name(cat: str, name: str, kind: Kind) -> None:
    assert kind_of(cat, name) is kind


# -- one batch


def test_a_batch_is_split_into_what_the_device_did(tmp_path: Path) -> None:
    device = part_of(breakdowns_of(merged(tmp_path, cuda_profile()))[2], "").device
    assert device is not None
    # GEMM 3 ms, then the collective that began 0.4 ms before its end, then 0.1 ms, then a copy of 10 us.
    assert device.compute_ns == 3_100_000
    assert device.collective_ns == 1_000_000
    assert device.exposed_ns == 600_000
    assert device.copy_ns == 10_000
    assert device.busy_ns == 3_710_000
    assert device.idle_ns == 8 * MS - 3_710_000
    assert (device.gaps, device.kernels) == (4, 3)


def test_its_launch_and_wait_are_split_too(tmp_path: Path) -> None:
    breakdown = breakdowns_of(merged(tmp_path, cuda_profile()))[2]
    launch, wait = part_of(breakdown, "launch"), part_of(breakdown, "wait")
    assert (launch.wall_ns, wait.wall_ns) == (2 * MS, 4_500_000)
    assert launch.device is not None
    assert wait.device is not None
    assert launch.device.busy_ns == 1_900_000 + LATE  # the GEMM began 0.1 ms after the stage
    assert launch.host.launches == 3
    assert launch.host.operators_ns == 975_000  # 390 + 400 + 200 us less the three launches inside
    assert wait.host.syncs_ns == pytest.approx(1_845_000, abs=LATE)


def test_the_model_thread_s_time_adds_up(tmp_path: Path) -> None:
    for part in breakdowns_of(merged(tmp_path, cuda_profile()))[1].parts:
        host = part.host
        parts = (host.operators_ns, host.launches_ns, host.syncs_ns, host.runtime_ns, host.other_ns)
        assert None not in parts
        assert sum(one for one in parts if one is not None) == part.wall_ns


def test_waits_for_a_core_and_collections_are_told_of_the_batch_they_fell_into(tmp_path: Path) -> None:
    start = MONO + 8 * MS
    layers = [
        LayerEvent("scheduler", "slice", "oncpu", MONO, 8 * MS, PID, TID),
        LayerEvent("scheduler", "slice", "runq", start, MS, PID, TID, {"instead": "stress"}),
        LayerEvent("scheduler", "slice", "runq", start, 7 * MS, PID, TID + 1),
        LayerEvent("scheduler", "slice", "oncpu", start + MS, 5 * MS, PID, TID),
        LayerEvent("scheduler", "slice", "oncpu", start + 8 * MS, MS, PID, TID),
    ]
    events = tmp_path / "events.jsonl"
    gc = {"layer": "gc", "name": "gen 2", "t0": start + 3 * MS, "dur": 2 * MS, "tid": TID, "args": {}}
    events.write_text(json.dumps(gc) + "\n")
    made = cuda_profile()
    fetched = [Fetched(PID, made.write(tmp_path / "profile.json"), events)]
    first, second, *_ = breakdowns_of(merged(tmp_path, made, fetched=fetched, layers=layers))
    host = part_of(second, "").host
    assert (host.runqueue_ns, host.off_cpu_ns, host.gc_ns) == (MS, 2 * MS, 2 * MS)
    assert (part_of(first, "").host.runqueue_ns, part_of(first, "").host.gc_ns) == (0, 0)


def test_what_the_scheduler_s_layer_does_not_reach_is_unknown_and_not_in_averages(tmp_path: Path) -> None:
    late = MONO + 8 * MS
    layers = [
        LayerEvent("scheduler", "slice", "oncpu", late, 5 * MS, PID, TID),
        LayerEvent("scheduler", "slice", "runq", late + 5 * MS, 2 * MS, PID, TID),
        LayerEvent("scheduler", "slice", "oncpu", late + 7 * MS, 2 * MS, PID, TID),
    ]
    path = merged(tmp_path, cuda_profile(), layers=layers)
    hosts = [part_of(one, "").host for one in breakdowns_of(path)]
    assert [(host.runqueue_ns, host.off_cpu_ns) for host in hosts] == [
        (None, None), (2 * MS, 0), (None, None), (None, None), (None, None), (None, None),
    ]  # fmt: skip
    deep = of_trace(load([path]))
    assert deep is not None
    assert any("2.00 ms ready without a core" in line for line in deep.findings)
    assert (deep.parts[""].host.runqueue_ns, deep.unknown["", "runqueue_ns"]) == (2 * MS, 5)
    _, header, rows = next(parts_tables(deep))
    assert rows[0][header.index("run queue")] == "2.000"
    assert deep_object(deep)["parts_ms"]["all"]["unknown_batches"] == {"runqueue": 5, "off_cpu": 5}


def test_what_no_layer_shows_is_missing_and_not_zero(tmp_path: Path) -> None:
    host = part_of(breakdowns_of(merged(tmp_path, cuda_profile()))[0], "").host
    assert (host.gc_ns, host.runqueue_ns, host.off_cpu_ns) == (None, None, None)


def test_a_collected_layer_that_saw_nothing_means_zero(tmp_path: Path) -> None:
    capture = make_capture(layers=(Layer("gc", LayerState.ON),))
    host = part_of(breakdowns_of(merged(tmp_path, cuda_profile(), capture=capture))[0], "").host
    assert host.gc_ns == 0


def test_a_batch_that_the_profile_does_not_cover_has_none(tmp_path: Path) -> None:
    batches = [*BATCHES, eight_ms_batch(6, MONO + 60 * MS)]
    found = [batch.breakdown for batch in load([merged(tmp_path, cuda_profile(), batches)]).batches()]
    assert [one is None for one in found] == [False] * 6 + [True]


def test_a_batch_whose_operators_were_not_recorded_has_none(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    gap = {"layer": "unrecorded", "name": "operators", "t0": MONO + 8 * MS, "dur": 16 * MS, "tid": TID}
    events.write_text(json.dumps(gap) + "\n")
    made = cuda_profile()
    fetched = [Fetched(PID, made.write(tmp_path / "profile.json"), events)]
    path = merged(tmp_path, made, fetched=fetched)
    assert [one.breakdown is None for one in load([path]).batches()] == [False, True, True] + [False] * 3
    assert analysis_of(path).batches == 4


def test_a_real_cpu_profile_has_operators_and_nothing_that_is_called_gpu(tmp_path: Path) -> None:
    frames, facts = real_cpu_frames()
    fetched = [Fetched(facts["pid"], real_cpu_profile(tmp_path))]
    path = tmp_path / "deep.json"
    write_trace(path, frames=frames, fetched=fetched, layers=(), capture=make_capture(layers=()))
    for breakdown in breakdowns_of(path):
        assert breakdown.reason == "no device events in this trace"
        assert breakdown.bound is None
        assert all(part.device is None for part in breakdown.parts)
        launch = part_of(breakdown, "launch")
        assert launch.host.operators_ns is not None
        assert 0.2 * launch.wall_ns < launch.host.operators_ns <= launch.wall_ns
    names = [row.name for row in analysis_of(path).operators]
    assert {"aten::addmm", "aten::softmax"} & set(names[:6])


def test_a_stage_is_without_those_nested_in_it_and_once_what_two_hooks_measured() -> None:
    stages = (
        make_stage("launch", MONO, 100),
        make_stage("launch", MONO + 10, 80),
        make_stage("wait", MONO + 40, 20),
    )
    spans = stage_spans(replace(BATCHES[0], stages=stages), "launch", PID)
    assert [(start - MONO, end - MONO) for start, end in spans] == [(0, 40), (60, 100)]


# -- what limits a batch


def step_with(kineto: Kineto, start: int, kernels: list[tuple[int, int]]) -> None:
    """Kernels at these offsets (us), each launched right before it."""
    for begin, end in kernels:
        at = start + begin * US
        kineto.launch("kernel", at - 20 * US, (at, start + end * US))


@pytest.mark.parametrize(
    ("kernels", "bound"),
    [
        ([(1100, 7600)], Bound.DEVICE),
        ([(1000 + 90 * n, 1000 + 90 * n + 10) for n in range(1, 22)], Bound.HOST),
        ([(1100, 1200), (2900, 7990)], Bound.LAUNCH),
        ([(2900, 4000)], Bound.HOST),
    ],
    ids=[
        "busy throughout",
        "short kernels and then nothing",
        "waits for the second launch",
        "most of it idle after launch",
    ],
)
def test_what_limits_a_batch(tmp_path: Path, kernels: list[tuple[int, int]], bound: Bound) -> None:
    made = Kineto()
    made.markers(MONO - 2 * MS)
    for start in batch_times(6):
        step_with(made, start, kernels)
    made.markers(MONO + 49 * MS)
    assert breakdowns_of(merged(tmp_path, made))[3].bound is bound


def test_a_device_that_waits_for_launches_is_launch_bound(tmp_path: Path) -> None:
    def long_launch(seq: int, start: int) -> Batch:
        stages = (make_stage("launch", start, 7 * MS), make_stage("wait", start + 7 * MS, MS))
        return eight_ms_batch(seq, start, stages=stages)

    made = Kineto()
    made.markers(MONO - 2 * MS)
    batches = [long_launch(seq, start) for seq, start in enumerate(batch_times(6))]
    for start in batch_times(6):
        step_with(made, start, [(200 * n, 200 * n + 40) for n in range(1, 35)])
    made.markers(MONO + 49 * MS)
    assert breakdowns_of(merged(tmp_path, made, batches))[3].bound is Bound.LAUNCH


def test_what_limits_a_batch_without_device_work_cannot_be_told(tmp_path: Path) -> None:
    made = cuda_profile(3)
    made.markers(MONO + 60 * MS)
    assert breakdowns_of(merged(tmp_path, made))[5].bound is None


# -- whole traces


def test_operators_count_without_those_inside_of_them(tmp_path: Path) -> None:
    rows = {row.name: row for row in analysis_of(merged(tmp_path, cuda_profile())).operators}
    assert rows["aten::linear"].total_ns == 6 * 110 * US
    assert rows["aten::mm"].total_ns == 6 * 280 * US
    assert rows["aten::mm"].calls == 6


def test_kernels_and_collectives_are_apart_and_by_time(tmp_path: Path) -> None:
    found = analysis_of(merged(tmp_path, cuda_profile()))
    assert [(row.name, row.calls, row.total_ns) for row in found.kernels] == [
        ("void cutlass::gemm<bf16>(int)", 6, 18 * MS),
        ("void at::native::elementwise_kernel<4>", 6, 600 * US),
    ]
    assert [row.name for row in found.collectives] == ["ncclDevKernel_AllReduce_Sum_bf16"]


def test_the_profiler_s_own_file_gives_the_same_as_the_merged_one(tmp_path: Path) -> None:
    made = cuda_profile()
    whole = analysis_of(merged(tmp_path, made))
    alone = analysis_of(tmp_path / "profile.json")
    assert (alone.kernels, alone.operators, alone.collectives) == (
        whole.kernels,
        whole.operators,
        whole.collectives,
    )
    assert alone.batches == 6  # by the annotations of vLLM in it


def ranks(tmp_path: Path, late_compute: int, late_host_ns: int = 0) -> Path:
    """Two ranks; both leave the collective together. Rank 1 computes and prepares for longer."""
    other, end = 4300, 5 * MS
    first = cuda_profile(0)
    second = cuda_profile(0, pid=other, tid=4301, device=1)
    for start in batch_times(6):
        for kineto, compute in ((first, 2 * MS), (second, 2 * MS + late_compute)):
            begin = start + 1100 * US + (late_host_ns if kineto is second else 0)
            decode_step(kineto, start, compute, collective_ns=start + end - begin - compute + 400 * US)
    for kineto in (first, second):
        kineto.markers(MONO + 49 * MS)
    fetched = [
        Fetched(PID, first.write(tmp_path / "first.json")),
        Fetched(other, second.write(tmp_path / "second.json")),
    ]
    batches = [two_ranks(batch, other, (2 * MS, 2 * MS + late_host_ns)) for batch in BATCHES]
    path = tmp_path / "ranks.json"
    write_trace(path, frames=frames_of(batches), fetched=fetched, layers=(), capture=make_capture())
    return path


def test_the_rank_that_computes_longer_and_waits_least_is_late(tmp_path: Path) -> None:
    found = analysis_of(ranks(tmp_path, late_compute=600 * US))
    assert [work.rank for work in found.ranks] == [0, 1]
    assert found.ranks[0].collective_ns > found.ranks[1].collective_ns
    assert found.late.startswith("rank 1 is late: it waits least in collectives")
    assert "in compute kernels" in found.late


def test_a_rank_that_is_late_on_the_host_is_told_so(tmp_path: Path) -> None:
    found = analysis_of(ranks(tmp_path, late_compute=0, late_host_ns=700 * US))
    assert "rank 1 is late" in found.late
    assert "on the host before its collective" in found.late


def test_equal_ranks_have_no_late_one(tmp_path: Path) -> None:
    assert analysis_of(ranks(tmp_path, late_compute=0)).late == ""


def test_spans_that_are_left_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cuda_profile()
    whole = merged(tmp_path, made)
    monkeypatch.setattr("prismtop.deepdive.activity.MAX_ROWS", 60)
    deep = of_trace(load([whole]))
    assert deep is not None
    assert "only the first 60 spans were used" in deep.findings
    written = write_trace(
        tmp_path / "less.json",
        frames=frames_of(BATCHES),
        fetched=[Fetched(made.pid, tmp_path / "profile.json")],
        layers=(),
        capture=make_capture(),
    )
    assert f"pid {PID}: only the first 60 spans were used" in written.notes


def test_a_capture_says_in_words_what_the_time_of_its_batches_was(tmp_path: Path) -> None:
    made = cuda_profile()
    waits = [
        LayerEvent("scheduler", "slice", "runq", start + MS, 2 * MS, PID, TID) for start in batch_times(6)
    ]
    fetched = [Fetched(PID, made.write(tmp_path / "profile.json"))]
    written = write_trace(
        tmp_path / "deep.json",
        frames=frames_of(BATCHES),
        fetched=fetched,
        layers=waits,
        capture=make_capture(),
    )
    assert written.findings == (
        "6 of 6 batches are limited by the host, for which the device waits",
        "of an average batch of 8.00 ms the model thread is 2.00 ms ready without a core, "
        "1.84 ms blocked until the device is done",
        "the device is idle for 54 % of the time",
        "collectives run beside no compute for 8 % of the time",
    )
    assert analysis_of(tmp_path / "deep.json").findings == written.findings
