"""Which noise a detector bears in mind: a machine's bad minutes, not a young model's errors."""

from __future__ import annotations

import random

import pytest

from prismtop.latency.detector import WINDOW, Detector
from prismtop.latency.sensitivity import NORMAL
from tests.unit.latency_load import Load, Told, make_judge


@pytest.fixture
def detector() -> Detector:
    return Detector(NORMAL)


def quiet(detector: Detector, batches: int, noise: float) -> None:
    """Batches that are as expected but for the noise."""
    rng = random.Random(3)
    for _ in range(batches):
        x = rng.gauss(0.0, noise)
        detector.learn(x, detector.judge(x, 0.0, True))


def test_what_a_young_model_was_wrong_by_is_forgotten(detector: Detector) -> None:
    quiet(detector, 200, 0.2)
    quiet(detector, WINDOW, 0.01)
    assert detector.rough < 0.05


def test_a_machine_s_bad_minutes_are_remembered(detector: Detector) -> None:
    quiet(detector, 2 * WINDOW, 0.01)
    quiet(detector, WINDOW, 0.06)
    quiet(detector, 3 * WINDOW, 0.01)
    assert detector.rough > 0.04


def test_bad_minutes_of_another_session_are_remembered(detector: Detector) -> None:
    detector.bear(0.1)
    quiet(detector, 2 * WINDOW, 0.01)
    assert detector.rough > 0.09


def hiccups(one_in: int) -> Told:
    """An engine of rough short steps, of which some take 10 ms longer for a while."""
    load, told = Load(noise=0.1, cost=lambda size, context: 2.0), Told(make_judge())
    told.take(load.decode(1500))
    for n in range(160):
        told.take(load.decode(1, factor=6.0 if n % one_in == 0 else 1.0))
    return told


def test_small_hiccups_that_come_in_numbers_wake_people() -> None:
    assert [alert.kind for alert in hiccups(8).alerts.values()] == ["spike"]


def test_a_few_small_hiccups_wake_nobody() -> None:
    assert not hiccups(40).alerts
