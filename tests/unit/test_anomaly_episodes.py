"""The figures of a campaign, checked by hand on small cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.anomaly import trace_file
from prismtop.anomaly.cause_score import CauseScore, cause_score
from prismtop.anomaly.effect import Effect, measure
from prismtop.anomaly.episodes import CampaignScore, match, score
from prismtop.anomaly.labels import Label, event, line
from prismtop.cli import main
from prismtop.model import Alert, Batch, Cause, Severity, Workload
from prismtop.trace.load import Truth, load
from tests.factories import make_batch, make_frame

S = 10**9
MS = 10**6
SLOWER = Effect(40.0, 50, 2.0)
NOTHING = Effect(1.0, 50, 2.0)


def make_label(start_s: float, end_s: float, **changes: Any) -> Label:
    fields: dict[str, Any] = {
        "scenario": "cgroup_cpu_throttling",
        "kind": "fault",
        "pid": 4242,
        "intensity": 0.5,
        "seed": 1,
        "ramp_s": 0.0,
        "start_ns": round(start_s * S),
        "end_ns": round(end_s * S),
        "planned_end_ns": round(end_s * S),
        "rollback_ok": True,
        "causes": ("cgroup_throttling",),
        "effect": SLOWER,
    }
    return Label(**{**fields, **changes})


def make_alert(
    number: int, opened_s: float, closed_s: float | None = None, *causes: str, **changes: Any
) -> Alert:
    opened = round(opened_s * S)
    fields: dict[str, Any] = {
        "id": number,
        "kind": "shift",
        "severity": Severity.WARNING,
        "opened_ns": opened,
        "started_ns": opened - 100 * MS,
        "closed_ns": None if closed_s is None else round(closed_s * S),
        "pid": 4242,
        "first_seq": 1,
        "last_seq": 9,
        "batches": 9,
        "excess_ns": S,
        "text": "slow",
        "causes": tuple(Cause(name, 0.9) for name in causes),
    }
    return Alert(**{**fields, **changes})


def scored(labels: list[Label], alerts: list[Alert], ends: list[int] | None = None) -> CampaignScore:
    return score(match(labels, alerts, ends or []), alerts, 0, 3600 * S)


def test_a_fault_with_an_alert_is_a_hit() -> None:
    figures = scored([make_label(100, 105)], [make_alert(1, 100.4, 106)])
    assert (figures.hits, figures.recall, figures.false_alarms) == (1, 1.0, 0)


def test_a_fault_without_an_alert_is_a_miss() -> None:
    assert scored([make_label(100, 105)], []).recall == 0.0


def test_a_fault_without_an_effect_is_no_miss() -> None:
    figures = scored([make_label(100, 105, effect=NOTHING)], [])
    assert (figures.counted, figures.recall) == (0, None)


def test_an_alert_in_a_fault_without_an_effect_is_no_false_alarm() -> None:
    assert scored([make_label(100, 105, effect=NOTHING)], [make_alert(1, 101, 102)]).false_alarms == 0


def test_an_alert_outside_is_a_false_alarm() -> None:
    figures = scored([make_label(100, 105)], [make_alert(1, 300, 301)])
    assert figures.false_alarms == 1
    assert figures.false_per_h == pytest.approx(3600 / (3600 - 7))


def test_an_alert_in_the_guard_band_belongs_to_the_fault() -> None:
    assert scored([make_label(100, 105)], [make_alert(1, 106.9, 108)]).hits == 1


def test_an_alert_after_the_guard_band_does_not() -> None:
    figures = scored([make_label(100, 105)], [make_alert(1, 107.5, 109)])
    assert (figures.hits, figures.false_alarms) == (0, 1)


def test_an_alert_that_was_open_before_is_no_hit_and_the_fault_no_miss() -> None:
    figures = scored([make_label(100, 105)], [make_alert(1, 90, None)])
    assert (figures.hits, figures.counted, figures.clouded, figures.false_alarms) == (0, 0, 1, 1)


def test_a_fault_under_an_open_alert_that_gets_one_of_its_own_is_told_apart() -> None:
    own = make_alert(2, 101, 106, "cgroup_throttling")
    figures = scored([make_label(100, 105)], [make_alert(1, 90, 101), own])
    assert (figures.clouded_counted, figures.clouded_hits, figures.clouded_top1) == (1, 1, 1.0)
    assert (figures.counted, figures.hits) == (0, 0)


def test_an_alert_that_closed_before_clouds_nothing() -> None:
    figures = scored([make_label(100, 105)], [make_alert(1, 90, 99)])
    assert (figures.counted, figures.clouded, figures.false_alarms) == (1, 0, 1)


def test_an_alert_before_the_watch_began_does_not_count() -> None:
    assert score((), [make_alert(1, 5, 6)], 10 * S, 100 * S).false_alarms == 0


def test_an_alert_in_a_control_counts_against_the_controls() -> None:
    figures = scored([make_label(100, 105, kind="control")], [make_alert(1, 101, 102)])
    assert (figures.controls, figures.control_alerts, figures.false_alarms, figures.faults) == (1, 1, 0, 0)


def test_the_delay_runs_from_the_start_to_the_first_alert() -> None:
    ends = [round((100 + 0.1 * n) * S) for n in range(50)]
    figures = scored([make_label(100, 105)], [make_alert(2, 102), make_alert(1, 100.45)], ends)
    assert (figures.delay_ms, figures.delay_batches) == (pytest.approx(450), 4)


def test_the_first_cause_is_top_1() -> None:
    figures = scored([make_label(100, 105)], [make_alert(1, 101, 105, "cgroup_throttling", "unknown")])
    assert (figures.cause_top1, figures.cause_top3) == (1.0, 1.0)


def test_the_third_cause_is_top_3_only() -> None:
    alert = make_alert(1, 101, 105, "cpu_contention", "gc_or_gil", "cgroup_throttling")
    figures = scored([make_label(100, 105)], [alert])
    assert (figures.cause_top1, figures.cause_top3) == (0.0, 1.0)


def test_the_causes_are_those_of_the_alert_with_the_largest_excess() -> None:
    small = make_alert(1, 101, 102, "cpu_contention", excess_ns=S // 10)
    large = make_alert(2, 102, 104, "cgroup_throttling")
    assert scored([make_label(100, 105)], [small, large]).cause_top1 == 1.0


def row(count: int, length_ms: float, size: int = 4, at_ms: float = 0.0) -> list[Batch]:
    """Batches one after the other."""
    return [
        make_batch(
            start_ns=round((at_ms + length_ms * n) * MS),
            duration_ns=round(length_ms * MS),
            workload=Workload(batch_size=size, prefill_tokens=0, context_tokens=100),
        )
        for n in range(count)
    ]


def effect_of(slow: list[Batch], quiet: list[Batch]) -> Effect:
    return measure([*quiet, *slow], slow[0].start_ns, slow[-1].end_ns, quiet)


def test_the_effect_is_the_extra_time_at_equal_workload() -> None:
    assert effect_of(row(10, 14, at_ms=1000), row(100, 10)).percent == pytest.approx(40)


def test_a_gap_between_batches_is_an_effect() -> None:
    quiet = row(100, 10)
    late = [b for n in range(10) for b in row(1, 10, at_ms=1005 + 15 * n)]
    assert effect_of(late, quiet).percent == pytest.approx(50)


def test_idle_time_is_no_effect() -> None:
    quiet = row(100, 10)
    late = [replace(b, idle_ns=5 * MS) for n in range(10) for b in row(1, 10, at_ms=1005 + 15 * n)]
    assert effect_of(late, quiet).percent == pytest.approx(0)


def test_larger_batches_are_no_effect() -> None:
    quiet = row(50, 10) + row(50, 16, 16, at_ms=500)
    made = effect_of(row(10, 16, 16, at_ms=1300), quiet)
    assert (made.percent, made.has_one) == (pytest.approx(0), False)


def test_an_effect_without_comparable_batches_is_unknown() -> None:
    made = effect_of(row(10, 10, 64, at_ms=1000), row(100, 10))
    assert (made.percent, made.verdict) == (None, "unknown")


def test_an_effect_within_the_noise_is_none() -> None:
    assert Effect(15.0, 50, 20.0).verdict == "no effect"


def test_a_label_is_a_slice_of_the_trace() -> None:
    made = event(make_label(100, 105), base_ns=90 * S)
    assert (made["ph"], made["cat"], made["ts"], made["dur"]) == ("X", "ground_truth", 10_000_000, 5_000_000)
    assert made["args"]["effect_check"] == "slower"  # type: ignore[index]


def test_a_label_survives_json_without_nan() -> None:
    json.dumps(line(make_label(1, 2, effect=None)), allow_nan=False)


def test_an_effect_that_is_not_known_is_not_written() -> None:
    assert "effect" not in line(make_label(1, 2, effect=None))


def test_a_campaign_is_a_trace_with_its_truth(tmp_path: Path) -> None:
    file = tmp_path / "campaign.json.gz"
    frame = make_frame(30)
    start = frame.batches[10].start_ns / S
    label = make_label(start, start + 0.04)
    alert = make_alert(1, start + 0.01, start + 0.05, "cgroup_throttling")
    trace_file.write(file, frame, frame.batches, [alert], [label])
    trace = load([file])
    (truth,) = trace.ground_truth()
    assert (truth.id, truth.effect, truth.end_ns - truth.start_ns) == (label.scenario, True, 40 * MS)
    assert [one.causes[0].id for one in trace.alerts()] == ["cgroup_throttling"]
    assert len(list(trace.batches())) == 30


def truth(start_s: float, end_s: float, effect: bool | None = True) -> Truth:
    return Truth(round(start_s * S), round(end_s * S), "cgroup_cpu_throttling", effect)


def test_recorded_causes_are_held_against_the_faults() -> None:
    alerts = [
        make_alert(1, 101, 102, "cgroup_throttling"),
        make_alert(2, 201, 202, "cpu_contention", "gc_or_gil", "cgroup_throttling"),
        make_alert(3, 301, 302, "cpu_contention"),
    ]
    made = cause_score([truth(100, 105), truth(200, 205), truth(300, 305), truth(400, 405)], alerts)
    assert made == CauseScore(3, pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_a_fault_without_an_effect_has_no_cause_to_be_found() -> None:
    assert cause_score([truth(100, 105, False)], [make_alert(1, 101, 102, "cpu_contention")]) is None


def test_score_says_whether_recorded_causes_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "campaign.json"
    frame = make_frame(200)
    start = frame.batches[100].start_ns / S
    alert = make_alert(1, start + 0.01, start + 0.05, "cgroup_throttling")
    trace_file.write(file, frame, frame.batches, [alert], [make_label(start, start + 0.04)])
    assert main(["score", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cause_top1"], said["cause_top3"], said["causes_of"]) == (1.0, 1.0, 1)
