"""What reading somebody else's trace gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prismtop.model import Batch, Counter


@dataclass(frozen=True)
class Foreign:
    """What was found in somebody else's trace.

    Attributes:
        dialect: `kineto`, `viztracer`, `py-spy`, `latencyprism` or `chrome`.
        engine: `vllm`, `sglang`, ... or `unknown`.
        pid, rank: of the process whose batches these are; rank None without one.
        device: name of its GPU, empty when the trace does not tell.
        batches: iterates over them in order of start; may be called again.
        counters: iterates over readings in order of time; may be called again.
        count: number of batches.
        how: how batches were told apart, a sentence.
        start_ns, end_ns: of everything in the trace.
        wall: whether times are Unix times.
        notes: sentences about what is missing.
        events: read; skipped: could not be read.
    """

    dialect: str
    engine: str
    pid: int
    rank: int | None
    device: str
    batches: Callable[[], Iterator[Batch]]
    counters: Callable[[], Iterator[Counter]]
    count: int
    how: str
    start_ns: int
    end_ns: int
    wall: bool
    notes: tuple[str, ...]
    events: int
    skipped: int
