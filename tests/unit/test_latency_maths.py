"""The arithmetic of the latency model: regression, quantiles, tails, trees, padding. Mostly properties."""

from __future__ import annotations

import math
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismtop.latency.decode import DecodeModel
from prismtop.latency.levels import CLIP, LIMIT, Level
from prismtop.latency.padding import NONE, POWERS, SGLANG, VLLM, schedule_for
from prismtop.latency.ridge import Ridge
from prismtop.latency.trees import Background, Forest, learn, learn_apart
from prismtop.latency.windows import SortedWindow, beyond, spread, tail
from tests.unit.latency_load import Load, decode_ms

NUMBERS = st.floats(-1e6, 1e6)
LOGS = st.floats(-2.0, 2.0)


@given(st.lists(NUMBERS, min_size=1, max_size=200), st.integers(1, 50))
def test_a_window_holds_the_latest_numbers_in_order_of_value(values: list[float], size: int) -> None:
    window = SortedWindow(size)
    for value in values:
        window.add(value)
    assert window.values() == values[-size:]
    assert [window.quantile((n + 0.5) / len(window)) for n in range(len(window))] == pytest.approx(
        sorted(values[-size:])
    )


@given(st.lists(NUMBERS, min_size=1, max_size=100), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise(values: list[float], a: float, b: float) -> None:
    window = SortedWindow(100)
    window.fill(values)
    assert window.quantile(min(a, b)) <= window.quantile(max(a, b))


def test_a_window_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="number"):
        SortedWindow(3).add(math.nan)


@given(st.lists(LOGS, min_size=30, max_size=300), st.floats(1e-9, 0.01), st.floats(1e-4, 0.1))
def test_a_rarer_tail_lies_further_out(values: list[float], probability: float, least: float) -> None:
    window = SortedWindow(300)
    window.fill(values)
    assert tail(window, probability / 10, least) > tail(window, probability, least)


@given(st.lists(LOGS, min_size=30, max_size=300), st.floats(1e-9, 0.01), st.floats(1e-4, 0.1))
def test_beyond_is_the_inverse_of_tail(values: list[float], probability: float, least: float) -> None:
    window = SortedWindow(300)
    window.fill(values)
    assert beyond(window, tail(window, probability, least), least) == pytest.approx(probability, rel=1e-6)


def test_the_tail_of_an_exponential_is_found() -> None:
    rng = random.Random(1)
    window = SortedWindow(5000)
    window.fill(rng.expovariate(1.0) for _ in range(5000))
    assert tail(window, 1e-5, 1e-3) == pytest.approx(-math.log(1e-5), rel=0.1)


def test_a_few_outliers_do_not_move_the_tail() -> None:
    rng = random.Random(2)
    clean = [rng.gauss(0, 0.01) for _ in range(1000)]
    window, dirty = SortedWindow(1000), SortedWindow(1000)
    window.fill(clean)
    dirty.fill([*clean[:-4], 0.7, 0.7, 0.7, 0.7])
    assert tail(dirty, 1e-5, 1e-3) < 2 * tail(window, 1e-5, 1e-3)


def test_the_spread_of_a_normal_is_its_standard_deviation() -> None:
    rng = random.Random(3)
    window = SortedWindow(5000)
    window.fill(rng.gauss(5, 0.3) for _ in range(5000))
    assert spread(window) == pytest.approx(0.3, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 5.0), min_size=3, max_size=3), st.integers(0, 2**31))
def test_a_regression_finds_the_coefficients_that_made_its_rows(truth: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ridge = Ridge([50.0] * 3)
    for _ in range(200):
        phi = np.array([1.0, *rng.uniform(0, 3, 2)])
        ridge.add(phi, float(phi @ np.array(truth)))
    assert ridge.solve() == pytest.approx(np.array(truth), rel=0.02, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_the_order_of_rows_hardly_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(rng.uniform(0, 2, 4), float(rng.uniform(1, 3))) for _ in range(60)]
    one, other = Ridge([10.0] * 4), Ridge([10.0] * 4)
    for phi, target in rows:
        one.add(phi, target)
    for phi, target in reversed(rows):
        other.add(phi, target)
    assert one.solve() == pytest.approx(other.solve(), rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10.0), st.integers(0, 2**31))
def test_a_rescaled_model_predicts_that_many_times_as_much(factor: float, seed: int) -> None:
    load = Load(seed=seed)
    model = DecodeModel(NONE)
    for batch in load.decode(50):
        model.learn(batch.workload.batch_size, batch.workload.context_tokens, batch.duration_ns, 1.0, 0.01)
    before = model.predict(8, 4000)
    model.rescale(factor, 0.02)
    assert before is not None
    assert model.predict(8, 4000) == pytest.approx(factor * before)


