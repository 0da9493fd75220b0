"""Trace files as others write them, for tests of the reader."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prismtop.model import Frame
from prismtop.trace.events import Encoder
from prismtop.trace.lenient import Event
from prismtop.trace.reader import TraceReader

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the data of others (../shared/data) is not here"
)


def span(name: str, ts: float, dur: float, **changes: Any) -> dict[str, Any]:
    """A complete event of thread 7 in process 42."""
    return {"ph": "X", "name": name, "cat": "c", "ts": ts, "dur": dur, "pid": 42, "tid": 7, **changes}


def spans(count: int) -> list[dict[str, Any]]:
    """Events of 5 us every 10 us, with arguments."""
    return [span(f"n{n}", 10.0 * n, 5.0, args={"k": [n, {"deep": '}]\\"'}]}) for n in range(count)]


def write(path: Path, content: bytes | str | list[Any] | dict[str, Any], *, packed: bool = False) -> Path:
    """Content as it is, or as JSON; `packed` as one gzip member."""
    if isinstance(content, (list, dict)):
        content = json.dumps(content)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def read(path: Path, size: int = 4096) -> tuple[list[Event], TraceReader]:
    """Every event, read in small pieces, and the reader with what it noted."""
    reader = TraceReader(path)
    events: list[Event] = []
    for block in reader.blocks(size):
        made, skipped = block.events()
        events += made
        reader.skipped += skipped
    return events, reader


def names(events: Iterable[Event]) -> list[object]:
    """The events' names."""
    return [event.name for event in events]


def recording(path: Path, frames: Sequence[Frame], *, packed: bool = False) -> Path:
    """A recording of ours, as the recorder writes it; the first frame only begins the session."""
    encoder = Encoder(frames[0])
    lines = encoder.header()
    lines = [*lines, *(line for frame in frames[1:] for line in encoder.events_of(frame))]
    return write(path, "[\n" + ",\n".join(lines) + ",\n", packed=packed)


def kineto(batches: int, **header: Any) -> dict[str, Any]:
    """A torch.profiler trace of decode batches of 8 ms, kernels and operators in between, out of order."""
    events: list[dict[str, Any]] = []
    for n in range(batches):
        at = 1000.0 + 9000.0 * n
        name = "execute_context_0(0)_generation_16(16)"
        events += [
            span(
                "vllm/v1/worker/gpu_model_runner.py(1): _prepare_inputs", at + 100, 900, cat="python_function"
            ),
            span("aten::mm", at + 1200, 10.5, cat="cpu_op", args={"Input Dims": [[1, 2], []]}),
            span("cudaStreamSynchronize", at + 5000, 2000.25, cat="cuda_runtime"),
            span("gemm", at + 1300, 6000, cat="kernel", pid=0, tid=7),
            span(name, at, 8000.125, cat="user_annotation", args={"External id": n}),
            span(name, at + 300, 8000, cat="gpu_user_annotation", pid=0, tid=7),
        ]
    events.append(
        {"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Spans", "tid": "x", "ts": 1.0}
    )
    return {"schemaVersion": 1, **header, "traceEvents": events}
