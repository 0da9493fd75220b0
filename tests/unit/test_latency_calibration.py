"""A kept model is held against an engine's first batches in rounds."""

from __future__ import annotations

import pytest

from prismtop.latency.calibration import ROUNDS, Calibration, Step


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(exact=True)


def steps(calibration: Calibration, residuals: list[float]) -> list[Step]:
    return [step for residual in residuals if (step := calibration.take(residual)) is not None]


def test_a_model_that_holds_is_taken_after_one_round(calibration: Calibration) -> None:
    assert steps(calibration, [0.01] * ROUNDS[0]) == [Step(0.0, last=True)]


def test_nothing_is_said_before_the_end_of_a_round(calibration: Calibration) -> None:
    assert steps(calibration, [0.5] * (ROUNDS[0] - 1)) == []


def test_a_model_that_does_not_hold_is_scaled_by_the_median(calibration: Calibration) -> None:
    residuals = [0.3] * (ROUNDS[0] - 2) + [5.0, 7.0]
    assert steps(calibration, residuals) == [Step(0.3, last=False)]


def test_a_second_round_takes_back_what_a_cold_start_looked_like(calibration: Calibration) -> None:
    steps(calibration, [0.9] * ROUNDS[0])
    (step,) = steps(calibration, [-0.9] * ROUNDS[1])
    assert step.by == -0.9
    assert calibration.scaled == pytest.approx(0.0)


def test_the_last_round_is_the_last_whatever_it_finds(calibration: Calibration) -> None:
    made = steps(calibration, [0.2] * sum(ROUNDS))
    assert [step.last for step in made] == [False, False, False, True]
