"""Bursts in which the target does not run at all: SIGSTOP and SIGCONT, or the freezer of cgroups."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator

from prismtop.anomaly.faults import cgroups
from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.targets.procfs import read_stat

PERIOD_S = 0.13
"""Mean time between two bursts."""
_NICE = -10


def check_signals(pid: int | None) -> Availability:
    """Whether signals reach the target."""
    if pid is None:
        return AVAILABLE
    try:
        os.kill(pid, 0)
    except PermissionError:
        return Availability(False, "its owner is another user", "Run it as that user.", permission=True)
    except ProcessLookupError:
        return Availability(False, "the process has ended")
    return AVAILABLE


def check_cgroup(pid: int | None) -> Availability:
    """Whether a freezer group can be made."""
    return cgroups.check("freezer", pid)


def steps_signals(request: Request) -> tuple[str, ...]:
    """SIGSTOP and SIGCONT, again and again."""
    return (
        f"SIGSTOP to {request.pid}, SIGCONT after {1000 * PERIOD_S * request.intensity:.0f} ms on average, "
        f"every {1000 * PERIOD_S:.0f} ms",
        f"raise the injector's own priority to nice {_NICE} where that is permitted: "
        "a starved injector would freeze for too long",
    )


def steps_cgroup(request: Request) -> tuple[str, ...]:
    """The same with a group."""
    where = cgroups.freezer()
    place = where.directory(request) if where else "a cgroup"
    return (
        f"make {place} and move process {request.pid} there",
        f"freeze it for {1000 * PERIOD_S * request.intensity:.0f} ms on average, "
        f"every {1000 * PERIOD_S:.0f} ms",
    )


def by_signals(request: Request, guard: Guard) -> Iterator[float]:
    """Freeze with SIGSTOP."""
    pid, start = request.pid, request.start_time
    guard.record("continue", pid=pid, start=start)

    def send(number: signal.Signals) -> None:
        stat = read_stat(pid)
        if stat is not None and stat.start_time == start:
            os.kill(pid, number)

    yield from _bursts(request, guard, lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT))


def by_cgroup(request: Request, guard: Guard) -> Iterator[float]:
    """Freeze with a freezer group, v2 or v1."""
    with cgroups.moved(request, guard, "freezer") as group:
        yield from _bursts(request, guard, lambda: group.freeze(True), lambda: group.freeze(False))


def _bursts(
    request: Request, guard: Guard, freeze: Callable[[], None], thaw: Callable[[], None]
) -> Iterator[float]:
    rng = random.Random(request.seed)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except OSError:
        pass
    elapsed = 0.0
    try:
        while True:
            share = min(0.9, request.level(elapsed))
            burst = PERIOD_S * share * rng.uniform(0.5, 1.5)
            rest = max(0.01, PERIOD_S * (1 - share) * rng.uniform(0.5, 1.5))
            if burst > 0.001:
                guard.check()
                freeze()
                yield burst
                thaw()
            yield rest
            elapsed += burst + rest
    finally:
        thaw()
        try:
            os.setpriority(os.PRIO_PROCESS, 0, before)
        except OSError:
            pass
