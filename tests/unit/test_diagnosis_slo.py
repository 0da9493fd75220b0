"""Alerts about requests: they name no batches, so what happened in their time is what they are about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from prismtop.diagnosis.collect import gather
from prismtop.diagnosis.evidence import Point
from prismtop.diagnosis.observations import observe
from prismtop.diagnosis.ranking import NAMED
from prismtop.model import Alert, Batch, Frame
from tests.factories import make_batch
from tests.unit.diagnosis_world import ENGINE_FAULTS, SECOND, START, Fault, World, make_ranks


class Missed(World):
    """Requests miss their targets from its fault on; when the alert opens, batches are as ever again."""

    pids: tuple[int, ...] = (4242,)

    def frames(self) -> Iterator[Frame]:
        opened_ns = self.fault_ns + 11 * SECOND
        for frame in super().frames():
            alerts = [self._slo(one, opened_ns) for one in frame.alerts if frame.time_ns >= opened_ns]
            changed = tuple(self._slo(one, opened_ns) for one in frame.changed_alerts if one.closed_ns)
            if alerts and frame.time_ns < opened_ns + SECOND // 5:
                changed = tuple(alerts)
            yield replace(frame, alerts=tuple(alerts), changed_alerts=changed)

    def _slo(self, alert: Alert, opened_ns: int) -> Alert:
        seq = 3 * (opened_ns - START) // (SECOND // 5)
        return replace(alert, kind="slo", opened_ns=opened_ns, first_seq=seq, last_seq=seq)

    def _batch(self, at: int, fault: Fault) -> Batch:
        fault = fault if at < self.fault_ns + 10 * SECOND else Fault()
        return replace(super()._batch(at, fault), pid=self.pids[self._seq % len(self.pids)])


class MissedByReplicas(Missed):
    """The same of an engine with two replicas."""

    pids = (4242, 5001)


@pytest.mark.parametrize("world", [Missed, MissedByReplicas])
@pytest.mark.parametrize("cause", ENGINE_FAULTS)
def test_what_happened_in_the_time_of_missed_requests_is_named(cause: str, world: type[Missed]) -> None:
    usual = Fault(more={"ranks": make_ranks(2.0, 2.1, 1.9, 2.0)}) if cause == "straggler_rank" else Fault()
    causes = world(ENGINE_FAULTS[cause], usual_batch=usual).run()
    assert causes[0].id == cause, [(c.id, c.score, c.evidence) for c in causes]
    assert causes[0].score >= NAMED


def kv_usage(level: float, count: int) -> list[Point]:
    return [(at * SECOND, level + 0.001 * (at % 3)) for at in range(count)]


@pytest.mark.parametrize(
    ("metrics", "batches", "expected"),
    [
        pytest.param(20, (20, 1), 0.99, id="one batch of the incident"),
        pytest.param(20, (1, 20), 0.99, id="one batch of the baseline"),
        pytest.param(20, (20, 20), 0.5, id="many batches are exact"),
        pytest.param(1, (20, 1), 0.5, id="as many batches as readings"),
        pytest.param(0, (20, 1), 0.5, id="no readings"),
    ],
)
def test_readings_of_the_engine_s_metrics_give_way_to_batches_that_say_as_much(
    metrics: int, batches: tuple[int, int], expected: float
) -> None:
    seen = observe(make_batch())
    work = replace(seen.workload, kv_usage=0.5)
    windows: list[Sequence[object]] = [
        [seen._replace(seq=at, time_ns=at * SECOND, workload=work) for at in range(count)]
        for count in batches
    ]
    counters = {("workload.kv_usage", "metrics"): (kv_usage(0.3, 20), kv_usage(0.99, metrics), None)}
    found = gather(counters, (windows[0], windows[1]))  # type: ignore[arg-type]
    (effect,) = found.effects["workload.kv_usage"]
    assert effect.after == pytest.approx(expected, abs=0.01)
