"""Objectives: attainment, goodput, the error budget, headroom, interference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prismtop.latency.headroom import Trend
from prismtop.latency.judge import LatencyJudge
from prismtop.latency.slo import end_to_end_ns
from prismtop.model import AttachState, Batch, Judgement, Request, SloStatus
from prismtop.settings import Settings
from prismtop.sources.tick import SourceTick
from tests.factories import make_group
from tests.unit.latency_load import MS, Load

S = 10**9


def request(
    at_s: float, ttft_ms: float | None = 100.0, tpot_ms: float | None = 20.0, tokens: int = 11
) -> Request:
    return Request(
        finished_ns=int(at_s * S),
        ttft_ns=None if ttft_ms is None else int(ttft_ms * MS),
        tpot_ns=None if tpot_ms is None else int(tpot_ms * MS),
        output_tokens=tokens,
    )


class Session:
    """A judge with targets, fed tick by tick."""

    def __init__(self, **targets: Any) -> None:
        self.judge = LatencyJudge(Settings(**targets), make_group(), inline=True)
        self.alerts: list[Any] = []

    def tick(self, at_s: float, requests: list[Request] = [], batches: list[Batch] = []) -> Judgement:  # noqa: B006
        made = self.judge.take(
            SourceTick(int(at_s * S), AttachState.LIVE, batches=tuple(batches), requests=tuple(requests))
        )
        self.alerts += [alert for alert in made.changed if alert.kind == "slo"]
        return made

    def status(self, at_s: float, requests: list[Request] = [], batches: list[Batch] = []) -> SloStatus:  # noqa: B006
        made = self.tick(at_s, requests, batches).slo
        assert made is not None
        return made


def test_without_targets_there_is_no_status() -> None:
    assert Session().tick(1.0, [request(1.0)]).slo is None


def test_attainment_is_the_share_of_requests_that_met_all_targets() -> None:
    session = Session(slo_ttft_ms=150.0, slo_tpot_ms=30.0)
    session.tick(0.0)
    made = session.status(10.0, [request(1), request(2, ttft_ms=200), request(3, tpot_ms=40), request(4)])
    assert (made.ttft, made.tpot, made.attainment) == (0.75, 0.75, 0.5)


def test_goodput_counts_only_requests_that_met_all_targets() -> None:
    session = Session(slo_ttft_ms=150.0)
    session.tick(0.0)
    made = session.status(10.0, [request(n, ttft_ms=200 if n % 2 else 100) for n in range(10)])
    assert made.goodput_per_s == pytest.approx(0.5)


def test_a_request_whose_arrival_was_not_seen_counts_in_no_figure_that_needs_it() -> None:
    session = Session(slo_ttft_ms=150.0)
    session.tick(0.0)
    made = session.status(5.0, [request(1, ttft_ms=None), request(2)])
    assert (made.requests, made.attainment) == (2, 1.0)


def test_without_requests_nothing_is_claimed() -> None:
    made = Session(slo_ttft_ms=150.0).status(5.0)
    assert (made.ttft, made.attainment, made.goodput_per_s, made.budget_burn) == (None, None, None, None)


def test_a_request_of_one_token_meets_any_time_per_token() -> None:
    session = Session(slo_tpot_ms=1.0)
    session.tick(0.0)
    assert session.status(5.0, [request(1, tpot_ms=None, tokens=1)]).tpot == 1.0


def test_end_to_end_is_the_first_token_and_all_that_follow() -> None:
    assert end_to_end_ns(request(1, ttft_ms=100, tpot_ms=20, tokens=11)) == 300 * MS
    assert end_to_end_ns(request(1, ttft_ms=100, tpot_ms=None, tokens=1)) == 100 * MS
    assert end_to_end_ns(request(1, ttft_ms=None)) is None


def test_requests_leave_the_window_after_a_minute() -> None:
    session = Session(slo_ttft_ms=150.0)
    session.tick(0.0, [request(0, ttft_ms=900)])
    assert session.status(70.0, [request(70)]).attainment == 1.0


def test_the_budget_burns_as_many_times_as_fast_as_more_requests_fail_than_may() -> None:
    session = Session(slo_ttft_ms=150.0, slo_target=0.9)
    session.tick(0.0)
    made = session.status(5.0, [request(1, ttft_ms=200), request(2), request(3), request(4)])
    assert made.budget_burn == pytest.approx(2.5)


def test_a_budget_that_burns_fast_opens_an_alert_and_closes_it() -> None:
    session = Session(slo_ttft_ms=150.0)
    session.tick(0.0)
    session.tick(5.0, [request(n / 10, ttft_ms=200) for n in range(30)])
    assert [alert.closed_ns for alert in session.alerts] == [None]
    session.tick(80.0, [request(80) for _ in range(30)])
    assert [alert.closed_ns for alert in session.alerts] == [None, 80 * S]
    assert len({alert.id for alert in session.alerts}) == 1


def missing(session: Session) -> None:
    """Half a minute of requests that all miss their target."""
    session.tick(0.0)
    session.tick(30.0, [request(1 + n, ttft_ms=200) for n in range(29)], list(Load().decode(10)))


def test_an_alert_ends_when_there_are_no_requests_any_more() -> None:
    session = Session(slo_ttft_ms=150.0)
    missing(session)
    session.tick(95.0)
    assert session.alerts[-1].closed_ns == 95 * S


def test_an_alert_ends_with_the_batches() -> None:
    session = Session(slo_ttft_ms=150.0)
    missing(session)
    assert [alert.closed_ns for alert in session.judge.finish()] == [30 * S]


def test_an_alert_begins_with_the_first_request_that_missed_its_target() -> None:
    session = Session(slo_ttft_ms=150.0)
    missing(session)
    (alert,) = session.alerts
    assert alert.started_ns == pytest.approx(0.6 * S)  # it took 0.4 s and ended at 1 s
    assert alert.opened_ns == 30 * S


def test_an_alert_that_is_open_says_how_it_is_now() -> None:
    session = Session(slo_ttft_ms=150.0)
    missing(session)
    load = Load()
    load.seq = 50
    session.tick(40.0, [request(40) for _ in range(29)], list(load.decode(10)))
    last = session.alerts[-1]
    assert last.text.startswith("50.0 % of 58")
    assert last.last_seq == 59


def test_a_few_bad_requests_open_no_alert() -> None:
    session = Session(slo_ttft_ms=150.0)
    session.tick(0.0)
    session.tick(5.0, [request(1, ttft_ms=200) for _ in range(5)])
    assert not session.alerts


def learnt(session: Session, load: Load, batches: int = 400) -> SloStatus:
    session.tick(0.0)
    return session.status(load.at_ns / S + 100, batches=list(load.decode(batches)))


def test_headroom_is_the_largest_batch_whose_step_stays_under_the_target() -> None:
    load = Load(cost=lambda size, context: 10.0 + 1.0 * size)
    made = learnt(Session(slo_tpot_ms=30.0), load)
    assert made.headroom.max_batch_size == pytest.approx(20, abs=2)


def test_headroom_is_not_judged_beyond_twice_what_was_seen() -> None:
    load = Load(cost=lambda size, context: 10.0)
    made = learnt(Session(slo_tpot_ms=1000.0), load)
    assert made.headroom.max_batch_size is not None
    assert "beyond" in made.headroom.reason


def test_without_a_target_for_tokens_headroom_says_why_it_is_missing() -> None:
    made = learnt(Session(slo_ttft_ms=100.0), Load())
    assert made.headroom.max_batch_size is None
    assert made.headroom.reason


def test_headroom_for_prefill_is_what_a_step_can_carry_beside_its_decodes() -> None:
    load, session = Load(), Session(slo_tpot_ms=45.0)
    session.tick(0.0)
    batches = []
    for _ in range(150):
        batches += [*load.decode(3), *load.mixed(1)]
    room = session.status(load.at_ns / S + 1, batches=batches).headroom.max_prefill_tokens
    assert room is not None
    assert 250 < room < 900  # (45 - about 22 ms) / 0.04 ms a token


def test_interference_is_what_prefill_added_to_the_steps_of_those_who_decode() -> None:
    load, session = Load(noise=0.001), Session(slo_tpot_ms=45.0)
    session.tick(0.0)
    session.tick(1.0, batches=list(load.decode(300)))
    heavy = [replace(batch, duration_ns=batch.duration_ns + 50 * MS) for batch in load.mixed(1)]
    made = session.status(load.at_ns / S + 1, batches=[*heavy, *load.decode(20)])
    assert made.interference is not None
    assert made.interference.worst_seq == heavy[0].seq
    assert made.interference.worst_ms > 50
    assert 0 < made.interference.share < 1


def test_without_prefill_there_is_no_interference() -> None:
    assert learnt(Session(slo_tpot_ms=45.0), Load()).interference is None


def rising(trend: Trend, per_s: float, seconds: int = 60) -> None:
    load = Load(noise=0.002)
    start = load.at_ns
    while load.at_ns - start < seconds * S:
        grown = 20 * MS + int(per_s * MS * (load.at_ns - start) / S)
        trend.take(load.batch(duration_ns=grown, period_ns=grown))
        load.at_ns += grown - 20 * MS


def test_a_rising_time_per_token_is_said_to_break_its_target_when_it_will() -> None:
    trend = Trend()
    rising(trend, per_s=0.1)
    assert trend.breaks_in_s(36.0) == pytest.approx(100, rel=0.3)


def test_a_steady_time_per_token_breaks_nothing() -> None:
    trend = Trend()
    rising(trend, per_s=0.0)
    assert trend.breaks_in_s(36.0) is None


def test_a_target_that_is_broken_already_needs_no_forecast() -> None:
    trend = Trend()
    rising(trend, per_s=0.1)
    assert trend.breaks_in_s(10.0) is None
