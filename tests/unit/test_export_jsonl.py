"""The JSON lines that other tools rely on."""

from __future__ import annotations

import json
from typing import Any

from prismtop.export import jsonl
from prismtop.model import (
    Alert,
    Batch,
    Cause,
    Clock,
    Counter,
    HookStatus,
    Lost,
    Mode,
    ModelState,
    Origin,
    Prediction,
    ProbeCost,
    RankTime,
    Request,
    Severity,
    Verdict,
    Workload,
)
from tests.factories import make_batch, make_frame, make_group, make_stages, make_target

CLOCK = Clock(wall_minus_mono_ns=1_764_238_539_000_000_000)


def parsed(line: str) -> dict[str, Any]:
    assert "\n" not in line
    made: dict[str, Any] = json.loads(line)
    assert made["v"] == 1
    return made


def example() -> Batch:
    start = 813_979_750
    stages = make_stages(start, schedule=0.2121, prepare=0.6403, launch=1.804, wait=5.0119, post=0.4551)
    return make_batch(
        seq=1041, start_ns=start, rank=0, duration_ns=8_123_400, period_ns=8_391_000, stages=stages
    )


def test_a_batch_is_the_line_of_the_documentation_byte_for_byte() -> None:
    assert jsonl.batch_line(example(), CLOCK) == (
        '{"v":1,"type":"batch","pid":4242,"rank":0,"engine":"vllm","seq":1041,"t_us":1764238539813979.750,'
        '"dur_us":8123.4,"period_us":8391.0,"mode":"decode","origin":"exact",'
        '"stages":{"schedule":212.1,"prepare":640.3,"launch":1804.0,"wait":5011.9,"post":455.1},'
        '"workload":{"batch_size":16,"prefill_tokens":0,"decode_tokens":16,"context_tokens":5353,'
        '"running":16,"waiting":0,"kv_usage":0.21}}'
    )


def test_what_the_engine_does_not_expose_is_absent_and_never_zero() -> None:
    batch = make_batch(stages=(), workload=Workload(), period_ns=None, mode=Mode.UNKNOWN)
    line = parsed(jsonl.batch_line(batch, CLOCK))
    assert line["workload"] == {}
    assert line["stages"] == {}
    assert not {"rank", "period_us", "ranks", "idle_us", "suspect"} & set(line)


def test_a_sampled_batch_says_so() -> None:
    assert parsed(jsonl.batch_line(make_batch(origin=Origin.SAMPLED), CLOCK))["origin"] == "sampled"


def test_estimated_values_are_named() -> None:
    workload = Workload(context_tokens=9000, sampled=frozenset({"context_tokens"}))
    line = parsed(jsonl.batch_line(make_batch(workload=workload), CLOCK))
    assert line["workload"] == {"context_tokens": 9000, "sampled": ["context_tokens"]}


def test_ranks_idle_time_and_doubt_are_shown_when_there_are_any() -> None:
    batch = make_batch(ranks=(RankTime(1, 77, 1_234_567),), idle_ns=5_000, suspect="a stage was lost")
    line = parsed(jsonl.batch_line(batch, CLOCK))
    assert line["ranks"] == [{"rank": 1, "pid": 77, "pre_collective_us": 1234.6}]
    assert line["idle_us"] == 5.0
    assert line["suspect"] == "a stage was lost"


def test_wall_time_keeps_every_nanosecond() -> None:
    line = jsonl.batch_line(make_batch(start_ns=1), Clock(1_764_238_539_813_979_000))
    assert '"t_us":1764238539813979.001,' in line


def test_a_request_has_only_the_latencies_that_were_seen() -> None:
    full = jsonl.request_line(Request(10, 2_500_000, 9_000, 12, 34), Clock(0))
    assert parsed(full) == {
        "v": 1, "type": "request", "t_us": 0.01,
        "ttft_us": 2500.0, "tpot_us": 9.0, "prompt_tokens": 34, "output_tokens": 12,
    }  # fmt: skip
    assert set(parsed(jsonl.request_line(Request(10), Clock(0)))) == {"v", "type", "t_us"}


def test_the_session_line_says_engine_targets_hooks_and_cost() -> None:
    frame = make_frame(
        0,
        hooks=(
            HookStatus("schedule", "schedule", 4242, "monitoring"),
            HookStatus("sample", "sample", 4242, "", "module not loaded"),
        ),
        costs=(ProbeCost(4242, attach_us=91.23, per_event_ns=640.0, share=0.0008),),
    )
    line = parsed(jsonl.session_line(frame))
    assert (line["type"], line["engine"], line["version"], line["pids"]) == (
        "session",
        "vllm",
        "0.33.0",
        [4242],
    )
    assert line["targets"][0]["way_in"] == "ptrace"
    assert line["hooks"] == [
        {"hook": "schedule", "pid": 4242, "stage": "schedule", "mechanism": "monitoring"},
        {"hook": "sample", "pid": 4242, "stage": "sample", "reason": "module not loaded"},
    ]
    assert line["cost"] == [{"pid": 4242, "attach_us": 91.2, "per_event_ns": 640.0, "share": 0.0008}]


