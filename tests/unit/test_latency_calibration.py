"""A kept model is held against an engine's first batches."""

from __future__ import annotations

import pytest

from prismtop.latency.calibration import FOREIGN, HOLDS, KEPT, MAY_HOLD, ROWS, Calibration, Result


def result_of(*residuals: float) -> Result:
    calibration = Calibration(exact=True)
    *before, last = (calibration.take(residual) for residual in residuals)
    assert before == [None] * (ROWS - 1)
    assert last is not None
    return last


def around(middle: float, off: float) -> list[float]:
    """Residuals whose median absolute deviation is `off`."""
    return [middle - off, middle + off] * (ROWS // 2)


def test_a_model_that_is_off_by_little_holds() -> None:
    assert result_of(*[HOLDS - 0.001] * ROWS).holds


def test_a_model_that_is_off_is_scaled_by_the_median() -> None:
    assert result_of(*[0.3] * (ROWS - 2), 5.0, 7.0).by == pytest.approx(0.3)


def test_a_model_that_is_too_dear_is_scaled_too() -> None:
    assert result_of(*[-0.4] * ROWS).by == pytest.approx(-0.4)


def test_a_model_that_chance_may_have_put_off_holds() -> None:
    assert result_of(*around(0.09, 0.1)).holds
    assert not result_of(*around(0.09, 0.01)).holds


def test_a_model_that_is_far_off_is_scaled_however_much_its_batches_vary() -> None:
    assert not result_of(*around(MAY_HOLD + 0.01, 0.9)).holds


def test_the_spread_is_that_of_the_batches() -> None:
    assert result_of(*around(0.0, 0.1)).spread == pytest.approx(0.148, abs=0.001)


@pytest.mark.parametrize(("exact", "reason"), [(True, KEPT), (False, FOREIGN)])
def test_the_reason_says_whose_model_it_is(exact: bool, reason: str) -> None:
    assert Calibration(exact=exact).reason == reason
