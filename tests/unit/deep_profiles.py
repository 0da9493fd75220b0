"""Profiles in Kineto's format for tests of deep captures, CONSTRUCTED: they prove our code, not a GPU.

The shape was taken from real files of torch.profiler 2.x (keys, categories, markers, flows, where
`baseTimeNanoseconds` stands); every number is invented. `tests/data/deepdive_cpu.json.gz` is a real one.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prismtop.model import (
    Batch,
    Capture,
    CapturePhase,
    CaptureRequest,
    Clock,
    Frame,
    Layer,
    LayerState,
    Mode,
    RankTime,
    Stage,
)
from tests.factories import MS, make_batch, make_frame, make_group, make_target

MONO = 50_000 * 10**9
"""CLOCK_MONOTONIC of the first batch."""
WALL = 1_790_000_000 * 10**9
"""CLOCK_REALTIME minus CLOCK_MONOTONIC."""
BASE = 1_790_040_000 * 10**9
"""`baseTimeNanoseconds`."""
PID, TID = 4242, 4250
US = 1000


@dataclass(frozen=True)
class Fetched:
    """What the target left."""

    pid: int
    profile: Path | None
    events: Path | None = None


@dataclass
class Kineto:
    """Events of one process. Times given are CLOCK_MONOTONIC ns; the file's are what Kineto would write.

    Attributes:
        offset: the profiler's clock minus CLOCK_MONOTONIC, as a function of the time.
        pid, tid: as the process sees itself.
        device: number of its GPU.
    """

    offset: Callable[[int], int] = lambda at: WALL
    pid: int = PID
    tid: int = TID
    device: int = 0
    rank: int | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _correlation: int = 100

    def us(self, at_ns: int) -> float:
        return round((at_ns + self.offset(at_ns) - BASE) / 1000, 3)

    def span(self, cat: str, name: str, start: int, end: int, pid: Any, tid: Any, **args: Any) -> None:
        length = round(self.us(end) - self.us(start), 3)
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": self.us(start),
             "dur": length, "args": args}
        )  # fmt: skip

    def host(self, cat: str, name: str, start: int, end: int, **args: Any) -> None:
        self.span(cat, name, start, end, self.pid, self.tid, **args)

    def markers(self, at: int, late: Sequence[int] = (200_000, 12_000, 3_500)) -> int:
        """Three of them; each begins `late` ns after its clocks were read. When the last one is over."""
        for delay in late:
            self.host("user_annotation", f"prismtop_sync_{at}_{at + WALL}", at + delay, at + delay + 2000)
            at += delay + 10_000
        return at

    def launch(
        self,
        name: str,
        start: int,
        on_device: tuple[int, int],
        stream: int = 7,
        call: str = "cudaLaunchKernel",
        cat: str = "kernel",
        call_ns: int = 5 * US,
    ) -> None:
        """A call of the runtime and what it starts, joined by a flow."""
        self._correlation += 1
        n = self._correlation
        self.host("cuda_runtime", call, start, start + call_ns, cbid=211, correlation=n)
        self.flow("s", n, start, self.pid, self.tid)
        self.on_device(name, *on_device, stream, cat, n)
        self.flow("f", n, on_device[0], self.device, stream)

    def on_device(
        self, name: str, start: int, end: int, stream: int, cat: str = "kernel", correlation: int = 0
    ) -> None:
        self.span(
            cat, name, start, end, self.device, stream,
            device=self.device, context=1, stream=stream, correlation=correlation,
        )  # fmt: skip

    def flow(self, phase: str, number: int, at: int, pid: Any, tid: Any) -> None:
        event = {"ph": phase, "id": number, "pid": pid, "tid": tid, "ts": self.us(at), "cat": "ac2g"}
        self.events.append({**event, "name": "ac2g", **({"bp": "e"} if phase == "f" else {})})

    def write(self, path: Path, cut: float = 1.0) -> Path:
        """As Kineto writes it: the base behind the events. `cut` keeps that share of the text."""

        def named(name: str, tid: int, text: str) -> dict[str, Any]:
            return {"ph": "M", "name": name, "ts": 0, "pid": self.pid, "tid": tid, "args": {"name": text}}

        thread = f"thread {self.tid} (python)"
        names = [named("process_name", 0, "python"), named("thread_name", self.tid, thread)]
        record = {
            "ph": "X",
            "cat": "Trace",
            "name": "PyTorch Profiler (0)",
            "pid": "Spans",
            "tid": "PyTorch Profiler",
            "ts": self.events[0]["ts"],
            "dur": 1e5,
            "args": {"Op count": 0},
        }
        end = {"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": record["ts"]}
        header: dict[str, Any] = {"schemaVersion": 1}
        if any(event["cat"] == "kernel" for event in self.events):
            header["deviceProperties"] = [{"id": self.device, "name": "Constructed GPU"}]
        if self.rank is not None:
            header["distributedInfo"] = {"backend": "nccl", "rank": self.rank, "world_size": 2}
        whole = {
            **header,
            "displayTimeUnit": "ms",
            "traceEvents": [*names, *self.events, record, end],
            "traceName": "profile.json",
            "baseTimeNanoseconds": BASE,
        }
        text = json.dumps(whole, indent=2)
        path.write_text(text[: int(len(text) * cut)])
        return path


def batch_times(count: int, length: int = 8 * MS, start: int = MONO) -> list[int]:
    return [start + n * length for n in range(count)]


def make_stage(name: str, start: int, length: int, **changes: Any) -> Stage:
    fields: dict[str, Any] = {"pid": PID, "tid": 77, "span_ns": length}
    return Stage(name, f"{name}_hook", start, length, **{**fields, **changes})


def eight_ms_batch(seq: int, start: int, **changes: Any) -> Batch:
    """schedule 1 ms, launch 2 ms, wait 4.5 ms, post 0.5 ms."""
    stages = (
        make_stage("schedule", start, 1 * MS),
        make_stage("launch", start + 1 * MS, 2 * MS),
        make_stage("wait", start + 3 * MS, 4_500_000),
        make_stage("post", start + 7_500_000, 500_000),
    )
    fields: dict[str, Any] = {"duration_ns": 8 * MS, "mode": Mode.DECODE, "stages": stages, "pid": PID}
    return make_batch(seq, start, **{**fields, **changes})


def decode_step(kineto: Kineto, start: int, compute_ns: int = 3 * MS, collective_ns: int = 1 * MS) -> None:
    """What the device and the model thread do in `eight_ms_batch`: operators launch a GEMM, a collective on
    another stream that begins 0.4 ms before the GEMM ends, an elementwise kernel after it, and a copy, which
    the host waits for.
    """
    launch = start + 1 * MS
    gemm = (launch + 100 * US, launch + 100 * US + compute_ns)
    together = (gemm[1] - 400 * US, gemm[1] - 400 * US + collective_ns)
    add = (together[1] + 20 * US, together[1] + 120 * US)
    copy = (add[1] + 10 * US, add[1] + 20 * US)
    kineto.host("user_annotation", "execute_context_0(0)_generation_16(16)", launch, launch + 2 * MS)
    kineto.host("cpu_op", "aten::linear", launch + 10 * US, launch + 400 * US)
    kineto.host("cpu_op", "aten::mm", launch + 20 * US, launch + 300 * US)
    kineto.launch("void cutlass::gemm<bf16>(int)", launch + 50 * US, gemm)
    kineto.host("cpu_op", "vllm::all_reduce", launch + 500 * US, launch + 900 * US)
    kineto.launch("ncclDevKernel_AllReduce_Sum_bf16", launch + 600 * US, together, stream=20)
    kineto.host("cpu_op", "aten::add", launch + 1000 * US, launch + 1200 * US)
    kineto.launch("void at::native::elementwise_kernel<4>", launch + 1100 * US, add)
    kineto.launch(
        "Memcpy DtoH (Device -> Pinned)", launch + 1500 * US, copy, call="cudaMemcpyAsync", cat="gpu_memcpy"
    )
    kineto.host("cuda_runtime", "cudaStreamSynchronize", start + 3 * MS, copy[1] + 5 * US, correlation=9)


def cuda_profile(count: int = 6, before: Callable[[Kineto], None] | None = None, **changes: Any) -> Kineto:
    """`count` decode steps with markers at both ends."""
    made = Kineto(**changes)
    made.markers(MONO - 2 * MS)
    for start in batch_times(count):
        decode_step(made, start)
    if before is not None:
        before(made)
    made.markers(MONO + count * 8 * MS + MS)
    return made


def frames_of(batches: Sequence[Batch], **changes: Any) -> list[Frame]:
    """One frame a batch, as a session makes them."""
    target = make_target(PID)
    return [
        make_frame(
            0,
            **{
                "time_ns": batch.end_ns + MS,
                "clock": Clock(WALL),
                "group": make_group(target),
                "new_batches": (batch,),
                **changes,
            },
        )
        for batch in batches
    ]


def make_capture(**changes: Any) -> Capture:
    fields: dict[str, Any] = {
        "number": 1,
        "request": CaptureRequest(),
        "phase": CapturePhase.MERGING,
        "started_ns": MONO - 5 * MS,
        "layers": (
            Layer("batches", LayerState.ON),
            Layer("operators", LayerState.ON, pid=PID),
            Layer("gpu", LayerState.ON, pid=PID),
            Layer("scheduler", LayerState.OFF, "perf is not installed"),
        ),
    }
    return Capture(**{**fields, **changes})


def two_ranks(batch: Batch, other: int, late_ns: tuple[int, int]) -> Batch:
    from dataclasses import replace

    ranks = (RankTime(0, batch.pid, late_ns[0]), RankTime(1, other, late_ns[1]))
    return replace(batch, ranks=ranks, rank=0)


DATA = Path(__file__).resolve().parents[1] / "data"


def real_cpu_profile(folder: Path) -> Path:
    """The real one, unpacked; see `tests/data/README.md`."""
    path = folder / "real.json"
    path.write_bytes(gzip.decompress((DATA / "deepdive_cpu.json.gz").read_bytes()))
    return path


def real_cpu_frames() -> tuple[list[Frame], dict[str, Any]]:
    """Its steps as batches, by the clock readings of its own process, and those readings."""
    facts: dict[str, Any] = json.loads((DATA / "deepdive_cpu_batches.json").read_text())
    pid = facts["pid"]
    batches = []
    for seq, (start, model, sample, end) in enumerate(facts["batches"]):
        stages = (
            make_stage("schedule", start, model - start, pid=pid),
            make_stage("launch", model, sample - model, pid=pid),
            make_stage("sample", sample, end - sample, pid=pid),
        )
        batches.append(make_batch(seq, start, duration_ns=end - start, stages=stages, pid=pid))
    group = make_group(make_target(pid))
    return frames_of(batches, clock=Clock(facts["wall_minus_mono_ns"]), group=group), facts
