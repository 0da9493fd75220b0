"""The course of a campaign, with frames and an injector made up here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.anomaly import trace_file
from prismtop.anomaly.campaign import TAIL_S, Campaign, Phase
from prismtop.anomaly.catalogue import scenario
from prismtop.anomaly.neighbours import Neighbours, children, mean
from prismtop.anomaly.scenario import Request
from prismtop.anomaly.scenario_file import Step
from prismtop.commands import campaign as command
from prismtop.commands.campaign_report import table
from prismtop.commands.context import Interrupted
from prismtop.errors import UnavailableError
from prismtop.model import Alert, AttachState, Counter, Frame, ModelCard, ModelState, Severity
from prismtop.trace.load import load
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
    go(campaign, 100.5, 117)  # learnt at 110.5; the gap is 5 s
    assert injector.orders == []
    campaign.take(frame_at(117, changed_alerts=(make_alert(100, 116),)))
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


def test_an_injection_that_acted_and_failed_leaves_neither_quiet_batches_nor_false_alarms() -> None:
    campaign, injector = make_campaign(make_step(), make_step())
    go(campaign, 100, 117)
    slow = [make_batch(n, round((116 + 0.2 * n) * S), duration_ns=S // 5) for n in range(10)]
    alerts = make_alert(117, 119), replace(make_alert(122, 123), id=2)
    injector.said = [{"event": "acting", "at_ns": 116 * S}, {"event": "started", "start_ns": 116 * S}]
    go(campaign, 117, 118.5, changed_alerts=alerts[:1])
    injector.said = [{"event": "failed", "reason": "a burner ended early"}]
    campaign.take(frame_at(118.5, new_batches=tuple(slow)))
    go(campaign, 119, 122.5)
    before = campaign.result()
    assert (before.score.false_alarms, before.score.unlabelled) == (0, 1)
    assert "1 alerts while an injection acted" in "\n".join(table(before, (), 2))
    assert not [batch for batch in slow if not campaign._is_disturbed(batch)]
    go(campaign, 122.5, 123, changed_alerts=alerts[1:])  # after the failure and its guard band
    after = campaign.result().score
    assert (after.false_alarms, after.unlabelled) == (1, 1)


def test_an_injection_that_was_refused_disturbs_nothing() -> None:
    campaign, injector = make_campaign(make_step())
    go(campaign, 100, 117)
    injector.said = [{"event": "failed", "reason": "no cgroup"}]
    go(campaign, 117, 118, changed_alerts=(make_alert(117),))
    figures = campaign.result().score
    assert (figures.false_alarms, figures.unlabelled) == (1, 0)


def test_the_time_before_a_fault_takes_effect_is_not_quiet() -> None:
    campaign, injector = make_campaign(make_step())
    go(campaign, 100, 117)
    attaching = make_batch(0, round(114.5 * S), duration_ns=S // 10)
    injector.said = [{"event": "acting", "at_ns": 114 * S}, ended(116, 118)]
    go(campaign, 118, 119, changed_alerts=(make_alert(115, 115.5),))
    figures = campaign.result().score
    assert (figures.false_alarms, figures.unlabelled) == (0, 1)
    assert campaign._is_disturbed(attaching)


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


def test_an_injection_that_is_under_way_is_neither_hit_nor_quiet() -> None:
    campaign, _ = make_campaign(make_step())
    go(campaign, 100, 117)
    assert campaign.phase is Phase.INJECTING
    go(campaign, 117, 118, changed_alerts=(make_alert(117),))
    figures = campaign.result().score
    assert (figures.faults, figures.false_alarms) == (0, 0)
    assert figures.quiet_s < 7


def test_a_trace_of_a_campaign_holds_what_a_diagnosis_needs(tmp_path: Path) -> None:
    campaign, injector = make_campaign(make_step(), make_step("request_flood"))
    batches = [make_batch(n, round((100 + 0.1 * n) * S), duration_ns=S // 10) for n in range(40)]
    reading = Counter("thread_runq_wait_ratio", "pid 1 tid 1", "ratio", 102 * S, 0.25)
    other = Counter("net_receive_bytes_per_s", "eth0", "bytes_per_s", 102 * S, 9.0)
    campaign.take(frame_at(100))
    go(campaign, 110, 117)
    campaign.take(frame_at(117, new_batches=tuple(batches), new_counters=(reading, other)))
    injector.said = [ended(116, 118)]
    go(campaign, 118, 124)
    injector.said = [ended(123, 125)]
    go(campaign, 125, 126, changed_alerts=(make_alert(117, 119),))
    result, last = campaign.result(), frame_at(126)
    labels = [episode.label for episode in result.episodes]
    trace_file.write(tmp_path / "made.json", last, result.batches, result.alerts, labels, result.counters)
    trace = load([tmp_path / "made.json"])
    assert [(one.name, one.value) for one in trace.counters()] == [("thread_runq_wait_ratio", 0.25)]
    assert [batch.seq for batch in trace.batches()] == list(range(40))
    assert [alert.closed_ns for alert in trace.alerts()] == [119 * S]
    # A workload control is in the file, and is no fault that there was to be found.
    assert [truth.id for truth in trace.ground_truth()] == ["freeze_bursts"]
    assert "request_flood" in (tmp_path / "made.json").read_text()


class FakeSession:
    """Frames of its own making, and then whatever ends a campaign."""

    def __init__(self, frames: list[Frame], end: BaseException | None = None) -> None:
        self.frames, self.end = frames, end

    def tick(self) -> Frame:
        if not self.frames and self.end is not None:
            raise self.end
        return self.frames.pop(0)


class FakeContext:
    """As much of a context as following a campaign takes; nothing is ever signalled."""

    class settings:
        tick_hz = 1000.0

    class signals:
        @staticmethod
        def deferred() -> Any:
            return nullcontext()

        @staticmethod
        def check() -> None:
            """Nothing came."""

    class report:
        @staticmethod
        def say(text: str) -> None:
            """Nobody listens."""


def test_what_ends_a_campaign_early_leaves_what_was_found() -> None:
    campaign, _ = make_campaign(make_step())
    session: Any = FakeSession([frame_at(100), frame_at(101)], Interrupted(2))
    context: Any = FakeContext()
    last, ended_by = command._follow(context, session, campaign, 1)
    assert isinstance(ended_by, Interrupted)
    assert last is not None
    assert "0 of 1 episodes were done" in table(campaign.result(), (), 1)


def test_an_engine_that_ends_is_told_with_what_was_found() -> None:
    campaign, _ = make_campaign(make_step())
    session: Any = FakeSession([frame_at(100), frame_at(101, state=AttachState.GONE)])
    context: Any = FakeContext()
    last, ended_by = command._follow(context, session, campaign, 1)
    assert isinstance(ended_by, UnavailableError)
    assert last is not None


def test_the_cpu_time_of_others_is_measured() -> None:
    nobody_is_own = Neighbours(list)
    nobody_is_own.take(S)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    nobody_is_own.take(2 * S)
    ((_, cores),) = nobody_is_own.seen
    assert cores > 0.1  # this process is one of the others


def test_a_campaign_knows_its_own_processes() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        assert {os.getpid(), child.pid} <= set(children())
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(("start_s", "expected"), [(1, 1.0), (9, None)])
def test_what_others_used_in_an_interval(start_s: int, expected: float | None) -> None:
    seen = [(2 * S, 0.5), (3 * S, 1.5), (4 * S, 9.0)]
    assert mean(seen, start_s * S, (start_s + 1) * S) == expected


def test_false_alarms_beside_busy_neighbours_are_counted_apart() -> None:
    campaign, _ = make_campaign(make_step())
    go(campaign, 100, 112)
    campaign.foreign = [(round((112 + n) * S), 0.9) for n in range(4)]
    go(campaign, 112, 114, changed_alerts=(make_alert(112.5, 113),))
    figures = campaign.result().score
    assert (figures.false_alarms, figures.false_beside_others) == (1, 1)
