"""What a slower machine does to a campaign: it waits, and tells alerts about the machine apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prismtop.anomaly.campaign import PATIENCE_S, Campaign, Result
from prismtop.anomaly.episodes import CampaignScore, match, score
from prismtop.anomaly.machine_speed import FEWEST, explained, fall, is_normal, slow_share
from prismtop.commands.campaign_report import as_object, table
from prismtop.model import Alert, Counter
from tests.unit.test_anomaly_campaign import ended, frame_at, go, make_campaign, make_step
from tests.unit.test_anomaly_episodes import S, make_alert, make_label

SLOW_S = (100, 110)
"""From when to when the machine of these tests runs at 60 %."""


def speeds_of(*slow: tuple[float, float], level: float = 0.6, until_s: int = 200) -> list[tuple[int, float]]:
    """Two readings a second at full speed, except within these intervals."""
    made = []
    for half in range(2 * until_s):
        at = half / 2
        made.append((round(at * S), level if any(a <= at < b for a, b in slow) else 1.0))
    return made


def slowdown(opened_s: float, closed_s: float | None, pct: float | None = 60.0, number: int = 1) -> Alert:
    return make_alert(number, opened_s, closed_s, excess_pct=pct)


def test_the_fall_is_against_the_usual_speed() -> None:
    assert fall(speeds_of(SLOW_S), 102 * S, 108 * S) == pytest.approx(0.4)
    assert fall(speeds_of(SLOW_S), 50 * S, 60 * S) == pytest.approx(0.0)


def test_without_readings_of_that_time_nothing_is_known() -> None:
    assert fall(speeds_of(SLOW_S), 900 * S, 910 * S) is None
    assert fall(speeds_of(SLOW_S)[: FEWEST - 1], 1 * S, 5 * S) is None


def test_it_is_told_how_often_an_alert_coincides_by_chance() -> None:
    assert slow_share(speeds_of((100, 110), (150, 160))) == pytest.approx(20 / 200)
    assert slow_share(()) is None


def test_an_alert_beside_a_fall_of_its_size_is_about_the_machine() -> None:
    assert explained(slowdown(102, 108), speeds_of(SLOW_S), 200 * S) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("alert", "level"),
    [
        pytest.param(slowdown(52, 58), 0.6, id="at another time"),
        pytest.param(slowdown(102, 108, 400.0), 0.6, id="about much more than the core lost"),
        pytest.param(slowdown(102, 108, 8.0), 0.95, id="beside a fall that is none"),
        pytest.param(slowdown(102, 108, None), 0.6, id="a stall, which has no size"),
    ],
)
def test_any_other_alert_is_not(alert: Alert, level: float) -> None:
    assert explained(alert, speeds_of(SLOW_S, level=level), 200 * S) is None


def test_an_alert_that_is_open_lasts_until_the_end_of_watching() -> None:
    assert explained(slowdown(102, None), speeds_of(SLOW_S), 106 * S) is not None
    assert explained(slowdown(102, None), speeds_of(SLOW_S), 190 * S) is None


def test_the_speed_is_normal_when_it_was_so_for_two_seconds_or_is_not_known() -> None:
    speeds = speeds_of(SLOW_S)
    assert is_normal(speeds, 90 * S)
    assert not is_normal(speeds, 105 * S)
    just_over = round(110.5 * S)
    assert not is_normal([one for one in speeds if one[0] <= just_over], just_over)
    assert is_normal((), 105 * S)


def scored(alerts: list[Alert], *labels_s: tuple[float, float], kind: str = "fault") -> CampaignScore:
    labels = [make_label(start, end, kind=kind) for start, end in labels_s]
    return score(match(labels, alerts, []), alerts, 0, 200 * S, speeds=speeds_of(SLOW_S))


def test_false_alarms_about_the_machine_are_counted_apart_and_stay_false() -> None:
    figures = scored([slowdown(102, 108), slowdown(52, 58, number=2)])
    assert (figures.false_alarms, figures.false_of_machine) == (2, 1)
    assert figures.machine_fall_pct == pytest.approx(40)


def test_alerts_in_controls_about_the_machine_are_counted_apart() -> None:
    figures = scored([slowdown(102, 108)], (101, 107), kind="control")
    assert (figures.control_alerts, figures.control_of_machine) == (1, 1)


def test_faults_begun_under_alerts_about_the_machine_are_counted_apart() -> None:
    beside = slowdown(103, 112, None, 2)
    assert scored([slowdown(102, 108)], (105, 109)).clouded_of_machine == 1
    both = scored([slowdown(102, 108), beside], (105, 109))
    assert (both.clouded, both.clouded_of_machine) == (1, 0)


def test_a_fault_that_was_found_is_not_explained_away() -> None:
    figures = scored([slowdown(105.5, 108)], (105, 109))
    assert (figures.hits, figures.counted, figures.false_of_machine) == (1, 1, 0)
    assert figures.machine_fall_pct is None


def test_without_a_speed_nothing_is_told_apart() -> None:
    alerts = [slowdown(102, 108)]
    figures = score(match([], alerts, []), alerts, 0, 200 * S)
    assert (figures.false_alarms, figures.false_of_machine) == (1, None)


def go_at(campaign: Campaign, start_s: float, end_s: float, speed: float | None) -> None:
    """Frames every half second, each with a reading of the speed."""
    at = start_s
    while at < end_s:
        reading = Counter("host_cpu_speed_ratio", "host", "ratio", round(at * S), speed)
        campaign.take(frame_at(at, new_counters=(reading,)))
        at += 0.5


def test_a_fault_waits_for_the_usual_speed() -> None:
    campaign, injector = make_campaign(make_step())
    go_at(campaign, 100, 112, 1.0)  # learnt at 110.5; the gap is 5 s
    go_at(campaign, 112, 120, 0.6)
    assert injector.orders == []
    go_at(campaign, 120, 123.5, 1.0)
    assert len(injector.orders) == 1
    assert campaign.result().impatient == 0


def test_a_wait_that_ran_out_is_told() -> None:
    campaign, injector = make_campaign(make_step())
    go_at(campaign, 100, 112, 1.0)
    go_at(campaign, 112, 117 + PATIENCE_S, 0.6)
    assert len(injector.orders) == 1
    assert campaign.result().impatient == 1


def test_a_machine_whose_speed_is_not_known_is_not_waited_for() -> None:
    campaign, injector = make_campaign(make_step())
    go_at(campaign, 100, 117, None)
    assert len(injector.orders) == 1


def watched() -> Result:
    campaign, injector = make_campaign(make_step())
    go_at(campaign, 100, 117, 1.0)
    injector.said = [ended(116, 118)]
    go(campaign, 118, 120)
    go_at(campaign, 122, 130, 0.6)
    alert = replace(slowdown(123, 128), pid=4242)
    campaign.take(frame_at(130, changed_alerts=(alert,)))
    return campaign.result()


def test_the_report_says_both_numbers() -> None:
    text = "\n".join(table(watched(), (), 1))
    assert "false alarms 1 in" in text
    assert "machine slowdowns, not ours: 1 of these 1 false alarms" in text
    assert "core speed fell by 40 %" in text
    assert "slower in 55 % of all readings" in text  # 16 of the 29 since it had learnt
    assert "false alarms without them: 0 (0.0 an hour)" in text
    assert "0 of 1 episodes began although an alert was open or the machine was slow" in text


def test_the_object_says_both_numbers() -> None:
    made = as_object(watched(), (), 1, 1)
    figures = made["score"]
    assert isinstance(figures, dict)
    assert (figures["false_alarms"], figures["false_of_machine"], made["waits_run_out"]) == (1, 1, 0)


def test_a_report_without_a_speed_says_so() -> None:
    campaign, _ = make_campaign(make_step())
    go(campaign, 100, 117)
    text = "\n".join(table(campaign.result(), (), 1))
    assert "machine slowdowns, not ours: n/a" in text
