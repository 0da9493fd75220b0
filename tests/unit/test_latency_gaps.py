"""The time between batches: what is usual there, and what is lost."""

from __future__ import annotations

import pytest

from tests.unit.latency_load import Load, Told, make_judge


@pytest.fixture
def told() -> Told:
    return Told(make_judge())


def step_ms(size: int, context: int) -> float:
    """An engine whose large batches take three times as long as its small ones."""
    return 10.0 + 0.85 * size


def test_batches_that_get_shorter_lose_no_throughput_by_a_gap_that_stays(told: Told) -> None:
    load = Load(cost=step_ms)
    told.take([load.batch(size=32, context=9000, gap_ms=2.0) for _ in range(300)])
    told.take([load.batch(size=4, context=1200, gap_ms=2.0) for _ in range(300)])
    assert not told.alerts


def test_a_gap_that_is_longer_for_good_becomes_the_usual_one(told: Told) -> None:
    load = Load(cost=lambda size, context: 40.0)
    told.take([load.batch(gap_ms=2.0) for _ in range(300)])
    told.take([load.batch(gap_ms=8.0) for _ in range(4000)])
    (alert,) = told.alerts.values()
    assert alert.kind == "throughput"
    assert alert.closed_ns is not None
    assert "taken as the usual" in alert.text


def test_a_gap_that_was_taken_as_usual_is_held_against_what_comes_later(told: Told) -> None:
    load = Load(cost=lambda size, context: 40.0)
    told.take([load.batch(gap_ms=2.0) for _ in range(300)])
    told.take([load.batch(gap_ms=8.0) for _ in range(4000)])
    told.take([load.batch(gap_ms=16.0) for _ in range(60)])
    assert len(told.alerts) == 2


def test_a_gap_that_is_too_short_for_an_alert_becomes_the_usual_one_too(told: Told) -> None:
    load = Load(cost=lambda size, context: 4.0)
    told.take([load.batch(gap_ms=0.1) for _ in range(300)])
    told.take([load.batch(gap_ms=0.5) for _ in range(30000)])
    told.take([load.batch(gap_ms=0.9) for _ in range(60)])
    assert not told.alerts
