"""Faults on the target's GPU: another tenant's kernels, copies and allocations, and a clock that jumps.

The load runs in a process of its own (`gpu_worker`): killing it gives everything back to the driver.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from prismtop.anomaly.faults import nvml
from prismtop.anomaly.faults.cuda import LIBRARY
from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Inject, Request
from prismtop.errors import UnavailableError

_DWELL_S = 0.5


def check(pid: int | None) -> Availability:
    """Whether there is a CUDA driver with a device, and the target computes on one."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return Availability(False, f"{LIBRARY} not found: there is no NVIDIA driver here")
    try:
        found = nvml.devices()
    except OSError as error:
        return Availability(False, str(error))
    if not found:
        return Availability(False, "the NVIDIA driver shows no GPU")
    if pid is not None and not nvml.devices_of(pid):
        return Availability(False, f"process {pid} computes on no GPU", "Choose one with --device N.")
    return AVAILABLE


def check_two(pid: int | None) -> Availability:
    """The same, with a second GPU to copy to."""
    there = check(pid)
    if there.ok and len(nvml.devices()) < 2:
        return Availability(False, "there is one GPU only, so there is no link between two")
    return there


def check_clocks(pid: int | None) -> Availability:
    """The same, with the right to lock clocks."""
    there = check(pid)
    if there.ok and os.geteuid() != 0:
        return Availability(False, "locking GPU clocks needs root", "Run it as root.", permission=True)
    return there


def device(request: Request) -> str:
    """UUID of the GPU asked for, else of the first one on which the target computes.

    Raises:
        UnavailableError: there is none.
    """
    try:
        found = nvml.devices() if request.device is not None else nvml.devices_of(request.pid)
        return found[request.device or 0]
    except (OSError, IndexError):
        raise UnavailableError(
            f"process {request.pid} computes on no GPU.", fix="Choose one with --device N."
        ) from None


def worker_steps(kind: str) -> Callable[[Request], tuple[str, ...]]:
    """What a load does, for the plan."""
    doing = {
        "preempt": "a process that keeps the SMs busy with FMA kernels of at most 20 ms",
        "swap": "a process that allocates and frees blocks of device memory at random",
        "pcie": "a process that copies pinned host memory to the device and back",
        "nvlink": "a process that copies device memory to another GPU",
    }[kind]

    def steps(request: Request) -> tuple[str, ...]:
        try:
            where = device(request)
        except UnavailableError:
            where = "the target's GPU"
        return (f"start {doing}, on {where}, {100 * request.intensity:.0f} % of the time",)

    return steps


def load(kind: str) -> Inject:
    """A load of that kind."""

    def inject(request: Request, guard: Guard) -> Iterator[float | None]:
        uuid = device(request)
        _alone(request, uuid)
        ready = Path(request.work_dir) / f"ready-{request.experiment}"
        numbers = (request.duration_s + 1.0, request.intensity, request.ramp_s, request.seed)
        worker = [sys.executable, "-m", "prismtop.anomaly.faults.gpu_worker"]
        pid = guard.spawn([*worker, kind, uuid, *map(str, numbers), str(ready)])
        while True:
            status = guard.ended(pid)
            if status is not None:
                raise UnavailableError(f"the GPU load ended early with status {status}.")
            yield 0.1 if ready.exists() else None

    return inject


def clock_steps(request: Request) -> tuple[str, ...]:
    """What the jumping clock writes."""
    return (
        f"NVML SetGpuLockedClocks between the lowest and {100 * (1 - request.intensity):.0f} % of the "
        f"highest SM clock, another value every {1000 * _DWELL_S:.0f} ms; it outlives a process, so the "
        "journal holds the reset",
    )


def exclusive_clocks(request: Request) -> tuple[str, ...]:
    """The lock on the clocks: the end of one experiment would take it from the other."""
    return (f"clocks of {device(request)}",)


def clocks(request: Request, guard: Guard) -> Iterator[float]:
    """A clock that jumps."""
    uuid = device(request)
    _alone(request, uuid)
    if nvml.limited_by_others(uuid):
        raise UnavailableError(
            f"the clocks of {uuid} are set by somebody already.",
            fix="Its owner resets them: `nvidia-smi -rac`.",
        )
    low, high = nvml.clock_range(uuid)
    rng = random.Random(request.seed)
    guard.record("gpu_clocks", uuid=uuid)
    elapsed = 0.0
    while True:
        guard.check()
        ceiling = high - (high - low) * min(1.0, request.level(elapsed))
        nvml.lock_clocks(uuid, round(rng.uniform(low, max(low, ceiling))))
        yield _DWELL_S
        elapsed += _DWELL_S


def _alone(request: Request, uuid: str) -> None:
    others = nvml.others_on(uuid, request.pid)
    if others and not request.host_wide:
        raise UnavailableError(
            f"{len(others)} other processes compute on {uuid}: they would suffer too.",
            fix="Add --host-wide if that is agreed.",
        )
