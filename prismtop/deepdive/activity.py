"""What host and devices did, as rows of integers: the part of a trace that can be added up."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Kind(IntEnum):
    """What a span is."""

    OTHER = 0
    OPERATOR = 1
    LAUNCH = 2
    SYNC = 3
    RUNTIME = 4
    COMPUTE = 5
    COLLECTIVE = 6
    COPY = 7
    GC = 8
    RUNQUEUE = 9
    ON_CPU = 10
    UNRECORDED = 11


DEVICE_KINDS = (Kind.COMPUTE, Kind.COLLECTIVE, Kind.COPY)
HOST_KINDS = (Kind.OPERATOR, Kind.LAUNCH, Kind.SYNC, Kind.RUNTIME)
_RUNTIME_CATS = frozenset(
    ("cuda_runtime", "cuda_driver", "hip_runtime", "xpu_runtime", "privateuse1_runtime", "mtia_runtime")
)
_COLLECTIVE = re.compile(
    r"nccl|rccl|hccl|hcom_|oneccl|all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|cross_device_reduce",
    re.IGNORECASE,
)
"""Kernels of NCCL and RCCL (`ncclDevKernel_AllReduce_...`), HCCL (`hcom_allReduce_`), and the all-reduces of
the engines (vLLM's and SGLang's `cross_device_reduce_1stage`, FlashInfer's `allreduce_fusion_kernel`)."""
_LAUNCH = re.compile(r"launch(?!HostFunc)", re.IGNORECASE)
_SYNC = re.compile(r"Synchronize|Memcpy(?!.*Async)(?!.*Batch)")
"""Calls that return when the device is done: cudaStreamSynchronize, cudaEventSynchronize, and copies that are
not asynchronous (CUDA Runtime API, API synchronization behavior)."""
MAX_ROWS = 5_000_000
MAX_NAMES = 200_000


@dataclass
class Activities:
    """Spans of one trace. Times are nanoseconds of one clock.

    Attributes:
        places: (pid, native tid or number of the device) of each track.
        names: by number.
        track, start, end, kind, name: of each span, in the order in which they were added.
        full: whether spans were left out, beyond `MAX_ROWS`.
    """

    places: list[tuple[int, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    track: array[int] = field(default_factory=lambda: array("i"))
    start: array[int] = field(default_factory=lambda: array("q"))
    end: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("b"))
    name: array[int] = field(default_factory=lambda: array("i"))
    full: bool = False
    _known: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    def add(self, track: int, cat: str, name: str, start_ns: int, end_ns: int) -> None:
        """Take one span of a track of `places`."""
        known = self._known.get((cat, name))
        if known is None:
            known = self._name(cat, name)
        if len(self.start) >= MAX_ROWS:
            self.full = True
            return
        self.track.append(track)
        self.start.append(start_ns)
        self.end.append(end_ns)
        self.kind.append(known[0])
        self.name.append(known[1])

    def _name(self, cat: str, name: str) -> tuple[int, int]:
        kind = kind_of(cat, name)
        if len(self._known) >= MAX_NAMES:
            self._known.clear()
            return kind, -1
        self._known[cat, name] = made = (int(kind), len(self.names) if kind else -1)
        if kind:
            self.names.append(name)
        return made


def only_first() -> str:
    """What a person should know where spans were left out, beyond `MAX_ROWS`."""
    return f"only the first {MAX_ROWS} spans were used"


@dataclass(frozen=True)
class PartOfTrace:
    """One collection of spans: their times, which of them count, and whose tracks they lie on."""

    activities: Activities
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    good: NDArray[np.bool_]
    owners: Mapping[int, tuple[int, int]]


def kind_of(cat: str, name: str) -> Kind:
    """What a span of this category and name is. `cat` is Kineto's, or the name of one of our layers."""
    if cat == "cpu_op":
        return Kind.OPERATOR
    if cat == "kernel":
        return Kind.COLLECTIVE if _COLLECTIVE.search(name) else Kind.COMPUTE
    if cat in ("gpu_memcpy", "gpu_memset"):
        return Kind.COPY
    if cat in _RUNTIME_CATS:
        if _LAUNCH.search(name):
            return Kind.LAUNCH
        return Kind.SYNC if _SYNC.search(name) else Kind.RUNTIME
    if cat == "gc":
        return Kind.GC
    if cat == "unrecorded":
        return Kind.UNRECORDED
    if cat == "scheduler":
        return {"runq": Kind.RUNQUEUE, "oncpu": Kind.ON_CPU}.get(name, Kind.OTHER)
    return Kind.OTHER
