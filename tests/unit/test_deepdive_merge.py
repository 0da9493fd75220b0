"""One trace out of one capture: clocks, tracks, layers, and that `replay` and `trace check` take the file."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import pytest

from prismtop.deepdive.clock import Alignment, Marker, align
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import WrittenTrace, write_trace
from prismtop.errors import PrismtopError
from prismtop.trace.check import check
from prismtop.trace.load import load
from prismtop.trace.merge import merge as merge_traces
from tests.factories import MS
from tests.unit.deep_profiles import (
    MONO,
    PID,
    TID,
    US,
    WALL,
    Fetched,
    Kineto,
    batch_times,
    cuda_profile,
    eight_ms_batch,
    frames_of,
    make_capture,
    real_cpu_frames,
    real_cpu_profile,
)
from tests.unit.trace_frames import full_frame

BATCHES = [eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(6))]


def merge(tmp_path: Path, *fetched: Fetched, name: str = "deep.json", **changes: Any) -> WrittenTrace:
    fields: dict[str, Any] = {"frames": frames_of(BATCHES), "layers": (), "capture": make_capture()}
    return write_trace(tmp_path / name, fetched=fetched, **{**fields, **changes})


def events_of(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    made: list[dict[str, Any]] = json.loads(text)
    return made


def at_mono(path: Path, name: str) -> list[int]:
    """CLOCK_MONOTONIC starts of the slices of a name."""
    events = events_of(path)
    base: int = next(e["args"]["base_ns"] for e in events if e["name"] == "prismtop")
    return [base + round(e["ts"] * 1000) for e in events if e["name"] == name and e["ph"] == "X"]


def profile(tmp_path: Path, made: Kineto | None = None, **changes: Any) -> Fetched:
    return Fetched(PID, (made or cuda_profile()).write(tmp_path / "profile.json", **changes))


# -- the clock

GEMM = MONO + 1 * MS + 100 * US
"""Start of the first GEMM of `decode_step`."""


def test_device_time_is_clock_monotonic_to_within_the_error_that_is_stated(tmp_path: Path) -> None:
    written = merge(tmp_path, profile(tmp_path))
    assert written.clock_error_ns == 3_500
    assert 0 <= GEMM - at_mono(tmp_path / "deep.json", "void cutlass::gemm<bf16>(int)")[0] <= 3_500


def test_a_drift_between_the_ends_is_taken_out(tmp_path: Path) -> None:
    def drifting(at: int) -> int:
        return WALL + (at - MONO) // 5000  # 200 ppm

    batches = batch_times(60)
    made = cuda_profile(60, offset=drifting)
    written = merge(tmp_path, profile(tmp_path, made), frames=frames_of(BATCHES))
    starts = at_mono(tmp_path / "deep.json", "void cutlass::gemm<bf16>(int)")
    errors = [start - (batch + 1 * MS + 100 * US) for start, batch in zip(starts, batches, strict=True)]
    assert written.clock_error_ns is not None
    assert max(map(abs, errors)) <= written.clock_error_ns + 1000
    assert (batches[-1] - batches[0]) // 5000 > 5 * written.clock_error_ns  # it would have shown


def test_a_jump_of_the_clock_is_part_of_the_error(tmp_path: Path) -> None:
    def jumping(at: int) -> int:
        return WALL + (20 * MS if at > MONO + 20 * MS else 0)

    written = merge(tmp_path, profile(tmp_path, cuda_profile(offset=jumping)))
    assert written.clock_error_ns == 20 * MS
    assert any("too fast for a drift" in note for note in written.notes)


def test_without_markers_the_wall_clock_is_used_and_it_is_said(tmp_path: Path) -> None:
    made = cuda_profile()
    made.events = [event for event in made.events if "prismtop_sync" not in event["name"]]
    written = merge(tmp_path, profile(tmp_path, made))
    assert written.clock_error_ns is None
    assert any("aligned by the wall clock" in note for note in written.notes)
    assert at_mono(tmp_path / "deep.json", "void cutlass::gemm<bf16>(int)")[0] == GEMM


def test_of_markers_the_one_that_began_soonest_counts() -> None:
    late = [
        Marker(at + delay, at, at + WALL) for at, delay in ((0, 300_000), (400_000, 15_000), (500_000, 4_000))
    ]
    late = [replace(marker, at_ns=marker.at_ns + WALL) for marker in late]
    found = align(late, 0)
    assert found.offset_ns == WALL + 4_000
    assert found.error_ns == 4_000
    assert "one end only" in found.note


@pytest.mark.parametrize("slope", [3e-4, -3e-4, 0.0])
def test_aligning_never_turns_two_times_around(slope: float) -> None:
    import numpy as np

    found = Alignment(WALL, WALL, slope)
    times = np.arange(WALL + 10**9, WALL + 10**9 + 20_000, dtype=np.int64)
    moved = found.mono_all(times)
    assert (np.diff(moved) >= 0).all()
    assert [found.mono(int(at)) for at in times[::977]] == moved[::977].tolist()


def test_a_real_profile_lies_inside_the_steps_that_its_process_timed(tmp_path: Path) -> None:
    frames, facts = real_cpu_frames()
    fetched = Fetched(facts["pid"], real_cpu_profile(tmp_path))
    written = merge(tmp_path, fetched, frames=frames, capture=make_capture(layers=()))
    assert written.clock_error_ns is not None
    assert written.clock_error_ns < 20_000
    softmax = at_mono(tmp_path / "deep.json", "aten::softmax")
    for start, (_, _, before, after) in zip(softmax, facts["batches"], strict=True):
        assert before - written.clock_error_ns <= start <= after + written.clock_error_ns


# -- tracks


def test_operators_are_on_the_real_thread_and_batches_on_a_lane_next_to_it(tmp_path: Path) -> None:
    merge(tmp_path, profile(tmp_path))
    events = events_of(tmp_path / "deep.json")
    where = {e["cat"]: (e["pid"], e["tid"]) for e in events if e["ph"] == "X"}
    assert where["cpu_op"] == where["cuda_runtime"] == (PID, TID)
    assert where["batch"] == where["stage"] == (PID, 10)


def test_a_container_s_own_ids_become_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismtop.deepdive.merge.native_threads", lambda pid: {14: TID})
    merge(tmp_path, profile(tmp_path, cuda_profile(pid=1, tid=14)))
    operators = [e for e in events_of(tmp_path / "deep.json") if e.get("cat") == "cpu_op"]
    assert {(e["pid"], e["tid"]) for e in operators} == {(PID, TID)}


def test_streams_of_two_processes_are_apart_and_say_whose_they_are(tmp_path: Path) -> None:
    other = 4300
    first = profile(tmp_path)
    second = Fetched(other, cuda_profile(pid=other, tid=4301).write(tmp_path / "second.json"))
    merge(tmp_path, first, second)
    events = events_of(tmp_path / "deep.json")
    owners = {e["pid"]: e["args"]["of"] for e in events if e["name"] == "prismtop_device"}
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(owners.values()) == [PID, other]
    assert {f"GPU 0 of pid {PID} (Constructed GPU)", f"GPU 0 of pid {other} (Constructed GPU)"} <= names
    assert {e["pid"] for e in events if e.get("cat") == "kernel"} == set(owners)


def test_flows_join_launches_and_kernels_and_their_ids_are_unique_per_process(tmp_path: Path) -> None:
    other = Fetched(4300, cuda_profile(pid=4300, tid=4301).write(tmp_path / "second.json"))
    merge(tmp_path, profile(tmp_path), other)
    flows = [e for e in events_of(tmp_path / "deep.json") if e["ph"] in "sf"]
    begun = [e["id"] for e in flows if e["ph"] == "s"]
    assert len(set(begun)) == len(begun) == 2 * 6 * 4
    assert sorted(e["id"] for e in flows if e["ph"] == "f") == sorted(begun)


def test_an_end_of_a_flow_that_never_began_is_left_out(tmp_path: Path) -> None:
    def stray(kineto: Kineto) -> None:
        kineto.host("cuda_runtime", "cudaEventQuery", MONO + 40 * US, MONO + 50 * US)
        kineto.flow("f", 999, MONO + 40 * US, PID, TID)

    merge(tmp_path, profile(tmp_path, cuda_profile(before=stray)))
    flows = [e for e in events_of(tmp_path / "deep.json") if e["ph"] in "sf"]
    assert len(flows) == 2 * 6 * 4


def test_spans_that_do_not_nest_get_a_lane_beside_their_track(tmp_path: Path) -> None:
    def crossing(kineto: Kineto) -> None:
        kineto.on_device("graph node", MONO + 3 * MS, MONO + 5 * MS, 7)

    merge(tmp_path, profile(tmp_path, cuda_profile(before=crossing)))
    assert check(tmp_path / "deep.json").findings == []
    events = events_of(tmp_path / "deep.json")
    lane = next(e for e in events if e["name"] == "graph node")
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names[lane["pid"], lane["tid"]] == "stream 7 (overlap 1)"


def test_of_spans_that_begin_together_the_longest_comes_first(tmp_path: Path) -> None:
    def together(kineto: Kineto) -> None:
        for length, name in ((100, "inner"), (900, "outer"), (400, "middle")):
            kineto.host("cpu_op", name, MONO + 6 * MS, MONO + 6 * MS + length * US)

    merge(tmp_path, profile(tmp_path, cuda_profile(before=together)))
    order = [
        e["name"] for e in events_of(tmp_path / "deep.json") if e["name"] in ("inner", "outer", "middle")
    ]
    assert order == ["outer", "middle", "inner"]


def test_layers_get_a_track_each_next_to_the_thread(tmp_path: Path) -> None:
    layers = [
        LayerEvent("scheduler", "slice", "runq", MONO + MS, 200 * US, PID, TID, {"instead": "stress"}),
        LayerEvent("stacks", "instant", "forward", MONO + MS, 0, PID, TID),
        LayerEvent("uprobes", "counter", "queue", MONO + MS, 0, 0, 0, {"value": 3, "text": "no number"}),
    ]
    written = merge(tmp_path, profile(tmp_path), layers=layers)
    events = {e["name"]: e for e in events_of(tmp_path / "deep.json") if e["ph"] in "XiC"}
    assert events["runq"]["args"] == {"instead": "stress"}
    assert events["queue"]["args"] == {"value": 3}
    assert len({events[name]["tid"] for name in ("runq", "forward", "aten::mm")}) == 3
    assert written.events_per_layer["scheduler", PID] == 1
    assert written.events_per_layer["uprobes", 0] == 1


def test_events_of_the_target_itself_are_read_line_by_line_and_broken_lines_counted(tmp_path: Path) -> None:
    lines = [
        json.dumps({"layer": "gc", "name": "gen 2", "t0": MONO + MS, "dur": 50_000, "tid": TID, "args": {}}),
        '{"layer":"gc","na',
        json.dumps({"layer": "python", "name": "step", "t0": MONO + MS, "dur": 2 * MS, "tid": TID}),
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(lines))
    written = merge(tmp_path, Fetched(PID, None, path))
    assert at_mono(tmp_path / "deep.json", "gen 2") == at_mono(tmp_path / "deep.json", "step") == [MONO + MS]
    assert written.events_per_layer["gc", PID] == written.events_per_layer["python", PID] == 1
    assert any("1 of its Python and gc events" in note for note in written.notes)


# -- the file


def test_the_file_is_a_recording_of_ours(tmp_path: Path) -> None:
    merge(tmp_path, profile(tmp_path), name="deep.json.gz")
    trace = load([tmp_path / "deep.json.gz"])
    assert trace.ours
    assert [replace(batch, breakdown=None) for batch in trace.batches()] == BATCHES
    assert check(tmp_path / "deep.json.gz").findings == []


def test_alerts_requests_and_counters_of_the_frames_are_in_it(tmp_path: Path) -> None:
    frame = full_frame()
    write_trace(tmp_path / "full.json", frames=[frame], fetched=(), layers=(), capture=make_capture())
    trace = load([tmp_path / "full.json"])
    assert len(list(trace.batches())) == len(frame.new_batches)
    assert len(list(trace.requests())) == len(frame.requests)
    assert {alert.id for alert in trace.alerts()} >= {alert.id for alert in frame.changed_alerts}
    finite = [one for one in frame.new_counters if one.value is None or isfinite(one.value)]
    assert {counter.key for counter in trace.counters()} == {counter.key for counter in finite}


def test_the_capture_stands_in_the_file_with_the_events_of_each_layer(tmp_path: Path) -> None:
    merge(tmp_path, profile(tmp_path))
    captured = load([tmp_path / "deep.json"]).stories[0].captured
    assert captured is not None
    assert {layer["name"]: (layer["state"], layer["events"]) for layer in captured["layers"]} == {
        "batches": ("on", 6),
        "operators": ("on", 68),
        "gpu": ("on", 24),
        "scheduler": ("off", 0),
    }
    assert captured["clock_error_ns"] == 3_500


def test_captures_of_several_hosts_can_be_merged_again(tmp_path: Path) -> None:
    fetched = profile(tmp_path)
    for name in ("a.json", "b.json"):
        merge(tmp_path, fetched, name=name)
    merge_traces([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "both.json")
    events = events_of(tmp_path / "both.json")
    owners = {e["pid"]: e["args"]["of"] for e in events if e["name"] == "prismtop_device"}
    processes = {e["pid"] for e in events if e.get("cat") == "cpu_op"}
    assert len(owners) == 2
    assert set(owners.values()) == processes
    assert {e["args"]["breakdown"]["pid"] for e in events if e.get("cat") == "batch"} == processes
    assert check(tmp_path / "both.json").findings == []


def test_only_its_owner_can_read_it_and_nothing_else_is_left(tmp_path: Path) -> None:
    fetched = profile(tmp_path)
    (tmp_path / "out").mkdir()
    merge(tmp_path / "out", fetched)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep.json"]
    assert stat.S_IMODE((tmp_path / "out/deep.json").stat().st_mode) == 0o600


def test_a_failure_while_writing_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("killed")

    fetched = profile(tmp_path)
    monkeypatch.setattr("prismtop.deepdive.merge._Merger._write_source", fails)
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError):
        merge(tmp_path / "out", fetched)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("mine")
    with pytest.raises(PrismtopError):
        merge(tmp_path)
    assert (tmp_path / "deep.json").read_text() == "mine"


def test_a_truncated_profile_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    written = merge(tmp_path, profile(tmp_path, cut=0.6))
    assert check(tmp_path / "deep.json").findings == []
    assert 0 < written.events_per_layer["gpu", PID] < 24
    assert any("cut short" in note for note in written.notes)
    # Its base stands at its end and is lost; markers need none.
    assert any("one end only" in note for note in written.notes)
    assert abs(at_mono(tmp_path / "deep.json", "void cutlass::gemm<bf16>(int)")[0] - GEMM) < 4 * US


@pytest.mark.parametrize("content", ["", "no json", '{"traceEvents": 3}', "[1, 2]"])
def test_what_is_no_profile_is_left_out_and_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "profile.json").write_text(content)
    written = merge(tmp_path, Fetched(PID, tmp_path / "profile.json"))
    assert any(f"pid {PID}: its profile is left out" in note for note in written.notes)
    assert len(list(load([tmp_path / "deep.json"]).batches())) == 6


Hostile = Callable[[Kineto], None]


def _own_events(kineto: Kineto) -> None:
    for cat in ("batch", "stage", "", "anomaly", "request"):
        name = cat or "batch"
        kineto.host(cat, name, MONO + US, MONO + 2 * US, seq=7, stages=0, x={"cat": "batch"})


def _odd_texts(kineto: Kineto) -> None:
    kineto.host("cpu_op\x1b[31m", "a\x1b]0;x\x07\u202eb\n\ud800", MONO + US, MONO + 2 * US, text="\x1b[2J")


@pytest.mark.parametrize("hostile", [_own_events, _odd_texts])
def test_a_profile_cannot_pretend_to_be_our_own_recording_nor_control_a_terminal(
    tmp_path: Path, hostile: Hostile
) -> None:
    merge(tmp_path, profile(tmp_path, cuda_profile(before=hostile)))
    trace = load([tmp_path / "deep.json"])
    assert [batch.seq for batch in trace.batches()] == list(range(6))
    assert trace.batch_count == 6
    assert trace.alerts() == ()
    assert b"\x1b" not in (tmp_path / "deep.json").read_bytes()
    assert check(tmp_path / "deep.json").findings == []


@pytest.mark.parametrize("fast", [True, False], ids=["with msgspec", "without"])
def test_bare_infinity_in_arguments_becomes_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr("prismtop.trace.lenient._fast", None)
        monkeypatch.setattr("prismtop.deepdive.sources.FAST", False)
    fetched = profile(tmp_path)
    assert fetched.profile is not None
    text = fetched.profile.read_text().replace('"cbid": 211', '"cbid": Infinity', 1)
    fetched.profile.write_text(text)
    merge(tmp_path, fetched)
    assert check(tmp_path / "deep.json").findings == []
    calls = [e["args"]["cbid"] for e in events_of(tmp_path / "deep.json") if e["name"] == "cudaLaunchKernel"]
    assert calls.count(211) == len(calls) - 1


def test_without_frames_there_is_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(PrismtopError):
        merge(tmp_path, frames=[])
