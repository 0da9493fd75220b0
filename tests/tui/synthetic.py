"""Frames without an engine: a deterministic stream of batches, with no thread and no clock of its own."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

from prismtop.model import (
    AttachState,
    Batch,
    Clock,
    EngineMetrics,
    Frame,
    Group,
    HookStatus,
    Mode,
    Percentiles,
    ProbeCost,
    ProcessId,
    Stage,
    Target,
    Throughput,
    Workload,
)

MS = 1_000_000
START_NS = 50_000 * 1_000_000_000
WALL_MINUS_MONO_NS = 1_764_238_000 * 10**9 - START_NS

HOOKS = (
    ("schedule", "schedule"),
    ("execute", "launch"),
    ("prepare_inputs", "prepare"),
    ("sample", "sample"),
    ("get_output", "wait"),
    ("update", "post"),
    ("add_request", ""),
)
HOOK_OF = {stage: hook for hook, stage in HOOKS}
MISSING = "not in this version: vllm.v1.sample.sampler.Sampler.forward"
DECODE = {"schedule": 0.21, "prepare": 0.64, "launch": 1.8, "wait": 5.0, "post": 0.42}
PREFILL = {"schedule": 0.34, "prepare": 1.3, "launch": 2.4, "wait": 27.0, "post": 0.5}


def group(title: str = "VLLM::EngineCore", model: str = "Qwen/Qwen3-32B") -> Group:
    """An API server with an engine core."""
    python = (3, 12, 1)
    front = Target(
        id=ProcessId(4100, 9000),
        engine="vllm",
        role="frontend",
        probed=False,
        title="/usr/bin/python3 /usr/bin/vllm serve Qwen/Qwen3-32B",
        version="0.33.0",
        model=model,
        ports=(8000,),
        python=python,
        user="serving",
    )
    core = Target(
        id=ProcessId(4242, 9100),
        engine="vllm",
        role="engine_core",
        probed=True,
        title=title,
        version="0.33.0",
        model=model,
        ranks=(("TP", 0),),
        parent=front.id,
        ns_pid=61,
        python=python,
        way_in="ptrace",
        user="serving",
    )
    return Group("vllm", "0.33.0", (front, core))


def percentiles(values: list[float]) -> Percentiles:
    """Nearest-rank percentiles."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return Percentiles(len(ordered), *(ordered[round(last * q)] for q in (0.5, 0.95, 0.99)))


