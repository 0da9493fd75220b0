"""Frames without an engine: a deterministic stream of batches, with no thread and no clock of its own."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from prismtop.counter_history import CounterHistory
from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Capture,
    CapturePhase,
    CaptureRequest,
    Cause,
    Clock,
    Counter,
    EngineMetrics,
    Frame,
    Group,
    Headroom,
    HookStatus,
    Interference,
    Layer,
    LayerState,
    Mode,
    ModelCard,
    ModelState,
    Percentiles,
    Prediction,
    ProbeCost,
    ProcessId,
    RankTime,
    Severity,
    SloStatus,
    SloTargets,
    Stage,
    Target,
    Throughput,
    Verdict,
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


def tensor_parallel_group(ranks: int = 4) -> Group:
    """An engine core with a worker per rank."""
    made = group()
    core = made.members[1]
    workers = tuple(
        replace(
            core,
            id=ProcessId(4300 + rank, 9200 + rank),
            role="worker",
            title=f"VLLM::Worker_TP{rank}",
            ranks=(("TP", rank),),
            parent=core.id,
            ns_pid=62 + rank,
        )
        for rank in range(ranks)
    )
    return Group(made.engine, made.version, (*made.members, *workers))


COUNTERS = (
    ("gpu_busy_ratio", "gpu 0", "ratio", 0.97, 0.02, "nvml"),
    ("gpu_sm_clock_mhz", "gpu 0", "mhz", 1980.0, 15.0, "nvml"),
    ("gpu_memory_used_bytes", "gpu 0", "bytes", 71.2e9, 1e8, "nvml"),
    ("gpu_power_watts", "gpu 0", "watts", 612.0, 30.0, "nvml"),
    ("gpu_temperature_celsius", "gpu 0", "celsius", 61.0, 1.0, "nvml"),
    ("gpu_nvlink_receive_bytes_per_s", "gpu 0", "bytes_per_s", 12.1e9, 1e9, "nvml"),
    ("gpu_nvlink_transmit_bytes_per_s", "gpu 0", "bytes_per_s", 12.3e9, 1e9, "nvml"),
    ("gpu_pcie_receive_bytes_per_s", "gpu 0", "bytes_per_s", 4.1e8, 1e8, "nvml"),
    ("process_cpu_ratio", "pid 4242", "ratio", 1.02, 0.05, "procfs"),
    ("thread_runq_wait_ratio", "pid 4242", "ratio", 0.004, 0.003, "schedstat"),
    ("host_cpu_busy_ratio", "host", "ratio", 0.21, 0.1, "procfs"),
    ("host_memory_available_bytes", "host", "bytes", 402e9, 1e9, "procfs"),
    ("net_receive_bytes_per_s", "eth0", "bytes_per_s", 2.1e6, 1e6, "procfs"),
    ("cgroup_throttled_ratio", "host", "ratio", 0.0, 0.0, "cgroup"),
)
MISSING_COUNTERS = (
    ("gpu_tensor_active_ratio", "gpu 0", "ratio", "GPM needs Hopper or newer, this is an A100"),
    ("rdma_receive_bytes_per_s", "mlx5_0", "bytes_per_s", "no RDMA device"),
    ("rdma_transmit_bytes_per_s", "mlx5_0", "bytes_per_s", "no RDMA device"),
)
CAUSES = (
    Cause(
        "gpu_clock_limited",
        0.91,
        "The GPU's clock is held down.",
        ("gpu 0 sm clock fell from 1980 to 1395 MHz 0.4 s before", "limit reason: power cap"),
        ("temperature is 61 C, below any limit",),
        "`nvidia-smi -q -d PERFORMANCE`; compare the power limit with its default.",
    ),
    Cause("cpu_contention", 0.05, "", ("run queue wait of the engine core 0.4 %",)),
)


LAYERS = (
    Layer("batches", LayerState.ON, "the probe"),
    Layer("counters", LayerState.ON, "15 a second"),
    Layer("operators", LayerState.ON, "torch.profiler of PyTorch 2.13.0+cu130", pid=4242),
    Layer("gpu", LayerState.OFF, "CUDA graphs are in use, and before CUDA 12.6 (here 12.4) profiling them "
          "can crash or hang the engine; --gpu force does it all the same", pid=4242),
    Layer("python", LayerState.OFF, "the operators show what runs; --python on adds functions, at a cost",
          pid=4242),
    Layer("gc", LayerState.ON, "the interpreter's own callbacks", pid=4242),
    Layer("scheduler", LayerState.PARTIAL, "schedstat at 50 Hz: tracefs may not be read"),
    Layer("stacks", LayerState.ON, "py-spy at 20 Hz, nonblocking"),
    Layer("uprobes", LayerState.OFF, "not asked for: --uprobes"),
)  # fmt: skip
"""As a capture plans them on a server with an older CUDA."""


def planned_capture(started_ns: int = START_NS) -> Capture:
    """What `d` would begin."""
    return Capture(1, CaptureRequest(), CapturePhase.PREPARING, started_ns, layers=LAYERS,
                   expected_stall_ms=1000.0)  # fmt: skip


def finished_capture(started_ns: int = START_NS) -> Capture:
    """One that ended well."""
    counts = {"batches": 50, "counters": 120, "operators": 48_211, "gc": 3, "scheduler": 412, "stacks": 96}
    return replace(
        planned_capture(started_ns),
        phase=CapturePhase.DONE,
        batches=50,
        layers=tuple(replace(each, events=counts.get(each.name, 0)) for each in LAYERS),
        stall_ms=1042.0,
        before_ms=8.31,
        during_ms=8.87,
        after_ms=8.29,
        residual=False,
        path="/home/ops/.local/state/prismtop/recordings/deepdive-20251127-100641-vllm.json.gz",
        size_bytes=4_812_331,
        clock_error_ns=3_900,
    )


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
        bare: nothing judges the batches, nothing samples counters, there are no objectives.
        ranks: tensor-parallel ranks whose times batches carry; the last one straggles.
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
        bare: bool = False,
        ranks: int = 0,
    ) -> None:
        self._now_ns = now_ns
        self._step_ns = int(1e9 / hz)
        self._random = random.Random(seed)
        self._bare = bare
        self._ranks = ranks
        self._counters = CounterHistory()
        self._read_ns = 0
        self._alerts: tuple[Alert, ...] = ()
        self._started_ns = now_ns()
        self._group = what or (tensor_parallel_group(ranks) if ranks else group())
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
        frame = Frame(
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
        return frame if self._bare else self._judged(frame)

    def _judged(self, frame: Frame) -> Frame:
        """With what other parts of prismtop add: model, counters, alerts, objectives."""
        now = frame.time_ns
        self._read_counters(now)
        self._alert(now)
        return replace(
            frame,
            model=ModelCard(
                ModelState.READY,
                features=("decode_tokens", "context_tokens", "prefill_tokens"),
                missing=("max_context",),
                trained=self._seq,
                rejected=self._seq // 90,
                median_ape=2.1,
                p95_ape=6.3,
                within_10pct=0.987,
                decode_median_ape=1.9,
                drift_pct=0.4,
                false_alerts_per_h=0.3,
                regimes=("decode", "mixed"),
            ),
            alerts=self._alerts,
            capture=finished_capture(self._started_ns),
            slo=SloStatus(
                SloTargets(ttft_ms=500.0, tpot_ms=20.0),
                600.0,
                requests=1860,
                ttft=0.995,
                tpot=0.998,
                attainment=0.992,
                goodput_per_s=3.1,
                budget_burn=0.8,
                headroom=Headroom(48, 2048),
                interference=Interference(0.04, 23.4, 344),
            ),
            counters=self._counters.latest,
            counter_history=self._counters.values,
        )

    def _read_counters(self, now: int) -> None:
        if not self._read_ns:
            self._read_ns = now - 150 * 1000 * MS
            self._counters.add(
                Counter(name, device, unit, now, reason=reason, source="nvml")
                for name, device, unit, reason in MISSING_COUNTERS
            )
        while self._read_ns <= now:
            at = self._read_ns
            self._counters.add(
                Counter(name, device, unit, at, value + self._random.uniform(-spread, spread), source=source)
                for name, device, unit, value, spread, source in COUNTERS
            )
            self._read_ns += 1000 * MS

    def _alert(self, now: int) -> None:
        """The first episode closed after a second and a half, the second is open from two seconds on."""
        passed = (now - self._started_ns) / 1e9
        alerts = []
        if passed >= 1:
            closed = self._started_ns + 1500 * MS if passed >= 1.5 else None
            started = self._started_ns + 600 * MS
            alerts.append(
                Alert(1, "spike", Severity.WARNING, started + 400 * MS, started, 4242, 71, 74, 4, 48 * MS,
                      "decode +140 % for 4 batches", closed_ns=closed, excess_pct=140.0)
            )  # fmt: skip
        if passed >= 2:
            started = self._started_ns + 1800 * MS
            alerts.append(
                Alert(2, "shift", Severity.CRITICAL, started + 200 * MS, started, 4242, 212, self._seq,
                      41, 124 * MS, "decode +38 % for 41 batches", excess_pct=38.0, causes=CAUSES)
            )  # fmt: skip
        self._alerts = tuple(alerts)

    def _prediction(self, duration_ns: int, mode: Mode) -> Prediction:
        stages = PREFILL if mode is Mode.MIXED else DECODE
        expected = int(sum(stages.values()) * 1.012 * MS)
        low, high = int(expected * 0.95), int(expected * 1.05)
        verdict = Verdict.SLOW if duration_ns > high * 1.02 else Verdict.OK
        return Prediction(expected, low, high, verdict=verdict)

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
        disturbed = 1.38 if self._seq % 97 in (60, 61) else 1.0
        for name, ms in (PREFILL if prefill else DECODE).items():
            length = int(ms * MS * self._random.uniform(0.93, 1.09))
            if name == "wait" and not self._bare:
                length = int(length * disturbed)
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
            ranks=tuple(
                RankTime(rank, 4300 + rank, int((2.6 if rank < self._ranks - 1 else 3.4) * MS)
                         + self._random.randint(0, 40_000))
                for rank in range(self._ranks)
            ),
        )  # fmt: skip
        self._seq += 1
        if self._bare:
            return batch
        return replace(batch, prediction=self._prediction(batch.duration_ns, batch.mode))

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
