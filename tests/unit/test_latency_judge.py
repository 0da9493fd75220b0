"""The judge on a made-up engine: what it predicts, flags, wakes people for, and stays calm about."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from prismtop.latency.decode import DecodeModel
from prismtop.latency.padding import SGLANG
from prismtop.model import Batch, Mode, ModelState, Origin, Verdict, Workload
from tests.unit.latency_load import MS, Load, Told, errors, make_judge, slow


@pytest.fixture
def load() -> Load:
    return Load()


@pytest.fixture
def told() -> Told:
    return Told(make_judge())


def test_it_predicts_well_after_tens_of_batches(load: Load, told: Told) -> None:
    told.take(load.decode(60))
    assert median(errors(told.take(load.decode(100)))) < 0.02


def test_it_says_so_while_it_learns(load: Load, told: Told) -> None:
    made = told.take(load.decode(20))
    assert {batch.prediction.verdict for batch in made if batch.prediction} == {Verdict.UNKNOWN}


def test_the_interval_holds_nearly_all_undisturbed_batches(load: Load, told: Told) -> None:
    told.take(load.decode(400))
    made = told.take(load.decode(600))
    inside = [b.prediction.low_ns <= b.duration_ns <= b.prediction.high_ns for b in made if b.prediction]
    assert sum(inside) >= 0.97 * len(made)


def test_undisturbed_batches_raise_no_alert(load: Load, told: Told) -> None:
    told.take(load.decode(3000))
    told.end()
    assert not told.alerts


def test_few_undisturbed_batches_are_flagged(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    assert slow(told.take(load.decode(1000))) <= 20


def test_a_single_spike_opens_an_alert_on_that_batch(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    spike = told.take(load.decode(1, factor=2.0))[0]
    alert = told.alerts[1]
    assert (alert.kind, alert.first_seq, alert.last_seq) == ("spike", spike.seq, spike.seq)


def test_a_sustained_shift_of_ten_percent_opens_one_alert_within_five_batches(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    made = told.take(load.decode(50, factor=1.1))
    told.take(load.decode(600))
    assert len(told.alerts) == 1
    alert = told.alerts[1]
    assert alert.kind == "shift"
    assert alert.opened_ns <= made[4].end_ns


def test_an_alert_closes_and_counts_its_batches_and_excess(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    made = told.take(load.decode(50, factor=1.2))
    told.take(load.decode(400))
    alert = told.alerts[1]
    beyond = sum(b.duration_ns - b.duration_ns / 1.2 for b in made)
    assert alert.closed_ns is not None
    assert 45 <= alert.batches <= 52
    assert alert.excess_ns == pytest.approx(beyond, rel=0.1)


def test_a_slow_drift_opens_an_alert(load: Load, told: Told) -> None:
    told.take([load.batch(size=load.rng.randint(1, 16)) for _ in range(400)])
    for n in range(150):
        factor = 1 + min(0.15, 0.01 + 0.14 * n / 100)
        told.take([load.batch(factor, size=load.rng.randint(1, 16))])
    assert told.alerts


def test_a_drift_says_how_far_it_is_from_where_it_began(load: Load, told: Told) -> None:
    told.take([load.batch(size=load.rng.randint(1, 16)) for _ in range(400)])
    for n in range(500):
        told.take([load.batch(1 + 0.12 * min(1.0, n / 400), size=load.rng.randint(1, 16))])
    (alert,) = told.alerts.values()
    assert alert.kind == "drift"
    assert alert.excess_pct == pytest.approx(11, abs=2.5)


def test_an_anomaly_of_dozens_of_batches_is_not_learnt_away(load: Load, told: Told) -> None:
    told.take(load.decode(400))
    told.take(load.decode(60, factor=1.3))
    last = told.take(load.decode(10, factor=1.3))
    assert slow(last) == 10


def test_a_stall_between_batches_opens_an_alert_though_no_step_is_slow(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    told.take(load.decode(1, gap_ms=50.0))
    assert [alert.kind for alert in told.alerts.values()] == ["stall"]


def test_an_idle_time_without_requests_is_no_stall(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    told.take(load.decode(1, gap_ms=5000.0, period_ns=None, idle_ns=5000 * MS))
    told.take(load.decode(50))
    assert not told.alerts


def test_lost_throughput_with_normal_steps_opens_an_alert(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    made = told.take(load.decode(60, gap_ms=4.0))
    assert [alert.kind for alert in told.alerts.values()] == ["throughput"]
    assert slow(made) <= 5


def test_alarms_close_to_each_other_are_one_alert(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    for _ in range(5):
        told.take(load.decode(1, factor=2.5))
        told.take(load.decode(40))
    told.end()
    assert len(told.alerts) == 1


def test_a_spike_that_comes_again_and_again_raises_no_storm(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    for _ in range(60):
        told.take(load.decode(1, factor=2.5))
        told.take(load.decode(260))
    told.end()
    assert len(told.alerts) <= 8


def test_overlapped_batches_are_judged_by_their_period(load: Load, told: Told) -> None:
    overlapped = [replace(batch, duration_ns=batch.duration_ns * 2) for batch in load.decode(200)]
    made = told.take(overlapped)
    assert made[-1].prediction is not None
    assert made[-1].prediction.basis == "period"
    assert abs(made[-1].prediction.expected_ns / (made[-1].period_ns or 1) - 1) < 0.1


def test_a_batch_without_work_is_no_batch_to_judge(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    empty = load.batch(workload=Workload(batch_size=1, prefill_tokens=0, decode_tokens=0), duration_ns=100)
    assert told.take([empty])[0].prediction is None


def test_a_sampled_batch_is_not_judged_and_the_card_says_why(load: Load, told: Told) -> None:
    told.take(load.decode(50, origin=Origin.SAMPLED))
    card = told.judge.card()
    assert card.state is ModelState.LEARNING
    assert "sampled" in card.reason


@pytest.mark.parametrize("duration_ns", [0, -5, 10**15])
def test_a_duration_that_cannot_be_is_neither_judged_nor_learnt(
    load: Load, told: Told, duration_ns: int
) -> None:
    told.take(load.decode(200))
    trained = told.judge.card().trained
    assert told.take([load.batch(duration_ns=duration_ns)])[0].prediction is None
    assert told.judge.card().trained == trained


@pytest.mark.parametrize(
    "absurd",
    [{"batch_size": 10**9}, {"context_tokens": -1}, {"prefill_tokens": 10**12}, {"decode_tokens": -7}],
)
def test_absurd_token_counts_are_neither_judged_nor_learnt(
    load: Load, told: Told, absurd: dict[str, int]
) -> None:
    told.take(load.decode(200))
    batch = load.batch()
    assert told.take([replace(batch, workload=replace(batch.workload, **absurd))])[0].prediction is None


def test_a_clock_that_steps_back_or_far_ahead_raises_no_alert(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    load.at_ns -= 3600 * 10**9
    told.take(load.decode(200))
    load.at_ns += 7 * 86400 * 10**9
    told.take(load.decode(1, period_ns=7 * 86400 * 10**9))
    told.take(load.decode(200))
    assert not told.alerts


def test_a_clock_that_steps_back_closes_an_open_alert(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    told.take(load.decode(10, factor=1.5))
    load.at_ns -= 3600 * 10**9
    told.take(load.decode(5))
    assert told.alerts[1].closed_ns is not None


def test_an_engine_that_becomes_slower_for_good_gets_one_alert_and_is_relearnt(
    load: Load, told: Told
) -> None:
    told.take(load.decode(400))
    told.take(load.decode(6000, factor=1.6))
    told.take(load.decode(300, factor=1.6))
    told.end()
    assert len(told.alerts) == 1
    assert "new normal" in told.alerts[1].text
    assert median(errors(told.batches[-200:])) < 0.03


def test_the_model_is_stale_while_it_relearns(load: Load, told: Told) -> None:
    told.take(load.decode(400))
    states = []
    for _ in range(200):
        made = told.take(load.decode(1, factor=0.5))[0]
        states.append(made.prediction.state if made.prediction else None)
    assert ModelState.STALE in states
    assert states[-1] is ModelState.READY


def test_an_engine_that_becomes_faster_raises_no_alert_and_is_relearnt(load: Load, told: Told) -> None:
    told.take(load.decode(400))
    told.take(load.decode(400, factor=0.6))
    assert not told.alerts
    assert median(errors(told.batches[-100:])) < 0.03


def test_the_drift_since_the_first_reference_stays_on_the_card(load: Load, told: Told) -> None:
    told.take(load.decode(400))
    told.take(load.decode(400, factor=0.6))
    assert told.judge.card().drift_pct == pytest.approx(-40, abs=5)


def test_speculative_decoding_is_a_regime_of_its_own(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    for batch in load.decode(300, factor=1.8):
        work = replace(batch.workload, decode_tokens=4 * (batch.workload.batch_size or 0))
        told.take([replace(batch, workload=work)])
    assert not told.alerts
    assert told.judge.card().regimes == ("decode", "speculative")


def test_an_engine_that_exposes_no_context_is_judged_without_it(told: Told) -> None:
    load = Load(cost=lambda size, context: 20 + 0.1 * size)
    for batch in load.decode(300):
        told.take([replace(batch, workload=replace(batch.workload, context_tokens=None))])
    card = told.judge.card()
    assert median(errors(told.batches[-100:])) < 0.02
    assert "KV read" in card.missing
    assert "KV read" not in card.features


def test_an_engine_that_exposes_nothing_is_judged_by_its_own_past(told: Told) -> None:
    load = Load(cost=lambda size, context: 20.0)
    for batch in load.decode(300):
        told.take([replace(batch, mode=Mode.UNKNOWN, workload=Workload())])
    assert median(errors(told.batches[-100:])) < 0.02
    assert told.judge.card().regimes == ("any without batch size",)


def test_suspect_batches_are_predicted_but_not_learnt(load: Load, told: Told) -> None:
    told.take(load.decode(200))
    trained = told.judge.card().trained
    made = told.take(load.decode(3, factor=3.0, suspect="records were lost"))
    assert all(batch.prediction for batch in made)
    assert told.judge.card().trained == trained
    assert not told.alerts


def test_processes_are_modelled_apart(load: Load, told: Told) -> None:
    for batch in load.decode(200):
        slower = batch.duration_ns * 3
        told.take([batch, replace(batch, pid=4343, duration_ns=slower, period_ns=slower + MS)])
    assert not told.alerts
    assert median(errors(told.batches[-50:])) < 0.03


def test_quiet_wakes_for_less_than_normal(load: Load) -> None:
    batches = [*load.decode(400), *load.decode(30, factor=1.11)]
    quiet, normal = Told(make_judge(sensitivity="quiet")), Told(make_judge())
    quiet.take(batches)
    normal.take(batches)
    assert (len(quiet.alerts), len(normal.alerts)) == (0, 1)


def test_sensitive_wakes_for_more_than_normal(load: Load) -> None:
    batches: list[Batch] = [*load.decode(400), *load.decode(1, factor=1.45)]
    sensitive, normal = Told(make_judge(sensitivity="sensitive")), Told(make_judge())
    sensitive.take(batches)
    normal.take(batches)
    assert (len(sensitive.alerts), len(normal.alerts)) == (1, 0)


def test_the_card_gives_the_fit_and_what_to_expect(load: Load, told: Told) -> None:
    told.take(load.decode(600))
    card = told.judge.card()
    assert card.state is ModelState.READY
    assert card.median_ape is not None
    assert 0.1 < card.median_ape < 2
    assert card.within_10pct == pytest.approx(1.0, abs=0.01)
    assert card.false_alerts_per_h is not None
    assert card.false_alerts_per_h < 1
    assert card.trained + card.rejected == 600


def test_long_prompts_are_no_anomaly_once_learnt(load: Load, told: Told) -> None:
    for _ in range(400):
        told.take(load.decode(2))
        told.take(load.mixed(1))
    told.take(load.mixed(100))
    assert not told.alerts
    assert slow(told.batches[-100:]) <= 8


def test_a_slow_prefill_is_flagged_once_prefill_is_learnt(load: Load, told: Told) -> None:
    for _ in range(700):
        told.take(load.decode(2))
        told.take(load.mixed(1))
    assert slow(told.take(load.mixed(8, factor=2.0))) >= 4  # prompts of rare sizes are not judged


def stepped(size: int, context: int) -> float:
    """An engine that pads as SGLang does: 12 is a captured size, 10 is not."""
    return 10.0 + 1.5 * SGLANG.pad(size) + 1e-4 * context


def test_how_an_engine_pads_is_learnt() -> None:
    load, told = Load(cost=stepped), Told(make_judge())
    told.take([load.batch(size=load.rng.randint(1, 24)) for _ in range(700)])
    model = told.judge.engine(4242).regimes["decode"].model
    assert isinstance(model, DecodeModel)
    assert model.schedule.name == "sglang"
    assert not told.alerts


def test_an_engine_that_pads_as_expected_keeps_its_schedule() -> None:
    load, told = Load(), Told(make_judge())
    told.take([load.batch(size=load.rng.randint(1, 64)) for _ in range(700)])
    model = told.judge.engine(4242).regimes["decode"].model
    assert isinstance(model, DecodeModel)
    assert model.schedule.name == "vllm"


def fresh(batch: Batch, gap_ms: float, idle_ms: float = 0.0) -> Batch:
    """The same batch, all of its requests new, after a gap."""
    size = batch.workload.batch_size
    work = replace(batch.workload, new_requests=size, running=size)
    period = batch.duration_ns + round(gap_ms * MS)
    return replace(batch, workload=work, period_ns=period, idle_ns=round(idle_ms * MS))


def test_a_gap_before_requests_that_are_all_new_is_no_stall(load: Load, told: Told) -> None:
    told.take(load.decode(300))
    for _ in range(20):
        told.take([fresh(next(load.decode(1)), 900.0)])
        told.take(load.decode(20))
    told.end()
    assert not told.alerts


def test_a_stall_before_new_requests_is_found_where_the_wait_for_them_was_measured(
    load: Load, told: Told
) -> None:
    told.take(load.decode(300))
    told.take([fresh(next(load.decode(1)), 900.0, idle_ms=100.0)])
    assert told.alerts[1].kind == "stall"


def test_grave_episodes_that_come_again_are_each_told(load: Load, told: Told) -> None:
    told.take(load.decode(600))
    for _ in range(8):
        told.take(load.decode(120, factor=3.0))
        told.take(load.decode(500))
    told.end()
    assert len(told.alerts) == 8


def test_a_few_short_steps_in_a_row_wake_nobody(told: Told) -> None:
    load = Load(cost=lambda size, context: 2.0)
    told.take(load.decode(400))
    told.take(load.decode(6, factor=1.25))
    told.take(load.decode(400))
    told.end()
    assert not told.alerts


def test_many_short_steps_in_a_row_do(told: Told) -> None:
    load = Load(cost=lambda size, context: 2.0)
    told.take(load.decode(400))
    told.take(load.decode(40, factor=1.25))
    assert told.alerts[1].kind == "shift"


def test_a_much_worse_disturbance_is_another_alert(load: Load, told: Told) -> None:
    told.take(load.decode(600))
    told.take(load.decode(260, factor=1.15))
    told.take(load.decode(60, factor=4.0))
    told.take(load.decode(600))
    told.end()
    assert [alert.severity.value for alert in told.alerts.values()] == ["warning", "critical"]


def test_a_grave_alert_closes_though_a_little_is_left_of_it(load: Load, told: Told) -> None:
    told.take(load.decode(600))
    told.take(load.decode(100, factor=4.0))
    at = load.at_ns
    told.take(load.decode(600, factor=1.15))
    told.end()
    first = told.alerts[1]
    assert first.closed_ns is not None
    assert first.closed_ns - at < 10**9


def test_prefill_that_is_grossly_slow_wakes_people_though_its_model_is_young(load: Load, told: Told) -> None:
    for _ in range(40):
        told.take(load.decode(3))
        told.take(load.mixed(1))
    told.take(load.mixed(4, factor=12.0))
    assert told.alerts[1].kind == "shift"


def test_a_prompt_that_is_longer_than_any_before_is_not_grossly_slow(load: Load, told: Told) -> None:
    short = [batch for batch in load.mixed(400) if (batch.workload.prefill_tokens or 0) < 100][:40]
    told.take(load.decode(60))
    told.take(short)
    longer = replace(short[-1].workload, prefill_tokens=2000, max_context=2000)
    told.take([replace(batch, workload=longer, duration_ns=12 * batch.duration_ns) for batch in short[:5]])
    told.end()
    assert not told.alerts


def test_a_disturbance_that_grows_in_its_first_seconds_is_one_alert(load: Load, told: Told) -> None:
    told.take(load.decode(600))
    told.take(load.decode(20, factor=1.15))
    told.take(load.decode(60, factor=4.0))
    told.take(load.decode(600))
    told.end()
    assert len(told.alerts) == 1