def test_rows_that_are_discounted_count_less_than_new_ones() -> None:
    ridge = Ridge([1e3])
    for target, keep in ((1.0, 0.02), (2.0, 1.0)):
        for _ in range(50):
            ridge.add(np.array([1.0]), target)
        ridge.discount(keep)
    assert ridge.solve()[0] == pytest.approx(2.0, rel=0.05)


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_without_rows_a_regression_says_its_prior(seed: int) -> None:
    means = np.random.default_rng(seed).uniform(-5, 5, 4).tolist()
    assert Ridge([2.0] * 4, means).solve() == pytest.approx(np.array(means))


def test_a_row_of_weight_nothing_teaches_nothing() -> None:
    ridge = Ridge([1.0, 1.0])
    ridge.add(np.array([1.0, 2.0]), 5.0, 0.0)
    assert ridge.solve() == pytest.approx(np.zeros(2))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.integers(40, 300))
def test_walked_trees_say_what_scikit_learn_says(seed: int, n: int) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(seed)
    rows = rng.uniform(0, 10, (n, 3))
    targets = np.where(rows[:, 0] > 5, 1.0, -1.0) + rng.normal(0, 0.1, n)
    import prismtop.latency.trees as trees

    kept: list[HistGradientBoostingRegressor] = []
    flattened = trees._flattened

    def keep(model: HistGradientBoostingRegressor) -> Forest:
        kept.append(model)
        return flattened(model)

    trees._flattened = keep
    try:
        forest = learn(rows, targets)
    finally:
        trees._flattened = flattened
    walked = [forest.value(row) for row in rows.tolist()]
    assert walked == pytest.approx(kept[0].predict(rows), abs=1e-9)


def test_trees_learnt_in_a_process_of_their_own_are_the_same() -> None:
    rng = np.random.default_rng(1)
    rows = rng.uniform(0, 10, (120, 3))
    targets = np.where(rows[:, 0] > 5, 1.0, -1.0)
    here, apart = learn(rows, targets), learn_apart(rows, targets)
    assert (apart.base, apart.trees) == (here.base, here.trees)


def test_a_process_that_learns_nothing_is_said_in_its_own_words() -> None:
    with pytest.raises(RuntimeError, match=r"NaN|nan|finite|infinity"):
        learn_apart(np.zeros((50, 2)), np.full(50, np.inf))


@given(st.integers(1, 5000))
def test_a_padded_size_is_never_smaller(size: int) -> None:
    for schedule in (VLLM, SGLANG, POWERS, NONE):
        assert schedule.pad(size) >= size


@given(st.integers(1, 4000), st.integers(0, 500))
def test_a_larger_batch_is_never_padded_to_less(size: int, more: int) -> None:
    for schedule in (VLLM, SGLANG, POWERS, NONE):
        assert schedule.pad(size + more) >= schedule.pad(size)


def test_sizes_read_from_the_engine_win() -> None:
    assert schedule_for("vllm", [4, 2, 10]).pad(5) == 10


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_predictions_are_positive_and_finite_whatever_was_learnt(seed: int) -> None:
    rng = random.Random(seed)
    model = DecodeModel(VLLM)
    for _ in range(60):
        model.learn(rng.randint(0, 600), rng.randint(0, 10**7), rng.uniform(1, 1e12), rng.random(), 0.01)
    for _ in range(20):
        expected = model.predict(rng.randint(0, 600), rng.randint(0, 10**7))
        assert expected is not None
        assert math.isfinite(expected)
        assert expected > 0


def test_a_decode_model_is_close_after_a_hundred_rows() -> None:
    rng = random.Random(0)
    model = DecodeModel(VLLM)
    for _ in range(100):
        size = rng.randint(1, 64)
        context = size * rng.randint(200, 1200)
        model.learn(size, context, decode_ms(size, context) * 1e6 * rng.gauss(1, 0.01), 1.0, 0.01)
    errors = []
    for _ in range(200):
        size = rng.randint(1, 64)
        context = size * rng.randint(200, 1200)
        expected = model.predict(size, context) or 0.0
        errors.append(abs(expected / 1e6 / decode_ms(size, context) - 1))
    assert sorted(errors)[190] < 0.05


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1)), max_size=100))
def test_a_level_stays_within_its_limit(steps: list[tuple[float, float]]) -> None:
    level = Level()
    for residual, weight in steps:
        before = level.fast
        level.learn(residual, weight)
        assert abs(level.fast) <= LIMIT
        assert abs(level.fast - before) <= CLIP


def test_a_level_follows_within_tens_of_batches_and_its_anchor_does_not() -> None:
    level = Level()
    for _ in range(30):
        level.learn(0.0, 1.0)
    for _ in range(40):
        level.learn(0.05, 1.0)
    assert level.fast == pytest.approx(0.05, abs=0.005)
    assert level.anchor < 0.01


def test_a_refit_that_fails_is_said_and_breaks_nothing() -> None:
    background = Background()

    def fail() -> None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    assert background.run(fail)
    background.wait(20)
    assert background.failure == "sklearn is not installed"


def test_one_refit_runs_at_a_time() -> None:
    background, release = Background(), threading.Event()
    assert background.run(lambda: release.wait(30) and None)
    assert not background.run(lambda: None)
    release.set()
    background.wait(20)
    assert background.run(lambda: None)
