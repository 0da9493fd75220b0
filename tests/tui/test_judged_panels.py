"""Panels about predictions, counters, alerts, objectives, ranks: what they say, and why they are empty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prismtop.model import (
    Alert,
    Cause,
    Counter,
    Frame,
    Headroom,
    ModelCard,
    ModelState,
    Prediction,
    RankTime,
    Replay,
    Severity,
    SloStatus,
    SloTargets,
    Verdict,
)
from prismtop.tui.history import BUCKET_NS, StepHistory
from prismtop.tui.look import ASCII, UNICODE, Line, width_of
from prismtop.tui.panels import alerts, batches, counters, prediction, ranks, replay, slo, tree
from prismtop.tui.view import View
from tests.factories import MS, make_batch, make_frame, make_group, make_target
from tests.tui.harness import still

NOW = 10**12


def text_of(*lines: Line) -> str:
    return "\n".join("".join(text for text, _ in line) for line in lines)


def view_of(**changes: Any) -> View:
    view = View()
    view.accept(make_frame(**changes))
    return view


def predicted(seq: int, actual_ms: float, expected_ms: float = 8.0, **changes: Any) -> Any:
    low, high = int(expected_ms * 0.95 * MS), int(expected_ms * 1.05 * MS)
    duration = int(actual_ms * MS)
    verdict = Verdict.SLOW if duration > high else Verdict.OK
    found = Prediction(int(expected_ms * MS), low, high, verdict=verdict, **changes)
    return make_batch(seq, NOW + seq * 100 * MS, duration_ns=duration, prediction=found)


def judged_view(*actual_ms: float) -> View:
    view = View()
    made = tuple(predicted(seq, ms) for seq, ms in enumerate(actual_ms))
    frame = replace(
        make_frame(0), batches=made, new_batches=made, model=ModelCard(ModelState.READY, median_ape=2.1)
    )
    view.accept(replace(frame, time_ns=NOW + 60 * BUCKET_NS))
    return view


# predictions


def test_without_a_model_the_strip_says_that_prediction_is_off() -> None:
    assert "no model: prediction is switched off" in text_of(*prediction.lines(view_of(), 80, 2, UNICODE))


def test_a_learning_model_says_why_and_how_far_it_is() -> None:
    view = view_of(model=ModelCard(ModelState.LEARNING, "needs 200 decode batches", trained=120))
    shown = text_of(*prediction.lines(view, 120, 2, UNICODE))
    assert "model learning: needs 200 decode batches (120 batches learnt)" in shown


@pytest.mark.parametrize("height", [1, 2, 5, 8])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_strip_fits_where_it_is_put(height: int, width: int) -> None:
    lines = prediction.lines(judged_view(*[8.0] * 40), width, height, UNICODE)
    assert len(lines) <= height
    assert all(width_of(line) <= max(width, 44) for line in lines)


def test_a_second_with_a_slow_batch_is_ticked_and_others_are_not() -> None:
    # Ten batches a second: the third second holds the slow one.
    view = judged_view(*[8.0] * 22, 11.0, *[8.0] * 20)
    ticks = text_of(prediction.lines(view, 120, 2, UNICODE)[1])
    marks = [mark for mark in ticks[11:] if mark in "·▲"]
    assert marks[:5] == ["·", "·", "▲", "·", "·"]
    assert "1/43 slow" in ticks


def test_a_second_that_has_not_ended_is_not_drawn_yet() -> None:
    view = judged_view(*[8.0] * 40)
    assert view.frame is not None
    view.frame = replace(view.frame, time_ns=NOW + 3 * BUCKET_NS + 500 * MS)
    ticks = text_of(prediction.lines(view, 120, 2, UNICODE)[1])
    assert ticks.count("·") == 3


def test_the_history_adds_up_by_the_second() -> None:
    history = StepHistory()
    history.add([predicted(seq, 9.0) for seq in range(20)])
    buckets = history.between(NOW // BUCKET_NS, NOW // BUCKET_NS + 10)
    assert [(b.batches, b.judged, b.slow) for _, b in sorted(buckets.items())] == [(10, 10, 10), (10, 10, 10)]


def test_a_rewound_replay_drops_what_came_after() -> None:
    history = StepHistory()
    history.add([predicted(seq, 8.0) for seq in range(100)])
    history.add([predicted(seq, 8.0) for seq in range(30, 40)])
    assert max(history.between(0, 1 << 60)) == NOW // BUCKET_NS + 3


def test_batches_judged_by_their_period_use_the_period() -> None:
    history = StepHistory()
    found = Prediction(8 * MS, 7 * MS, 9 * MS, basis="period")
    history.add([make_batch(1, NOW, duration_ns=20 * MS, period_ns=8 * MS, prediction=found)])
    (bucket,) = history.between(0, 1 << 60).values()
    assert bucket.actual_ns == 8 * MS


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "-"),
        (Prediction(8 * MS, int(7.6 * MS), int(8.4 * MS)), "8.00±.40"),
        (Prediction(30 * MS, 28 * MS, 32 * MS), "30.0±2.0"),
        (Prediction(8 * MS, int(7.6 * MS), int(8.4 * MS), basis="period"), "8.00±.40p"),
    ],
)
def test_the_expectation_is_written_with_half_its_interval(found: Prediction | None, text: str) -> None:
    assert batches.expected(make_batch(prediction=found)) == text


def test_the_expectation_fits_its_column() -> None:
    column = next(column for column in batches.COLUMNS if column.title == "expect")
    for ms in (0.21, 8.0, 31.5, 812.0, 12_345.0):
        for part in (0.001, 0.05, 0.5):
            half = int(ms * part * MS)
            found = Prediction(int(ms * MS), int(ms * MS) - half, int(ms * MS) + half)
            assert len(batches.expected(make_batch(prediction=found))) <= column.width


def test_a_slow_batch_is_marked_by_a_sign_not_only_by_colour() -> None:
    row = batches.row(predicted(7, 12.0), 100, 10.0, ASCII, at_cursor=False, judged=True)
    assert text_of(row).startswith(ASCII.slow)
    assert "error" in {role for _, role in row}


def test_columns_of_predictions_are_left_out_where_nothing_is_judged() -> None:
    assert "expect" not in [column.title for column in batches.columns_of(view_of(), 200)]
    assert "expect" in [column.title for column in batches.columns_of(judged_view(8.0), 200)]


@pytest.mark.parametrize("width", [44, 64, 80, 120, 200])
def test_rows_with_predictions_are_as_wide_as_the_screen(width: int) -> None:
    row = batches.row(predicted(7, 12.0), width, 10.0, UNICODE, at_cursor=False, judged=True)
    assert width_of(row) <= width
    assert width_of(batches.heading(width, 10.0, "", judged=True, sort="ctx")) == width


# counters


def reading(name: str, device: str, unit: str, value: float | None, **changes: Any) -> Counter:
    return Counter(name, device, unit, NOW + 20 * 8 * MS, value, **changes)


@pytest.mark.parametrize(
    ("name", "device", "text"),
    [
        ("gpu_sm_clock_mhz", "gpu 0", "gpu0 sm clock"),
        ("host_cpu_busy_ratio", "host", "cpu busy"),
        ("process_cpu_ratio", "pid 4242", "4242 cpu"),
        ("thread_runq_wait_ratio", "pid 4242 tid 4250 python", "python runq wait"),
        ("gpu_memory_used_bytes", "gpu 1", "gpu1 mem used"),
        ("net_receive_bytes_per_s", "eth0", "eth0 rx"),
        ("rdma_transmit_bytes_per_s", "mlx5_0", "mlx5_0 tx"),
    ],
)
def test_counters_have_short_names(name: str, device: str, text: str) -> None:
    assert counters.label(name, device) == text


def test_a_label_that_is_too_long_keeps_which_counter_it_is() -> None:
    said = counters.label("thread_runq_wait_ratio", "pid 7 tid 8 VLLM::EngineCore", width=16)
    assert said == "VLLM:~ runq wait"


def test_a_label_keeps_some_letters_of_whose_counter_it_is() -> None:
    said = counters.label("thread_runq_wait_ratio", "pid 7 tid 8 VLLM::EngineCore", width=12)
    assert said == "VLLM~ runq ~"


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("ratio", 0.974, "97%"),
        ("ratio", 0.004, "0.4%"),
        ("ratio", 0.0, "0%"),
        ("bytes", 71.2e9, "71.2 GB"),
        ("bytes_per_s", 12.1e9, "12.1 GB/s"),
        ("mhz", 1980.0, "1,980 MHz"),
        ("celsius", 61.4, "61 C"),
        ("watts", 612.0, "612 W"),
        ("seconds", 0.00041, "410 us"),
        ("per_s", 12345.0, "12.3 k/s"),
        ("count", 3.0, "3"),
        ("ratio", None, "n/a"),
    ],
)
def test_readings_carry_their_unit(unit: str, value: float | None, text: str) -> None:
    assert counters.amount(reading("x", "host", unit, value)) == text


def test_the_gpu_comes_before_the_network_when_there_is_no_room_for_both() -> None:
    both = (
        reading("net_receive_bytes_per_s", "eth0", "bytes_per_s", 1.0),
        reading("gpu_busy_ratio", "gpu 0", "ratio", 0.9),
    )
    assert counters.ordered(make_frame(counters=both))[0].name == "gpu_busy_ratio"


def test_no_counter_says_why() -> None:
    assert "nothing samples this host" in text_of(*counters.lines(view_of(), 80, 1, UNICODE))


def test_counters_that_cannot_be_read_give_their_reason_once() -> None:
    missing = tuple(
        reading(f"gpu_{i}_ratio", "gpu 0", "ratio", None, reason="NVML is not here") for i in range(3)
    )
    assert text_of(*counters.page(view_of(counters=missing), 80, UNICODE)).count("NVML is not here") == 1
    assert "NVML is not here" in text_of(*counters.lines(view_of(counters=missing), 80, 1, UNICODE))


def test_a_reading_that_is_too_old_is_not_shown_as_current() -> None:
    old = reading("gpu_busy_ratio", "gpu 0", "ratio", 0.9, period_ns=1)
    view = view_of(counters=(replace(old, time_ns=NOW - 10**10),))
    shown = text_of(*counters.lines(view, 80, 1, UNICODE))
    assert "old" in shown
    assert "90%" not in shown
    page = text_of(*counters.page(view, 80, UNICODE))
    assert " old " in page
    assert "90%" not in page


def test_words_beside_a_share_do_not_hide_it() -> None:
    awake = reading("gpu_busy_ratio", "gpu card1", "ratio", 0.63, text="awake: busy at most so much")
    assert counters.amount(awake) == "63%"
    assert "busy at most so much" in text_of(*counters.page(view_of(counters=(awake,)), 80, UNICODE))
    limits = reading("gpu_clock_limits_bitmask", "gpu 0", "bitmask", 4.0, text="software power cap")
    assert counters.amount(limits) == "software power cap"


# alerts


def episode(number: int = 1, **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": number, "kind": "shift", "severity": Severity.CRITICAL, "opened_ns": NOW, "started_ns": NOW,
        "pid": 1, "first_seq": 5, "last_seq": 46, "batches": 41, "excess_ns": 120 * MS,
        "text": "decode +38 % for 41 batches",
        "causes": (Cause("gpu_clock_limited", 0.91, evidence=("1980 to 1395 MHz",)), Cause("io", 0.1)),
    }  # fmt: skip
    return Alert(**{**fields, **changes})


def test_the_banner_has_the_alert_and_its_first_cause() -> None:
    shown = text_of(*alerts.lines(view_of(alerts=(episode(),)), 120, 1, UNICODE))
    assert "decode +38 % for 41 batches" in shown
    assert "1 gpu clock limited (0.91): 1980 to 1395 MHz" in shown


def test_causes_are_ranked_on_more_lines() -> None:
    shown = text_of(*alerts.lines(view_of(alerts=(episode(),)), 120, 5, UNICODE))
    assert shown.index("1 gpu clock limited") < shown.index("2 io (0.10)")


def test_open_alerts_come_first_then_the_newest() -> None:
    made = (
        episode(1),
        episode(2, opened_ns=NOW + 5, closed_ns=NOW + 9),
        episode(3, opened_ns=NOW + 3, closed_ns=NOW + 8),
    )
    assert [alert.id for alert in alerts.newest_first(make_frame(alerts=made))] == [1, 2, 3]


def test_no_alert_says_whether_any_could_open() -> None:
    assert "batches are not judged" in text_of(*alerts.lines(view_of(), 80, 1, UNICODE))
    watched = view_of(model=ModelCard(ModelState.READY))
    assert "none in this session" in text_of(*alerts.lines(watched, 80, 1, UNICODE))


def test_an_episode_is_announced_once_and_not_again_when_it_changes() -> None:
    view = view_of()
    frame = make_frame()
    view.accept(replace(frame, alerts=(episode(),)))
    first = view.toast
    view.accept(replace(frame, alerts=(episode(batches=60, text="decode +40 % for 60 batches"),)))
    assert first is not None
    assert view.toast is first


def test_episodes_that_were_open_before_are_not_announced() -> None:
    assert view_of(alerts=(episode(),)).toast is None


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_message_of_a_replay_shows_and_goes_away_whatever_the_times_of_its_trace(hours: int) -> None:
    async with still() as (app, _):
        frame = app.session.tick()
        frame = replace(frame, time_ns=frame.time_ns + hours * 3600 * 10**9)
        app.show(replace(frame, alerts=(episode(77),)))
        assert app.view.toast_at(app.clock.ns) is not None
        assert app.view.toast_at(app.clock.ns + 10 * 10**9) is None


async def test_the_bell_rings_once_per_episode_and_only_when_it_is_wanted() -> None:
    for wanted, rings in ((True, 1), (False, 0)):
        async with still(bell=wanted) as (app, _pilot):
            rung: list[bool] = []
            app.bell = lambda rung=rung: rung.append(True)  # type: ignore[method-assign, misc]
            frame = app.session.tick()
            for count in (41, 60):
                app.show(replace(frame, alerts=(*frame.alerts, episode(77, batches=count))))
            assert len(rung) == rings


# objectives


def test_no_objective_is_said() -> None:
    assert "no objective is set" in text_of(slo.line(view_of(), 80, UNICODE))


def test_objectives_show_targets_attainment_goodput_and_headroom() -> None:
    status = SloStatus(
        SloTargets(ttft_ms=500.0, tpot_ms=20.0), 600.0, 100, 0.99, 0.8, attainment=0.8, goodput_per_s=3.1,
        budget_burn=4.0, headroom=Headroom(48, 2048, 40.0),
    )  # fmt: skip
    line = slo.line(view_of(slo=status), 160, UNICODE)
    assert "80.0% of 100 met · TTFT<500 99.0% · TPOT<20.0 80.0% · goodput 3.1/s · burn 4.0x" in text_of(line)
    assert "breaks in 40 s" in text_of(line)
    assert ("TPOT<20.0 80.0%", "error") in line


# ranks


def ranked(*ms: float) -> Frame:
    times = tuple(RankTime(rank, 100 + rank, int(value * MS)) for rank, value in enumerate(ms))
    return replace(make_frame(0), batches=tuple(make_batch(i, ranks=times) for i in range(10)))


def test_the_straggler_is_named() -> None:
    view = View()
    view.accept(ranked(2.6, 2.6, 2.7, 3.4))
    shown = text_of(*ranks.lines(view, 120, 3, ASCII))
    assert "! rank 3 holds the others up" in shown
    assert "straggler" in shown.splitlines()[2]


def test_even_ranks_have_no_straggler() -> None:
    assert not any(rank.straggler for rank in ranks.means(ranked(2.6, 2.7, 2.6, 2.7)))


def test_one_rank_has_nothing_to_be_compared_with() -> None:
    assert "nothing to compare" in text_of(*ranks.lines(view_of(), 80, 2, UNICODE))


# replay


def replayed(**changes: Any) -> Frame:
    fields: dict[str, Any] = {"path": "/tmp/x.gz", "position_ns": 50, "start_ns": 0, "end_ns": 100}
    return make_frame(replay=Replay(**{**fields, **changes}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"speed": 0.0}, "PAUSED"),
        ({"speed": 0.5}, "0.5x"),
        ({"speed": float("inf")}, "max speed"),
        ({"loop": True}, "loop"),
        ({"a_ns": 10, "b_ns": 60}, "A-B"),
        ({}, " 50%"),
        ({"end_ns": 0}, "100%"),
    ],
)
def test_the_seek_line_says_how_the_replay_stands(changes: dict[str, Any], says: str) -> None:
    line = replay.seek_line(replayed(**changes), 80, UNICODE)
    assert says in text_of(line.line)
    assert width_of(line.line) == 80


@pytest.mark.parametrize("width", [8, 20, 40, 80, 200])
def test_cells_of_the_seek_bar_are_parts_of_the_trace(width: int) -> None:
    line = replay.seek_line(replayed(), width, UNICODE)
    assert width_of(line.line) <= max(width, 40)
    if line.cells > 1:
        assert line.fraction_at(line.first) == 0
        assert line.fraction_at(line.first + line.cells - 1) == 1
    assert line.fraction_at(line.first - 1) is None


# tree


def test_children_are_below_their_parents() -> None:
    front = make_target(10, role="frontend", probed=False)
    core = make_target(11, parent=front.id)
    workers = [make_target(20 + i, role="worker", parent=core.id) for i in range(2)]
    view = view_of(group=make_group(*workers, core, front))
    shown = [
        line for line in text_of(*tree.page(view, 120, ASCII)).splitlines() if " 1" in line or " 2" in line
    ]
    assert [line.split()[0] for line in shown[:2]] == ["frontend", "`-"]
    assert "|- worker" in shown[2]
    assert "`- worker" in shown[3]


def test_a_circle_of_parents_ends() -> None:
    one, other = make_target(10), make_target(11)
    group = make_group(replace(one, parent=other.id), replace(other, parent=one.id))
    assert "engine_core" in text_of(*tree.page(view_of(group=group), 80, UNICODE))
