"""A simulated session for tests of diagnosis: frames with batches, counters and one alert."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prismtop.diagnosis.live import LiveDiagnoser
from prismtop.model import (
    Alert,
    Batch,
    Cause,
    Counter,
    EngineMetrics,
    Frame,
    Group,
    Mode,
    ModelCard,
    ModelState,
    Prediction,
    RankTime,
    Severity,
    Workload,
)
from tests.factories import MS, make_batch, make_frame, make_group, make_stages, make_target

SECOND = 1_000_000_000
START = 1000 * SECOND
STEP = 200 * MS
USUAL_MS = {"schedule": 0.2, "prepare": 0.6, "launch": 1.8, "wait": 5.0, "post": 0.4}
USUAL_LOAD = {
    "batch_size": 16, "prefill_tokens": 0, "decode_tokens": 16, "context_tokens": 5353,
    "running": 16, "waiting": 0, "kv_usage": 0.21, "preempted": 0, "new_requests": 0,
}  # fmt: skip
HOST_COUNTERS = {
    ("host_cpu_busy_ratio", "host"): 0.2,
    ("host_cpu_frequency_mhz", "host"): 3000.0,
    ("host_cpu_speed_ratio", "host"): 0.97,
    ("host_cpu_steal_ratio", "host"): 0.0,
    ("thread_runq_wait_ratio", "pid 4242 tid 4242"): 0.005,
    ("thread_runq_delay_seconds", "pid 4242 tid 4242"): 5e-6,
    ("thread_voluntary_switches_per_s", "pid 4242 tid 4242"): 300.0,
    ("thread_involuntary_switches_per_s", "pid 4242 tid 4242"): 5.0,
    ("thread_major_faults_per_s", "pid 4242 tid 4242"): 0.0,
    ("process_cpu_ratio", "pid 4242"): 1.0,
    ("process_cpu_ratio", "pid 77"): 0.2,
    ("process_cpu_ratio", "pid 78"): 0.2,
    ("cgroup_throttled_ratio", "pid 4242"): 0.0,
    ("tcp_retransmits_per_s", "host"): 0.1,
    ("net_drops_per_s", "eth0"): 0.0,
}
GPU_COUNTERS = {
    ("gpu_sm_clock_mhz", "gpu 0"): 1980.0,
    ("gpu_busy_ratio", "gpu 0"): 0.6,
    ("gpu_clock_limits_bitmask", "gpu 0"): 0.0,
    ("gpu_memory_used_bytes", "gpu 0"): 70e9,
    ("gpu_memory_total_bytes", "gpu 0"): 80e9,
    ("gpu_process_memory_bytes", "gpu 0 pid 4242"): 69e9,
    ("gpu_process_busy_ratio", "gpu 0 pid 4242"): 0.6,
    ("gpu_others_memory_bytes", "gpu 0"): 0.0,
    ("gpu_others_count", "gpu 0"): 0.0,
    ("gpu_pcie_receive_bytes_per_s", "gpu 0"): 2e7,
    ("gpu_pcie_transmit_bytes_per_s", "gpu 0"): 1e7,
    ("gpu_nvlink_receive_bytes_per_s", "gpu 0"): 1e9,
}
NOISE = 0.01


@dataclass(frozen=True)
class Fault:
    """What changes while it lasts.

    Attributes:
        stages: milliseconds of stages instead of the usual ones.
        counters: values instead of the usual ones.
        load: workload fields instead of the usual ones.
        more: fields of the batch (`mode`, `idle_ns`, `ranks`, ...).
        metrics: the engine's own metrics, by name.
        stale: whether the latency model relearns.
        expected: whether predictions know of it: a change of the workload is predicted, a fault is not.
    """

    stages: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[tuple[str, str], float] = field(default_factory=dict)
    load: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    stale: bool = False
    expected: bool = False


NOTHING = Fault()


def world_group() -> Group:
    """An engine core with a frontend and a tokenizer."""
    return make_group(
        make_target(4242),
        make_target(77, role="frontend", probed=False),
        make_target(78, role="tokenizer_worker", probed=False),
    )


@dataclass
class World:
    """Seconds of quiet, then a fault for `fault_s`, then quiet again; the alert opens 0.3 s after the fault.

    Attributes:
        usual: values of counters before; a counter that is not here is not read at all.
        usual_batch: what is usual of the workload and the batch.
        batches_per_step: per fifth of a second.
    """

    fault: Fault = NOTHING
    usual: Mapping[tuple[str, str], float] = field(default_factory=lambda: {**HOST_COUNTERS, **GPU_COUNTERS})
    usual_batch: Fault = NOTHING
    quiet_s: float = 25.0
    fault_s: float = 15.0
    after_s: float = 5.0
    batches_per_step: int = 3
    predictions: bool = True
    period_s: float = 1.0

    def __post_init__(self) -> None:
        self._random = random.Random(1)
        self._seq = 0
        self.alerts: list[Alert] = []

    @property
    def fault_ns(self) -> int:
        """When the fault begins."""
        return START + int(self.quiet_s * SECOND)

    def run(self, diagnoser: LiveDiagnoser | None = None) -> tuple[Cause, ...]:
        """Causes of the alert as they stood at the end; `alerts` has every answer."""
        diagnoser = diagnoser or LiveDiagnoser()
        known: tuple[Cause, ...] = ()
        for frame in self.frames():
            frame = replace(frame, alerts=tuple(replace(a, causes=known) for a in frame.alerts))
            for alert in diagnoser.take(frame):
                self.alerts.append(alert)
                known = alert.causes
        return known

    def frames(self) -> Iterator[Frame]:
        """Five a second."""
        end_ns = self.fault_ns + int(self.fault_s * SECOND)
        last_ns = end_ns + int(self.after_s * SECOND)
        alert: Alert | None = None
        latest: tuple[Batch, ...] = ()
        next_reading = START
        group = world_group()
        for now in range(START, last_ns, STEP):
            faulty = self.fault_ns <= now < end_ns
            fault = self.fault if faulty else NOTHING
            batches = tuple(self._batch(now + at * 10 * MS, fault) for at in range(self.batches_per_step))
            latest = (*latest, *batches)[-512:]
            readings: tuple[Counter, ...] = ()
            if now >= next_reading:
                next_reading += int(self.period_s * SECOND)
                readings = tuple(self._readings(now, self.fault))
            changed: tuple[Alert, ...] = ()
            if faulty and alert is None and now >= self.fault_ns + 300 * MS:
                alert = self.make_alert(now, self._first_seq)
                changed = (alert,)
            elif faulty and alert is None and now == self.fault_ns:
                self._first_seq = batches[0].seq
            elif alert is not None and faulty:
                alert = replace(alert, last_seq=batches[-1].seq)
            elif alert is not None and alert.closed_ns is None:
                alert = replace(alert, closed_ns=now)
                changed = (alert,)
            yield replace(
                make_frame(0),
                time_ns=now + STEP,
                group=group,
                new_batches=batches,
                batches=latest,
                new_counters=readings,
                alerts=() if alert is None else (alert,),
                changed_alerts=changed,
                metrics=EngineMetrics(values=dict(fault.metrics or self.usual_batch.metrics)),
                model=ModelCard(ModelState.STALE if fault.stale else ModelState.READY),
            )

    def make_alert(self, now: int, first: int) -> Alert:
        """The alert, open."""
        return Alert(
            id=1,
            kind="shift",
            severity=Severity.WARNING,
            opened_ns=now,
            started_ns=self.fault_ns,
            pid=4242,
            first_seq=first,
            last_seq=self._seq - 1,
            batches=3,
            excess_ns=1,
            text="decode is slow",
        )

    def _batch(self, at: int, fault: Fault) -> Batch:
        stages = {**USUAL_MS, **self.usual_batch.stages, **fault.stages}
        noisy = {name: length * self._random.gauss(1, NOISE) for name, length in stages.items()}
        usual_ms = sum({**USUAL_MS, **self.usual_batch.stages}.values())
        expected = sum(stages.values()) if fault.expected else usual_ms
        duration = int(sum(noisy.values()) * MS)
        self._seq += 1
        fields: dict[str, Any] = {
            "duration_ns": duration,
            "period_ns": duration,
            "stages": make_stages(at, **noisy),
            "workload": Workload(**{**USUAL_LOAD, **self.usual_batch.load, **fault.load}),
            "mode": Mode.DECODE,
            "prediction": Prediction(int(expected * MS), 0, 1 << 40) if self.predictions else None,
            **self.usual_batch.more,
            **fault.more,
        }
        return make_batch(self._seq, at, **fields)

    def _readings(self, now: int, fault: Fault) -> Iterator[Counter]:
        period = int(self.period_s * SECOND)
        end_ns = self.fault_ns + int(self.fault_s * SECOND)
        share = max(0, min(now, end_ns) - max(now - period, self.fault_ns)) / period
        for key, usual in self.usual.items():
            name, device = key
            value = usual + share * (fault.counters.get(key, usual) - usual)
            noisy = value * self._random.gauss(1, NOISE) if name != "gpu_clock_limits_bitmask" else value
            yield make_counter(name, noisy, now, device, period_ns=int(self.period_s * SECOND))


def make_counter(name: str, value: float | None, time_ns: int, device: str = "host", **more: Any) -> Counter:
    """One reading."""
    return Counter(name, device, "unit", time_ns, value, **more)


def make_ranks(*pre_collective_ms: float) -> tuple[RankTime, ...]:
    """One entry per rank."""
    return tuple(
        RankTime(rank, 5000 + rank, int(length * MS)) for rank, length in enumerate(pre_collective_ms)
    )


ENGINE_FAULTS = {
    "kv_cache_full": Fault(load={"kv_usage": 0.99, "waiting": 12}),
    "straggler_rank": Fault(stages={"wait": 9.0}, more={"ranks": make_ranks(2.0, 2.1, 6.0, 1.9)}),
    "prefill_interference": Fault(
        stages={"launch": 6.0},
        load={"prefill_tokens": 512, "new_requests": 2, "cached_tokens": 0},
        more={"mode": Mode.MIXED},
        expected=True,
    ),
}
"""What only batches tell of, by its cause."""
