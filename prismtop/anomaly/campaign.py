"""The course of a campaign over a session that somebody ticks: learn, inject, wait, inject, score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from prismtop.anomaly.effect import Measure
from prismtop.anomaly.episodes import GUARD_NS, CampaignScore, Episode, match, score
from prismtop.anomaly.injector_process import InjectorProcess
from prismtop.anomaly.labels import Label
from prismtop.anomaly.machine_speed import COUNTER, is_normal
from prismtop.anomaly.scenario import Request
from prismtop.anomaly.scenario_file import Step
from prismtop.diagnosis.collect import WANTED
from prismtop.model import Alert, Batch, Counter, Frame, ModelState

SETTLE_NS = 3 * 10**9
"""After an injection in which batches do not count as undisturbed."""
TAIL_S = 5.0
"""Watched after the last injection: late alerts, and causes that wait for counters."""
PATIENCE_S = 20.0
"""An injection waits this much longer while an alert is open or the machine is slow. No longer, and it is
told how often it ran out: closing late may be a fault of the detector, which waiting would hide."""
SECOND = 10**9


class Phase(str, Enum):
    """Where a campaign stands."""

    LEARNING = "learning"
    GAP = "gap"
    INJECTING = "injecting"
    TAIL = "tail"
    DONE = "done"


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        episodes: every injection with its alerts.
        score: the figures.
        batches: all that were seen, in order.
        alerts: of the whole session, as they were last.
        counters: readings that causes rest on.
        failures: injections that could not be done, in words.
        learnt: the model was ready before the first injection.
        impatient: injections that began although an alert was open or the machine was slow.
    """

    episodes: tuple[Episode, ...]
    score: CampaignScore
    batches: tuple[Batch, ...]
    alerts: tuple[Alert, ...]
    counters: tuple[Counter, ...]
    failures: tuple[str, ...]
    learnt: bool
    impatient: int = 0


