"""The course of a campaign, with frames and an injector made up here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prismtop.anomaly.campaign import TAIL_S, Campaign, Phase
from prismtop.anomaly.catalogue import scenario
from prismtop.anomaly.scenario import Request
from prismtop.anomaly.scenario_file import Step
from prismtop.model import Alert, Frame, ModelCard, ModelState, Severity
from tests.factories import make_batch, make_frame

S = 10**9
READY, LEARNING = ModelCard(ModelState.READY), ModelCard(ModelState.LEARNING)


class FakeInjector:
    """Takes orders and says what it is told to say."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, Request]] = []
        self.said: list[dict[str, Any]] = []

    def order(self, made: Any, request: Request) -> None:
        self.orders.append((made.id, request))

    def events(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said


def make_step(name: str = "freeze_bursts", gap_s: float = 5.0) -> Step:
    return Step(scenario(name), 2.0, 0.7, 0.0, 9, gap_s)


def make_campaign(*steps: Step) -> tuple[Campaign, FakeInjector]:
    injector = FakeInjector()
    return Campaign(steps, Request(4242, 1), injector, warmup_s=20.0), injector  # type: ignore[arg-type]


def frame_at(at_s: float, **changes: Any) -> Frame:
    return replace(make_frame(0), time_ns=round(at_s * S), **{"model": READY, **changes})


def ended(start_s: float, end_s: float, ok: bool = True) -> dict[str, Any]:
    return {
        "event": "ended",
        "start_ns": round(start_s * S),
        "end_ns": round(end_s * S),
        "planned_end_ns": round(end_s * S),
        "rollback_ok": ok,
        "failed": [] if ok else ["a group stays"],
    }


def make_alert(opened_s: float, closed_s: float | None = None) -> Alert:
    opened = round(opened_s * S)
    closed = None if closed_s is None else round(closed_s * S)
    return Alert(1, "shift", Severity.WARNING, opened, opened, 4242, 1, 2, 2, S, "slow", closed)


def go(campaign: Campaign, start_s: float, end_s: float, **changes: Any) -> None:
    at = start_s
    while at < end_s:
        campaign.take(frame_at(at, **changes))
        at += 0.5


def test_it_learns_for_half_of_the_warm_up_at_least() -> None:
    campaign, _ = make_campaign(make_step())
    go(campaign, 100, 109)
    assert campaign.phase is Phase.LEARNING
    go(campaign, 109, 112)
    assert (campaign.phase, campaign.learnt) == (Phase.GAP, True)


def test_it_does_not_wait_for_ever_for_a_model() -> None:
    campaign, _ = make_campaign(make_step())
    go(campaign, 100, 122, model=LEARNING)
    assert (campaign.phase, campaign.learnt) == (Phase.GAP, False)


def test_it_injects_after_the_gap_what_the_step_says() -> None:
    campaign, injector = make_campaign(make_step())
    go(campaign, 100, 117)
    ((name, request),) = injector.orders
    assert (name, request.intensity, request.duration_s, request.pid) == ("freeze_bursts", 0.7, 2.0, 4242)


def test_it_waits_for_an_alert_that_is_open() -> None:
    campaign, injector = make_campaign(make_step())
    campaign.take(frame_at(100, changed_alerts=(make_alert(100),)))
    go(campaign, 100.5, 120)
    assert injector.orders == []
    campaign.take(frame_at(120, changed_alerts=(make_alert(100, 119),)))
    assert len(injector.orders) == 1


def test_it_does_not_wait_for_an_alert_for_ever() -> None:
    campaign, injector = make_campaign(make_step())
    campaign.take(frame_at(100, changed_alerts=(make_alert(100),)))
    go(campaign, 100.5, 150)
    assert len(injector.orders) == 1


def test_it_is_done_after_the_last_step_and_its_tail() -> None:
    campaign, injector = make_campaign(make_step())
    go(campaign, 100, 117)
    injector.said = [ended(116, 118)]
    go(campaign, 118, 118.5)
    assert campaign.phase is Phase.TAIL
    go(campaign, 118.5, 119.5 + TAIL_S)
    assert campaign.phase is Phase.DONE


def test_a_step_that_fails_is_reported_and_the_next_one_follows() -> None:
    campaign, injector = make_campaign(make_step(), make_step("cgroup_cpu_throttling"))
    go(campaign, 100, 117)
    injector.said = [{"event": "failed", "reason": "no cgroup"}]
    go(campaign, 117, 130)
    assert [name for name, _ in injector.orders] == ["freeze_bursts", "cgroup_cpu_throttling"]
    assert campaign.result().failures == ("freeze_bursts: no cgroup",)


def test_a_rollback_that_failed_is_a_failure() -> None:
    campaign, injector = make_campaign(make_step())
    go(campaign, 100, 117)
    injector.said = [ended(116, 118, ok=False)]
    go(campaign, 118, 119)
    result = campaign.result()
    assert (len(result.failures), result.score.rollbacks_ok) == (1, 0)


def test_an_alert_in_the_episode_is_its_hit() -> None:
    campaign, injector = make_campaign(make_step())
    quiet = [make_batch(n, round((100 + 0.1 * n) * S), duration_ns=S // 10) for n in range(150)]
    slow = [make_batch(n, round((116 + 0.2 * n) * S), duration_ns=S // 5) for n in range(10)]
    campaign.take(frame_at(100))
    go(campaign, 110, 117)
    campaign.take(frame_at(117.5, new_batches=(*quiet, *slow), changed_alerts=(make_alert(116.6, 119),)))
    injector.said = [ended(116, 118)]
    go(campaign, 118, 119)
    figures = campaign.result().score
    assert (figures.counted, figures.hits, figures.false_alarms) == (1, 1, 0)
