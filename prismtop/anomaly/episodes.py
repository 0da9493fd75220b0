"""Alerts against ground truth: hits, misses, false alarms, delays, and whether the cause was named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from prismtop.anomaly.labels import Label
from prismtop.anomaly.machine_speed import Speeds, explained, slow_share
from prismtop.anomaly.neighbours import mean
from prismtop.model import Alert

GUARD_NS = 2 * 10**9
"""After the end of an injection in which an alert still counts as its: queues empty, detectors close late."""
FOREIGN_CORES = 0.25
"""Cores' worth of other processes from which an alert may be about them."""
_TOP = 3


@dataclass(frozen=True)
class Episode:
    """One injection and what was said about it.

    Attributes:
        label: the truth.
        alerts: those that overlap it.
        delay_ns: from its start to the first of them; None without one.
        delay_batches: batches that ended in that time, the one that raised it included.
        causes: ids of the best causes of the alert with the largest excess, best first.
        clouded: an alert was open already when it began, so nothing can be said about it.
        clouded_by: these alerts.
    """

    label: Label
    alerts: tuple[Alert, ...]
    delay_ns: int | None
    delay_batches: int | None
    causes: tuple[str, ...]
    clouded: bool = False
    clouded_by: tuple[Alert, ...] = ()

    @property
    def counts(self) -> bool:
        """A fault that was seen to have an effect, and began in quiet: it must be found."""
        return self.has_effect and not self.clouded

    @property
    def has_effect(self) -> bool:
        """A fault that was seen to have an effect."""
        effect = self.label.effect
        return self.label.kind == "fault" and effect is not None and effect.has_one is True

    @property
    def found(self) -> bool:
        """Whether there was an alert."""
        return bool(self.alerts)

    def named(self, top: int) -> bool:
        """Whether one of the best `top` causes is a right one."""
        return any(cause in self.label.causes for cause in self.causes[:top])


@dataclass(frozen=True)
class CampaignScore:
    """Figures of a campaign; None where there is nothing to divide by.

    Attributes:
        faults, counted: injected; of these with an effect of at least 10 % beyond the noise, begun while no
            alert was open.
        clouded: faults that began while one was.
        clouded_counted: those of them with such an effect.
        clouded_hits: of these, with an alert of their own all the same.
        clouded_top1: share of these hits whose best cause is a right one.
        hits: counted faults with an alert.
        recall: of the counted.
        false_alarms: alerts that overlap neither fault nor control, and are not `unlabelled`.
        unlabelled: alerts that opened while something acted without ground truth: an injection that failed
            afterwards, or one that had not taken effect yet.
        false_beside_others: those of them in whose time others used `FOREIGN_CORES` or more; None when that
            was not measured.
        false_of_machine: false alarms in whose time the engine's core was slower by about as much, so that
            they are true and about the machine; None when its speed was not measured. They are counted in
            `false_alarms` all the same, and so for the two below.
        control_of_machine: the same of the alerts in controls.
        clouded_of_machine: the same of the clouded faults: of all alerts that were open.
        machine_fall_pct: by how much it was slower, median over these alerts.
        machine_slow_share: share of all readings that are at least a tenth below its usual speed: by so much
            chance an alert coincides with one.
        foreign_cores: cores that others used, on average over the interval; None when it was not measured.
        quiet_s: seconds outside of injections and their guard bands.
        false_per_h: of these seconds.
        controls, control_alerts: workload shifts, and alerts raised in them.
        delay_ms, delay_batches: medians over the hits.
        cause_top1, cause_top3: shares of the hits.
        rollbacks_ok: injections that were undone.
    """

    faults: int
    counted: int
    clouded: int
    clouded_counted: int
    clouded_hits: int
    clouded_top1: float | None
    hits: int
    recall: float | None
    false_alarms: int
    unlabelled: int
    false_beside_others: int | None
    false_of_machine: int | None
    control_of_machine: int | None
    clouded_of_machine: int | None
    machine_fall_pct: float | None
    machine_slow_share: float | None
    foreign_cores: float | None
    quiet_s: float
    false_per_h: float | None
    controls: int
    control_alerts: int
    delay_ms: float | None
    delay_batches: float | None
    cause_top1: float | None
    cause_top3: float | None
    rollbacks_ok: int


def match(labels: Sequence[Label], alerts: Sequence[Alert], ends_ns: Sequence[int]) -> tuple[Episode, ...]:
    """Put alerts to the injections that they overlap; `ends_ns` are the ends of all batches, ascending."""
    return tuple(_episode(label, alerts, ends_ns) for label in labels)