class SyntheticSession:
    """A session whose batches come from a seeded generator.

    Args:
        now_ns: the clock; batches up to that time exist.
        hz: batches per second, about.
        seed: of the generator.
        what: the group shown.
        state: the attach state shown.
    """

    def __init__(
        self,
        now_ns: Callable[[], int] = time.monotonic_ns,
        *,
        hz: float = 118.0,
        seed: int = 7,
        what: Group | None = None,
        state: AttachState = AttachState.LIVE,
        history: int = 512,
    ) -> None:
        self._now_ns = now_ns
        self._step_ns = int(1e9 / hz)
        self._random = random.Random(seed)
        self._group = what or group()
        self._state = state
        self._batches: deque[Batch] = deque(maxlen=history)
        self._next_ns = now_ns()
        self._hooks = tuple(
            HookStatus(
                hook,
                stage,
                4242,
                "monitoring" if hook != "sample" else "",
                "" if hook != "sample" else MISSING,
            )
            for hook, stage in HOOKS
        )
        self._seq = 0
        self._context = 5000
        self.ticks = 0
        self.closed = False
        self._rates: tuple[int, Throughput] | None = None
        self.warnings: tuple[str, ...] = ()
        self.fail: Exception | None = None

    def tick(self) -> Frame:
        """The frame of now."""
        if self.fail is not None:
            raise self.fail
        self.ticks += 1
        now = self._now_ns()
        new = []
        while self._next_ns <= now:
            batch = self._batch()
            new.append(batch)
            self._batches.append(batch)
            self._next_ns += self._step_ns
        warnings, self.warnings = self.warnings, ()
        return Frame(
            time_ns=now,
            clock=Clock(WALL_MINUS_MONO_NS),
            group=self._group,
            state=self._state,
            new_batches=tuple(new),
            batches=tuple(self._batches),
            throughput=self._throughput(now) if self._batches else None,
            hooks=self._hooks,
            costs=(ProbeCost(4242, 118.0, 2300.0, 640.0, 826.0, 0.00053),),
            metrics=EngineMetrics(
                url="http://127.0.0.1:8000/metrics",
                age_s=0.4,
                batch_count=self._seq,
                batches_seen=self._seq,
                values={"vllm:num_requests_running": 16.0, "vllm:num_requests_waiting": 2.0},
            ),
            total_batches=self._seq,
            monitor_cpu=0.012,
            warnings=warnings,
            target_states={member.id: "running" for member in self._group.members},
        )

    def close(self) -> tuple[str, ...]:
        """Nothing was left behind."""
        self.closed = True
        return ()

    def _batch(self) -> Batch:
        prefill = self._seq % 37 == 11
        size = 16 - (self._seq // 61) % 3
        self._context += size
        if self._context > 24_000:
            self._context = 5000
        stages, at = [], self._next_ns
        for name, ms in (PREFILL if prefill else DECODE).items():
            length = int(ms * MS * self._random.uniform(0.93, 1.09))
            stages.append(Stage(name, HOOK_OF[name], at, length, 4242, 1, 0, length))
            at += length + 20_000
        batch = Batch(
            pid=4242,
            engine="vllm",
            seq=self._seq,
            start_ns=self._next_ns,
            duration_ns=at - self._next_ns,
            period_ns=None if self._seq == 0 else at - self._next_ns + 210_000,
            mode=Mode.MIXED if prefill else Mode.DECODE,
            stages=tuple(stages),
            workload=Workload(
                batch_size=size,
                prefill_tokens=1536 if prefill else 0,
                decode_tokens=size - 1 if prefill else size,
                context_tokens=self._context,
                max_context=None,
                cached_tokens=512 if prefill else 0,
                new_requests=1 if prefill else 0,
                running=size,
                waiting=self._seq // 40 % 4,
                kv_usage=0.2 + self._seq % 500 / 2000,
            ),
            rank=0,
        )
        self._seq += 1
        return batch

    def _throughput(self, now: int) -> Throughput:
        # Once a second: percentiles of the source are not what the screen's tests measure.
        if self._rates is None or now - self._rates[0] >= 1000 * MS:
            self._rates = (now, self._measure())
        return self._rates[1]

    def _measure(self) -> Throughput:
        recent = list(self._batches)[-128:]
        steps: dict[str, list[float]] = {}
        stages: dict[tuple[str, str], list[float]] = {}
        for batch in recent:
            steps.setdefault(batch.mode.value, []).append(batch.duration_ns / MS)
            for name, ns in batch.stage_ns().items():
                stages.setdefault((batch.mode.value, name), []).append(ns / MS)
        tokens = sum(batch.workload.tokens or 0 for batch in recent)
        decode = sum(batch.workload.decode_tokens or 0 for batch in recent)
        span = len(recent) * self._step_ns / 1e9
        return Throughput(
            window_s=10.0,
            batches_per_s=1e9 / self._step_ns,
            tokens_per_s=tokens / span,
            decode_tokens_per_s=decode / span,
            requests_per_s=3.1,
            ttft_ms=Percentiles(31, 212.0, 412.0, 530.0),
            itl_ms=Percentiles(1890, 8.4, 9.1, 31.0),
            busy=0.97,
            step_ms={mode: percentiles(values) for mode, values in steps.items()},
            stage_ms={key: percentiles(values) for key, values in stages.items()},
        )