def test_text_of_a_target_cannot_carry_control_characters() -> None:
    group = make_group(make_target(title="evil\x1b[2J", model="m\u202eodel"))
    line = jsonl.session_line(make_frame(0, group=group))
    target = parsed(line)["targets"][0]
    assert target["title"] == "evil\ufffd[2J"
    assert target["model"] == "m\ufffdodel"


def test_a_process_without_hooks_has_no_way_in() -> None:
    target = jsonl.target_object(make_target(probed=False, role="frontend"))
    assert "way_in" not in target


def test_a_counter_has_value_unit_and_period_or_the_reason_why_not() -> None:
    busy = Counter("gpu_busy_ratio", "gpu 0", "ratio", 1_000, 0.75, source="nvml", text="a\x1b")
    assert parsed(jsonl.counter_line(busy, Clock(0))) == {
        "v": 1, "type": "counter", "t_us": 1.0, "name": "gpu_busy_ratio", "device": "gpu 0",
        "unit": "ratio", "value": 0.75, "period_us": 1e6, "text": "a\ufffd", "source": "nvml",
    }  # fmt: skip
    gap = Counter("gpu_fan_ratio", "gpu 0", "ratio", 1_000, reason="not supported", source="nvml")
    line = parsed(jsonl.counter_line(gap, Clock(0)))
    assert line["reason"] == "not supported"
    assert "value" not in line


def test_a_wait_of_microseconds_keeps_its_digits() -> None:
    delay = Counter("thread_runq_delay_seconds", "pid 1 tid 2 x", "seconds", 5, 3.4567e-6)
    assert parsed(jsonl.counter_line(delay, Clock(0)))["value"] == 3.4567e-6


def test_a_counter_that_is_no_finite_number_has_no_value() -> None:
    line = parsed(jsonl.counter_line(Counter("n", "d", "count", 1, float("nan")), Clock(0)))
    assert (line["reason"], "value" in line) == ("not a finite number", False)


def test_lost_records_are_counted() -> None:
    assert parsed(jsonl.lost_line(Lost(records=3))) == {"v": 1, "type": "lost", "count": 3}
    assert parsed(jsonl.lost_line(Lost(1, 2, 3))) == {
        "v": 1,
        "type": "lost",
        "count": 1,
        "torn": 2,
        "batches": 3,
    }


def test_a_prediction_travels_with_its_batch() -> None:
    batch = make_batch(prediction=Prediction(8_001_000, 7_600_000, 8_900_000))
    line = json.loads(jsonl.batch_line(batch, CLOCK))
    assert (line["predicted_us"], line["low_us"], line["high_us"]) == (8001.0, 7600.0, 8900.0)
    assert line["verdict"] == "ok"


def test_a_model_that_is_not_ready_says_so_with_the_batch() -> None:
    batch = make_batch(prediction=Prediction(1, 1, 1, ModelState.STALE, Verdict.UNKNOWN, "period"))
    line = json.loads(jsonl.batch_line(batch, CLOCK))
    assert (line["model_state"], line["verdict"], line["basis"]) == ("stale", "unknown", "period")


def test_a_batch_without_prediction_claims_none() -> None:
    assert not {"predicted_us", "verdict"} & set(json.loads(jsonl.batch_line(make_batch(), CLOCK)))


def test_an_alert_is_a_line_with_its_state_and_causes() -> None:
    cause = Cause("gpu_clock_limited", 0.91, "the clock fell", ("1980 -> 1395 MHz",), (), "look at power")
    alert = Alert(
        *(3, "shift", Severity.WARNING, 10**12, 10**12 - 2000, 4242, 5, 45, 41, 120_000_000),
        *("decode +38 % for 41 batches", 10**12 + 5000, 38.0, (cause,)),
    )
    line = json.loads(jsonl.alert_line(alert, CLOCK))
    assert (line["type"], line["id"], line["kind"], line["state"]) == ("alert", 3, "shift", "closed")
    assert (line["batches"], line["excess_ms"], line["excess_pct"]) == (41, 120.0, 38.0)
    assert line["t_us"] == CLOCK.wall_us(10**12)
    assert line["causes"][0]["id"] == "gpu_clock_limited"