def score(
    episodes: Sequence[Episode],
    alerts: Sequence[Alert],
    start_ns: int,
    end_ns: int,
    foreign: Sequence[tuple[int, float]] = (),
    speeds: Speeds = (),
    unlabelled: Sequence[tuple[int, int]] = (),
) -> CampaignScore:
    """The figures over an interval of watching; alerts that opened before it are left out.

    Args:
        foreign: (end in ns, cores that other processes used) of each second.
        speeds: of the engine's core.
        unlabelled: from and to, where something acted without ground truth.
    """
    matched = {alert.id for episode in episodes for alert in episode.alerts}
    unmatched = [a for a in alerts if a.id not in matched and start_ns <= a.opened_ns <= end_ns]
    false = [a for a in unmatched if not any(first <= a.opened_ns < last for first, last in unlabelled)]
    counted = [episode for episode in episodes if episode.counts]
    hits = [episode for episode in counted if episode.found]
    controls = [episode for episode in episodes if episode.label.kind == "control"]
    of_faults = {a.id for e in episodes if e.label.kind == "fault" for a in e.alerts}
    in_controls = {a.id for e in controls for a in e.alerts} - of_faults
    falls = {a.id: fallen for a in alerts if (fallen := explained(a, speeds, end_ns)) is not None}
    clouded = [e for e in episodes if e.clouded and e.label.kind == "fault"]
    clouded_hits = [e for e in clouded if e.has_effect and e.found]
    of_machine = {a.id for a in false} | in_controls | {a.id for e in clouded for a in e.clouded_by}
    of_machine &= falls.keys()
    busy = sum(_until(e.label, end_ns) - max(start_ns, e.label.start_ns) for e in episodes)
    busy += sum(min(last, end_ns) - max(start_ns, first) for first, last in unlabelled)
    quiet_s = max(0.0, (end_ns - start_ns - busy) * 1e-9)
    return CampaignScore(
        faults=len(episodes) - len(controls),
        counted=len(counted),
        clouded=len(clouded),
        clouded_counted=sum(e.has_effect for e in clouded),
        clouded_hits=len(clouded_hits),
        clouded_top1=_share(sum(e.named(1) for e in clouded_hits), len(clouded_hits)),
        hits=len(hits),
        recall=_share(len(hits), len(counted)),
        false_alarms=len(false),
        unlabelled=len(unmatched) - len(false),
        false_beside_others=sum(_beside_others(a, foreign) for a in false) if foreign else None,
        false_of_machine=sum(a.id in falls for a in false) if speeds else None,
        control_of_machine=len(in_controls & falls.keys()) if speeds else None,
        clouded_of_machine=(
            sum(all(a.id in falls for a in e.clouded_by) for e in clouded) if speeds else None
        ),
        machine_fall_pct=_median([100 * falls[id_] for id_ in of_machine]),
        machine_slow_share=slow_share([one for one in speeds if start_ns <= one[0] <= end_ns]),
        foreign_cores=mean(foreign, start_ns, end_ns),
        quiet_s=quiet_s,
        false_per_h=3600 * len(false) / quiet_s if quiet_s > 0 else None,
        controls=len(controls),
        control_alerts=len(in_controls),
        delay_ms=_median([e.delay_ns / 1e6 for e in hits if e.delay_ns is not None]),
        delay_batches=_median([e.delay_batches for e in hits if e.delay_batches is not None]),
        cause_top1=_share(sum(e.named(1) for e in hits), len(hits)),
        cause_top3=_share(sum(e.named(_TOP) for e in hits), len(hits)),
        rollbacks_ok=sum(e.label.rollback_ok for e in episodes),
    )


def span(alert: Alert) -> tuple[int, int]:
    """When an alert was true, as far as it says; an open one lasts."""
    return alert.started_ns, alert.closed_ns if alert.closed_ns is not None else 2**63


def _episode(label: Label, alerts: Sequence[Alert], ends_ns: Sequence[int]) -> Episode:
    until = label.end_ns + GUARD_NS
    mine = [a for a in alerts if a.opened_ns >= label.start_ns and span(a)[0] < until and a.opened_ns < until]
    before = tuple(a for a in alerts if a.opened_ns < label.start_ns < span(a)[1])
    if not mine:
        return Episode(label, (), None, None, (), bool(before), before)
    first = min(alert.opened_ns for alert in mine)
    batches = max(1, sum(1 for end in ends_ns if label.start_ns < end <= first))
    best = max((a for a in mine if a.causes), key=lambda a: a.excess_ns, default=None)
    causes = tuple(cause.id for cause in best.causes[:_TOP]) if best else ()
    return Episode(label, tuple(mine), first - label.start_ns, batches, causes, bool(before), before)


def _beside_others(alert: Alert, foreign: Sequence[tuple[int, float]]) -> bool:
    return (mean(foreign, alert.started_ns, alert.opened_ns) or 0.0) >= FOREIGN_CORES


def _until(label: Label, end_ns: int) -> int:
    return min(label.end_ns + GUARD_NS, end_ns)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None