class Campaign:
    """Decides at every frame what to do next. Its `phase` is DONE at the end.

    Args:
        steps: in order.
        base: the target and what is agreed to; steps fill in the rest.
        injector: does them.
        warmup_s: seconds to learn, at most.
    """

    def __init__(
        self, steps: tuple[Step, ...], base: Request, injector: InjectorProcess, warmup_s: float
    ) -> None:
        self.phase = Phase.LEARNING
        self.batches: list[Batch] = []
        self.alerts: dict[int, Alert] = {}
        self.counters: list[Counter] = []
        self.labels: list[Label] = []
        self.failures: list[str] = []
        self.learnt = False
        self.done = 0
        self.impatient = 0
        self.speeds: list[tuple[int, float]] = []
        self.foreign: list[tuple[int, float]] = []
        """Cores that other processes used, each second; see `Neighbours`."""
        self._steps = steps
        self._base = base
        self._injector = injector
        self._warmup_ns = round(warmup_s * SECOND)
        self._since_ns: int | None = None
        self._watched_ns = 0
        self._due_ns = 0
        self._began_ns = 0
        self._acting_ns: int | None = None
        self._disturbed: list[tuple[int, int]] = []
        self._unlabelled: list[tuple[int, int]] = []
        self._end_ns = 0

    @property
    def current(self) -> Step | None:
        """The step that runs or comes next."""
        return self._steps[self.done] if self.done < len(self._steps) else None

    def take(self, frame: Frame) -> None:
        """Keep what is new and act when it is time. Raises UnavailableError when the injector ended."""
        now = frame.time_ns
        self._since_ns = self._since_ns or now
        self.batches.extend(frame.new_batches)
        self.counters.extend(reading for reading in frame.new_counters if reading.name in WANTED)
        self.speeds.extend(
            (reading.time_ns, reading.value)
            for reading in frame.new_counters
            if reading.name == COUNTER and reading.value is not None
        )
        self.alerts.update({alert.id: alert for alert in frame.changed_alerts})
        self._end_ns = now
        if self.phase is Phase.LEARNING:
            ready = frame.model is not None and frame.model.state is ModelState.READY
            if (
                ready and now - self._since_ns > self._warmup_ns // 2
            ) or now - self._since_ns > self._warmup_ns:
                self.learnt, self._watched_ns = ready, now
                self._pause(now)
        elif self.phase is Phase.GAP and now >= self._due_ns:
            quiet = self._is_quiet(now)
            if quiet or now >= self._due_ns + PATIENCE_S * SECOND:
                self.impatient += not quiet
                self._begin(now)
        elif self.phase is Phase.INJECTING:
            self._follow(now)
        elif self.phase is Phase.TAIL and now >= self._due_ns:
            self.phase = Phase.DONE

    def _is_quiet(self, now_ns: int) -> bool:
        """No alert is open and the machine runs at its usual speed, so that what comes is the fault's."""
        is_open = any(alert.closed_ns is None for alert in self.alerts.values())
        return not is_open and is_normal(self.speeds, now_ns)

    def _pause(self, now_ns: int) -> None:
        step = self.current
        self.phase = Phase.GAP if step else Phase.TAIL
        self._due_ns = now_ns + round((step.gap_s if step else TAIL_S) * SECOND)

    def _begin(self, now_ns: int) -> None:
        self._began_ns, self._acting_ns = now_ns, None
        step = self.current
        assert step is not None
        self._injector.order(step.scenario, self._order(step))
        self.phase = Phase.INJECTING

    def _order(self, step: Step) -> Request:
        return replace(
            self._base,
            duration_s=step.duration_s,
            intensity=step.intensity,
            ramp_s=step.ramp_s,
            seed=step.seed,
        )

    def _follow(self, now_ns: int) -> None:
        step = self.current
        assert step is not None
        for said in self._injector.events():
            if said["event"] == "acting":
                self._acting_ns = said["at_ns"]
                continue
            if said["event"] == "failed":
                self.failures.append(f"{step.scenario.id}: {said['reason']}")
                if self._acting_ns is not None:
                    self._disturbed.append((self._acting_ns, now_ns))
                    self._unlabelled.append((self._acting_ns, now_ns + GUARD_NS))
            elif said["event"] == "ended":
                label = self._label(step, said)
                self.labels.append(label)
                acting_ns = label.start_ns if self._acting_ns is None else self._acting_ns
                self._disturbed.append((acting_ns, label.end_ns))
                self._unlabelled.append((acting_ns, label.start_ns))
                self.failures.extend(f"{step.scenario.id}: not undone: {text}" for text in said["failed"])
            else:
                continue
            self.done += 1
            self._pause(now_ns)

    def _label(self, step: Step, said: dict[str, object]) -> Label:
        def number(name: str) -> int:
            value = said[name]
            assert isinstance(value, int)
            return value

        return Label(
            scenario=step.scenario.id,
            kind="control" if step.scenario.control else "fault",
            pid=self._base.pid,
            intensity=step.intensity,
            seed=step.seed,
            ramp_s=step.ramp_s,
            start_ns=number("start_ns"),
            end_ns=number("end_ns"),
            planned_end_ns=number("planned_end_ns"),
            rollback_ok=bool(said["rollback_ok"]),
            causes=step.scenario.causes,
        )

    def result(self) -> Result:
        """The score of what was done so far. An injection that is under way is left out: it has no label."""
        end = self._began_ns if self.phase is Phase.INJECTING else self._end_ns
        watched = self._watched_ns or end
        quiet = [b for b in self.batches if watched <= b.start_ns < end and not self._is_disturbed(b)]
        effects = Measure(self.batches, quiet)
        labels = [replace(label, effect=effects.of(label.start_ns, label.end_ns)) for label in self.labels]
        alerts = tuple(self.alerts.values())
        ends = [batch.end_ns for batch in self.batches]
        episodes = match(labels, alerts, ends)
        figures = score(episodes, alerts, watched, end, self.foreign, self.speeds, self._unlabelled)
        return Result(
            episodes,
            figures,
            tuple(self.batches),
            alerts,
            tuple(sorted(self.counters, key=lambda reading: reading.time_ns)),
            tuple(self.failures),
            self.learnt,
            self.impatient,
        )

    def _is_disturbed(self, batch: Batch) -> bool:
        return any(
            batch.start_ns < last + SETTLE_NS and batch.end_ns > first for first, last in self._disturbed
        )
