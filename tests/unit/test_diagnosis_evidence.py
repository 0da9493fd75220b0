"""Comparing two windows of a series: size, noise, thin data, onset."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismtop.diagnosis.evidence import ENOUGH, compare, median, onset, rate
from prismtop.diagnosis.signals import written

S = 1_000_000_000


def points(*values: float, start: int = 0) -> list[tuple[int, float]]:
    return [(start + at * S, value) for at, value in enumerate(values)]


def test_a_change_far_beyond_the_noise_has_a_large_z() -> None:
    found = compare("x", points(10, 11, 10, 9, 10, 11), points(20, 21, 20))
    assert found is not None
    assert (found.before, found.after) == (10, 20)
    assert found.z > 8


def test_a_change_within_the_noise_has_a_small_z() -> None:
    found = compare("x", points(10, 14, 6, 9, 12, 8), points(11, 13, 7))
    assert found is not None
    assert abs(found.z) < 3


def test_the_sign_of_z_is_that_of_the_change() -> None:
    found = compare("x", points(10, 11, 10, 9), points(5, 5, 5))
    assert found is not None
    assert found.z < 0


@pytest.mark.parametrize("count", range(ENOUGH))
def test_a_thin_baseline_says_nothing(count: int) -> None:
    assert compare("x", points(*[10.0] * count), points(20, 20, 20)) is None


def test_an_empty_incident_says_nothing() -> None:
    assert compare("x", points(1, 2, 3, 4, 5), []) is None


def test_values_that_are_not_finite_are_no_readings() -> None:
    nothing = points(math.nan, math.inf, -math.inf)
    assert compare("x", points(1, 2, 3, 4, 5), nothing) is None
    found = compare("x", points(10, math.nan, 10, 11, 9), points(math.nan, 20))
    assert found is not None
    assert (found.baseline_points, found.incident_points, found.after) == (4, 1, 20)


def test_one_reading_within_the_range_of_the_baseline_is_no_change() -> None:
    found = compare("x", points(10, 10, 10, 10, 10, 30), points(29))
    assert found is not None
    assert abs(found.z) < 3


def test_one_reading_far_beyond_the_range_is_a_change() -> None:
    found = compare("x", points(10, 10, 10, 10, 10, 12), points(60))
    assert found is not None
    assert found.z > 8


def test_a_series_that_wanders_is_held_against_its_own_wandering() -> None:
    steps = [10.0] * 8 + [14.0] * 8 + [8.0] * 8 + [13.0] * 8 + [9.0] * 8 + [15.0] * 8
    steady = [10.0, 11.0, 12.0] * 16
    wandering = compare("x", points(*steps), points(18, 18, 18))
    certain = compare("x", points(*steady), points(18, 18, 18))
    assert wandering is not None
    assert certain is not None
    assert wandering.z < 3 < certain.z


def test_a_series_that_was_constant_moves_with_certainty() -> None:
    found = compare("x", points(0, 0, 0, 0), points(5, 5))
    assert found is not None
    assert found.z > 8
    assert found.log_ratio == math.inf


def test_a_series_that_did_not_move_at_all_has_no_effect() -> None:
    found = compare("x", points(0, 0, 0, 0), points(0, 0))
    assert found is not None
    assert (found.z, found.delta, found.log_ratio) == (0, 0, 0)


@pytest.mark.parametrize(
    ("readings", "moved"),
    [
        pytest.param([0.96, 0.02, 0.93, 0.02], True, id="half of them beyond all that was"),
        pytest.param([0.96, 0.02, 0.02, 0.02], False, id="one of them"),
        pytest.param([0.96, 0.93, 0.02, 0.02, 0.02], False, id="fewer than half"),
    ],
)
def test_what_a_long_baseline_never_had_has_moved_however_unevenly(
    readings: list[float], moved: bool
) -> None:
    usual = points(*(0.02 + 0.001 * (at % 7) for at in range(60)))
    effect = compare("share", usual, points(*readings), mean=True)
    assert effect is not None
    assert (effect.z > 3) is moved


def test_rare_events_are_compared_by_their_mean() -> None:
    quiet, busy = points(*[0.0] * 40), points(*[0.0, 0.0, 0.0, 1.0] * 10)
    by_mean = compare("x", quiet, busy, mean=True)
    by_median = compare("x", quiet, busy)
    assert by_mean is not None
    assert by_median is not None
    assert by_mean.after == 0.25
    assert by_median.after == 0


def test_many_correlated_readings_do_not_make_a_small_change_certain() -> None:
    low, high = [10.0, 12.0] * 5000, [10.5, 12.5] * 5000
    found = compare("x", points(*low), points(*high))
    assert found is not None
    assert found.z < 3


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30),
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30),
)
def test_any_finite_values_give_finite_figures(before: list[float], after: list[float]) -> None:
    for mean in (False, True):
        found = compare("x", points(*before), points(*after), mean=mean, lead=points(*before, *after))
        assert (found is None) == (len(before) < ENOUGH)
        assert found is None or math.isfinite(found.z)


def test_the_onset_is_the_first_reading_that_stays_beyond_the_middle() -> None:
    assert onset(points(1, 9, 1, 1, 9, 9, 9), 1, 9) == 4 * S


def test_a_series_that_had_moved_already_has_no_onset() -> None:
    assert onset(points(9, 9, 9), 1, 9) is None


def test_a_move_in_the_very_last_reading_has_an_onset() -> None:
    assert onset(points(1, 1, 9), 1, 9) == 2 * S


def test_the_onset_of_a_fall() -> None:
    assert onset(points(9, 9, 1, 1), 9, 1) == 2 * S


def test_a_total_becomes_a_rate_and_its_restart_is_left_out() -> None:
    assert rate(points(0, 5, 5, 1, 3)) == [(S, 5.0), (2 * S, 0.0), (4 * S, 2.0)]


def test_the_median_of_an_even_count_lies_between() -> None:
    assert median([1, 2, 3, 10]) == 2.5


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.123, "ratio", "12.3 %"),
        (1395, "mhz", "1395 MHz"),
        (2.5e9, "bytes_per_s", "2.5 GB/s"),
        (0, "bytes", "0 B"),
        (0.0021, "seconds", "2.1 ms"),
        (4.2e-7, "seconds", "0.42 us"),
        (1.25, "times", "x1.25"),
        (17, "count", "17"),
    ],
)
def test_numbers_are_written_with_their_unit(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text
