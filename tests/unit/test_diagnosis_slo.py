"""Alerts about requests: they name no batches, so what happened in their time is what they are about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from prismtop.diagnosis.ranking import NAMED
from prismtop.model import Alert, Batch, Frame, Mode
from tests.unit.diagnosis_world import SECOND, START, Fault, World, make_ranks

FAULTS = {
    "kv_cache_full": Fault(load={"kv_usage": 0.99, "waiting": 12}),
    "straggler_rank": Fault(stages={"wait": 9.0}, more={"ranks": make_ranks(2.0, 2.1, 6.0, 1.9)}),
    "prefill_interference": Fault(
        stages={"launch": 6.0},
        load={"prefill_tokens": 512, "new_requests": 2, "cached_tokens": 0},
        more={"mode": Mode.MIXED},
        expected=True,
    ),
}


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
@pytest.mark.parametrize("cause", FAULTS)
def test_what_happened_in_the_time_of_missed_requests_is_named(cause: str, world: type[Missed]) -> None:
    usual = Fault(more={"ranks": make_ranks(2.0, 2.1, 1.9, 2.0)}) if cause == "straggler_rank" else Fault()
    causes = world(FAULTS[cause], usual_batch=usual).run()
    assert causes[0].id == cause, [(c.id, c.score, c.evidence) for c in causes]
    assert causes[0].score >= NAMED
