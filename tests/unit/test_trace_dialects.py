"""Batches, stages and counters out of traces that somebody else wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prismtop.errors import UsageError
from prismtop.model import Batch, Mode
from prismtop.trace.anchors import AnchorSearch
from prismtop.trace.dialects.chrome import read_chrome
from prismtop.trace.dialects.collect import pid_of
from prismtop.trace.dialects.found import Foreign
from prismtop.trace.dialects.latencyprism_csv import is_csv, read_csv
from prismtop.trace.dialects.names import batch_named, stage_named
from tests.unit.trace_files import SHARED, kineto, needs_shared, span, write


def found_in(tmp_path: Path, content: Any) -> tuple[Foreign, list[Batch]]:
    found = read_chrome(write(tmp_path / "t.json", content))
    return found, list(found.batches())


@pytest.mark.parametrize(
    ("name", "mode", "size", "prefill", "decode", "context"),
    [
        ("execute_context_2(512)_generation_30(30)", Mode.MIXED, 32, 512, 30, None),
        ("execute_context_0(0)_generation_4(4)", Mode.DECODE, 4, 0, 4, None),
        ("execute_context_1(7)_generation_0(0)", Mode.PREFILL, 1, 7, 0, None),
        (
            "execute_8192_context_9(sq8155sk8430sqsq7sqsk7)_generation_37(sq37sk34489sqsq37sqsk34489)",
            Mode.MIXED, 46, 8155, 37, 42919,
        ),
        ("step[DECODE bs=32]", Mode.DECODE, 32, 0, 32, None),
        ("step[EXTEND bs=2 toks=900]", Mode.PREFILL, 2, 900, 0, None),
    ],
)  # fmt: skip
def test_annotations_tell_what_a_batch_had_to_do(
    name: str, mode: Mode, size: int, prefill: int, decode: int, context: int | None
) -> None:
    named = batch_named(name)
    assert named is not None
    w = named.workload
    assert (named.mode, w.batch_size, w.prefill_tokens, w.decode_tokens, w.context_tokens) == (
        mode, size, prefill, decode, context,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["execute", "step[NOPE bs=1]", "ProfilerStep", "execute_context_x", "step["])
def test_other_names_are_no_batches(name: str) -> None:
    assert batch_named(name) is None


@pytest.mark.parametrize(
    ("name", "cat", "stage"),
    [
        ("vllm/v1/worker/gpu_model_runner.py(1518): _prepare_inputs", "python_function", "prepare"),
        ("hipEventSynchronize", "cuda_runtime", "wait"),
        ("gpu_model_runner: preprocess", "user_annotation", "prepare"),
        ("update_from_output (vllm/v1/core/sched/scheduler.py:700)", "py-spy", "post"),
        ("torch/nn/modules/module.py(1): forward", "python_function", ""),
        ("vllm/model_executor/models/gpt_oss.py(1210): forward", "python_function", ""),
        ("aten::mm", "cpu_op", ""),
    ],
)
def test_functions_belong_to_the_stage_that_an_engine_runs_them_in(name: str, cat: str, stage: str) -> None:
    assert stage_named(name, cat) == stage


def test_a_kineto_trace_gives_batches_with_stages_that_count_nothing_twice(tmp_path: Path) -> None:
    found, batches = found_in(tmp_path, kineto(5, baseTimeNanoseconds=10**18))
    assert (found.dialect, found.engine, found.pid, len(batches)) == ("kineto", "vllm", 42, 5)
    one = batches[1]
    assert (one.start_ns, one.duration_ns) == (10**18 + 10_000_000, 8_000_125)
    assert one.stage_ns() == {"prepare": 900_000, "launch": 5_099_875, "wait": 2_000_250}
    assert one.period_ns == 9_000_000
    assert (one.mode, one.workload.decode_tokens) == (Mode.DECODE, 16)


def test_the_order_of_events_in_the_file_does_not_matter(tmp_path: Path) -> None:
    content = kineto(4)
    forward = found_in(tmp_path, content)[1]
    content["traceEvents"].reverse()
    assert found_in(tmp_path, content)[1] == forward


def test_the_rank_of_a_distributed_trace_is_kept(tmp_path: Path) -> None:
    found, batches = found_in(tmp_path, kineto(2, distributedInfo={"rank": 3, "world_size": 8}))
    assert (found.rank, batches[0].rank) == (3, 3)


def python_calls(steps: int, *, begin_end: bool = False) -> list[dict[str, Any]]:
    """A loop of 10 ms steps: each launches a model of two layers and waits; one outer call holds all."""
    calls = [("run (engine.py:1)", 0, 10_000 * steps)]
    for n in range(steps):
        at = 10_000 * n
        calls += [
            ("step (engine.py:5)", at, 9_000 + (n % 3) * 10),
            ("layer (model.py:9)", at + 1000, 1000),
            ("layer (model.py:9)", at + 2500, 1000),
            ("poll (select.py:3)", at + 9_100, 800),
        ]
    if not begin_end:
        return [span(name, ts, dur, cat="fee") for name, ts, dur in calls]
    marks = [(ts, 1, -dur, name, "B") for name, ts, dur in calls]
    marks += [(ts + dur, 0, ts, name, "E") for name, ts, dur in calls]
    return [
        {"ph": ph, "name": name, "cat": "py-spy", "ts": ts, "pid": 42, "tid": 7}
        for ts, _, _, name, ph in sorted(marks)
    ]


@pytest.mark.parametrize(("begin_end", "dialect"), [(False, "viztracer"), (True, "py-spy")])
def test_without_annotations_the_function_called_once_a_step_is_the_batch(
    tmp_path: Path, begin_end: bool, dialect: str
) -> None:
    found, batches = found_in(tmp_path, python_calls(20, begin_end=begin_end))
    assert found.dialect == dialect
    assert "step (engine.py:5)" in found.how
    assert [batch.start_ns for batch in batches] == [10_000_000 * n for n in range(20)]


def test_a_function_that_an_engine_runs_once_a_batch_wins_over_what_is_more_regular() -> None:
    search = AnchorSearch()
    for n in range(10):
        search.add((1, 1), "tick (x.py:1)", n * 100, n * 100 + 90)
        search.add((1, 1), "vllm/v1/worker/w.py(3): execute_model", n * 100 + (n % 4) * 7, n * 100 + 60)
    best = search.best()
    assert best is not None
    assert best.name.endswith("execute_model")


def test_nothing_regular_is_no_anchor() -> None:
    search = AnchorSearch()
    for n, at in enumerate((0, 5, 6, 900, 901, 5000)):
        search.add((1, 1), "once", at, at + 1)
        search.add((1, 1), f"other{n}", at, at + 1)
    assert search.best() is None


def test_a_latencyprism_trace_has_hosts_in_its_pids_and_arguments_in_arguments(tmp_path: Path) -> None:
    events = [
        span("Scheduler.run_batch", 10_000 * n, 9000, cat="python", pid="hostA(4242)", tid="main")
        for n in range(8)
    ]
    events += [
        {
            "ph": "C", "name": "gpu_usage", "cat": "CAT_HOST", "ts": 5.0 + n, "pid": "hostA(4242)",
            "args": {"args": json.dumps({"value": 40 + n, "hostname": "hostA"})},
        }
        for n in range(3)
    ]  # fmt: skip
    found, batches = found_in(tmp_path, events)
    assert (found.dialect, found.pid, len(batches)) == ("latencyprism", 4242, 8)
    readings = [(c.name, c.device, c.value) for c in found.counters()]
    assert readings == [("gpu_usage", "pid 4242", 40.0 + n) for n in range(3)]


@pytest.mark.parametrize(
    ("value", "pid"), [(7, 7), ("7", 7), ("h(7)", 7), ("Spans", 0), (True, 0), (-1, 0), (None, 0), ([], 0)]
)
def test_pids_are_found_in_whatever_stands_for_them(value: object, pid: int) -> None:
    assert pid_of(value) == pid


def test_a_trace_without_anything_that_repeats_says_so(tmp_path: Path) -> None:
    found, batches = found_in(tmp_path, [span("a", 1, 2), span("b", 5, 2)])
    assert batches == []
    assert "no annotation names them" in " ".join(found.notes)


def test_a_file_of_objects_that_are_no_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no trace event"):
        found_in(tmp_path, [{"a": 1}, {"ph": 3}])


@pytest.mark.parametrize(
    "event",
    [
        {"ph": "X", "name": ["x"], "ts": 1, "dur": 1},
        {"ph": "X", "name": "a", "cat": {}, "ts": 1, "dur": 1},
        {"ph": "X", "name": "a", "ts": "no", "dur": 1},
        {"ph": "X", "name": "a", "ts": 1, "dur": -4},
        {"ph": "X", "name": "a", "ts": 1e300, "dur": 1e300, "pid": {}, "tid": []},
        {"ph": "E", "name": "a", "ts": 1, "pid": 9, "tid": 9},
        {"ph": "C", "name": 5, "ts": 1, "args": [1]},
        {"ph": "C", "name": "c", "ts": 1, "args": {"value": 10**400}},
        {"ph": None},
        {"ph": ["X"]},
    ],
)
def test_odd_events_among_good_ones_do_no_harm(tmp_path: Path, event: dict[str, Any]) -> None:
    content = kineto(3)
    content["traceEvents"].insert(1, event)
    assert len(found_in(tmp_path, content)[1]) == 3


def test_the_table_of_batches_is_read_exactly(tmp_path: Path) -> None:
    text = (
        "job_name,start_ts,duration_us,batch_size,avg_input_length,max_input_length,avg_output_length,"
        "max_output_length\nj,1765199066979670.25,29493.61,2,128.00,128,73.50,80\nj,bad,1,1,1,1,1,1\n"
        "j,1765199066979000.00,100.00,1,1,1,1,1\n"
    )
    found = read_csv(write(tmp_path / "t.csv", text))
    batches = list(found.batches())
    assert [batch.start_ns for batch in batches] == [1765199066979000000, 1765199066979670250]
    assert batches[1].duration_ns == 29_493_610
    assert (batches[1].workload.context_tokens, batches[1].workload.max_context) == (403, 208)
    assert found.skipped == 1


def test_counters_of_several_devices_without_names_are_told_apart_by_their_order(tmp_path: Path) -> None:
    text = "counter_name,timestamp,value,hostname\n" + "".join(
        f"gpu_usage,{t}.5,{value},\n" for t in (10, 20) for value in (1, 90)
    )
    readings = list(read_csv(write(tmp_path / "t.csv", text + "process_mem_77,5,3,\n")).counters())
    assert [(c.name, c.device, c.value) for c in readings] == [
        ("process_mem", "pid 77", 3.0),
        ("gpu_usage", "unnamed 0", 1.0),
        ("gpu_usage", "unnamed 1", 90.0),
        ("gpu_usage", "unnamed 0", 1.0),
        ("gpu_usage", "unnamed 1", 90.0),
    ]


def test_other_tables_are_not_taken_for_traces() -> None:
    assert not is_csv(b"Size,MAPE\n1,2\n")
    assert is_csv(b"\xef\xbb\xbfcounter_name,timestamp,value,hostname\n")


@needs_shared
def test_the_data_of_latencyprism_is_read_whole() -> None:
    folder = SHARED / "latencyprism"
    assert read_csv(folder / "normal_vllm.csv").count == 33_633
    sglang = read_csv(folder / "abnormal_sglang.csv")
    assert (sglang.count, next(sglang.batches()).mode) == (311, Mode.DECODE)
    for path in sorted(folder.glob("deepdive/*/*/*/*.csv.gz")):
        found = read_csv(path)
        assert found.count or found.events, path


@needs_shared
def test_real_inference_traces_give_their_step_with_stages_that_fill_it() -> None:
    found = read_chrome(SHARED / "traces" / "vllm_prefill_decode_piecewise.json.gz")
    (batch,) = found.batches()
    assert (batch.mode, batch.workload.batch_size, batch.workload.tokens) == (Mode.MIXED, 46, 8192)
    assert set(batch.stage_ns()) == {"prepare", "launch", "sample", "wait"}
    assert sum(batch.stage_ns().values()) == batch.duration_ns
