"""Batches larger than what was learnt, and what changes while an engine gets going."""

from __future__ import annotations

from statistics import median

import pytest

from prismtop.latency.features import Features
from prismtop.latency.levels import BUCKET_ROWS, Reach
from tests.unit.latency_load import Load, Told, errors, make_judge


@pytest.fixture
def told() -> Told:
    return Told(make_judge())


@pytest.fixture
def proportional() -> Load:
    """An engine without a GPU: two requests cost more than twice as much as one."""
    return Load(cost=lambda size, context: 20.0 * size**1.25)


def grown(load: Load, told: Told) -> None:
    told.take([load.batch(size=1, context=100) for _ in range(150)])
    told.take([load.batch(size=2, context=200) for _ in range(60)])


def test_a_larger_batch_is_no_anomaly_though_it_costs_as_much_more(proportional: Load, told: Told) -> None:
    grown(proportional, told)
    assert not told.alerts


def test_what_a_larger_batch_costs_is_known_from_the_second_on(proportional: Load, told: Told) -> None:
    grown(proportional, told)
    assert median(errors(told.batches[152:170])) < 0.05


def test_a_larger_batch_that_costs_far_more_than_it_is_larger_is_an_anomaly(
    proportional: Load, told: Told
) -> None:
    told.take([proportional.batch(size=1, context=100) for _ in range(150)])
    told.take([proportional.batch(4.0, size=2, context=200)])
    assert told.alerts[1].kind == "spike"


def test_what_changes_while_a_process_gets_going_is_no_drift(told: Told) -> None:
    load = Load(cost=lambda size, context: 2.0)
    told.take([load.batch(1.0 + 0.07 * (n > 60), size=1, context=100) for n in range(600)])
    assert not told.alerts


def test_a_young_model_of_a_process_that_began_slowly_is_scaled_when_it_is_warm(told: Told) -> None:
    load = Load(cost=lambda size, context: 2.0)
    told.take([load.batch(1.8, size=1, context=100) for _ in range(380)])
    made = told.take([load.batch(size=1, context=100) for _ in range(60)])
    assert median(errors(made[45:])) < 0.03


def test_batches_with_prefill_larger_than_any_before_raise_no_alert(told: Told) -> None:
    load = Load()
    for _ in range(300):
        told.take([*load.mixed(1), *load.decode(1)])
    told.take([load.larger(batch, 40) for batch in load.mixed(10, 1.8)])
    assert not told.alerts


def test_batches_with_prefill_of_known_sizes_do(told: Told) -> None:
    load = Load()
    for _ in range(300):
        told.take([*load.mixed(1), *load.decode(1)])
    told.take(load.mixed(10, 1.8))
    assert told.alerts


def test_a_size_is_known_after_enough_batches_of_it() -> None:
    reach = Reach()
    for _ in range(BUCKET_ROWS):
        reach.met(8)
    assert not reach.beyond(8)


def test_a_size_that_a_few_batches_had_is_not() -> None:
    reach = Reach()
    for _ in range(BUCKET_ROWS - 1):
        reach.met(8)
    assert reach.beyond(8)


def test_larger_sizes_count_together() -> None:
    reach = Reach()
    for size in range(1, BUCKET_ROWS + 1):
        reach.met(size)
    assert not reach.beyond(BUCKET_ROWS)


def test_batches_of_a_young_process_say_how_far_they_are_from_the_anchor_but_nothing_of_drift(
    told: Told,
) -> None:
    load = Load(cost=lambda size, context: 2.0)
    told.take([load.batch(size=1, context=100) for _ in range(100)])
    engine = told.judge.engine(told.batches[0].pid)
    regime = engine.decode_regime()
    assert regime is not None
    features = Features("decode", 1, 100)
    expected = regime.expect(features, 0.0)
    assert expected is not None
    judged = regime.judge(expected, 1.2 * expected.ns)
    assert judged.drifted == 0.0
    assert judged.against_anchor == pytest.approx(0.18, abs=0.02)
