"""`Breakdown`: what device and host did during one batch, as a capture or a profiler shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Bound(str, Enum):
    """What limits a batch; see `prismtop.deepdive.breakdown` for the rule."""

    DEVICE = "device"
    LAUNCH = "launch"
    HOST = "host"


@dataclass(frozen=True)
class HostTime:
    """The model thread during one part, in nanoseconds. None: no layer of the trace shows it.

    The first five are exclusive and add up to the part's length; the last three happened inside of them.

    Attributes:
        operators_ns: in operators of the framework, less the driver calls inside of them.
        launches_ns: in calls that launch kernels or graphs.
        syncs_ns: blocked in calls that wait for the device.
        runtime_ns: in other calls of the driver or its runtime (copies, memory).
        other_ns: in none of them: Python itself, or code that the profiler does not see.
        launches: number of launching calls.
        gc_ns: Python's garbage collector ran.
        runqueue_ns: ready, but without a core.
        off_cpu_ns: asleep: blocked on a lock, a file, the device.
    """

    operators_ns: int | None = None
    launches_ns: int | None = None
    syncs_ns: int | None = None
    runtime_ns: int | None = None
    other_ns: int | None = None
    launches: int | None = None
    gc_ns: int | None = None
    runqueue_ns: int | None = None
    off_cpu_ns: int | None = None


@dataclass(frozen=True)
class DeviceTime:
    """The process's devices during one part, in nanoseconds, summed over devices.

    Attributes:
        devices: how many.
        busy_ns: something ran: the union over all streams of one device.
        idle_ns: nothing ran.
        gaps: intervals in which nothing ran.
        longest_gap_ns: the longest of them.
        compute_ns: a kernel ran that is no collective.
        collective_ns: a collective ran.
        exposed_ns: a collective ran and no compute kernel beside it.
        copy_ns: a copy or a memset ran.
        kernels: kernels that began in it.
    """

    devices: int
    busy_ns: int
    idle_ns: int
    gaps: int
    longest_gap_ns: int
    compute_ns: int
    collective_ns: int
    exposed_ns: int
    copy_ns: int
    kernels: int


@dataclass(frozen=True)
class Part:
    """A stretch of a batch.

    Attributes:
        stage: `launch` or `wait`; empty for the whole batch.
        wall_ns: its length.
        host: what the model thread did.
        device: None without device events.
    """

    stage: str
    wall_ns: int
    host: HostTime
    device: DeviceTime | None = None


@dataclass(frozen=True)
class Breakdown:
    """What a batch's time was.

    Attributes:
        pid: the process whose model thread and devices these are.
        parts: the whole batch first, then its `launch` and `wait` where they were seen.
        bound: what limits it; None when that cannot be told.
        reason: why there is no device time; empty when there is.
    """

    pid: int
    parts: tuple[Part, ...]
    bound: Bound | None = None
    reason: str = ""
