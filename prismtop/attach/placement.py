"""Keep off the processor on which a process's main thread runs: as a rule that is the loop of the engine.

Measured on two cores, one of them the loop's, the other shared with a server: what the helper does right
before a stop took the loop's processor from it for 1.2 to 2 ms at a time, the stop itself for 0.1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Set

from prismtop.attach.process import thread_cpu, thread_stat


def running_on(pid: int) -> int | None:
    """The processor that the main thread of a process is running on; None when it does not run."""
    stat = thread_stat(pid, pid)
    return thread_cpu(pid, pid) if stat is not None and stat.state == "R" else None


def own_processors() -> frozenset[int]:
    """Those on which the calling thread may run."""
    return frozenset(os.sched_getaffinity(0))


def place(cpus: Set[int], pids: Iterable[int] = (0,)) -> None:
    """Let processes run on these processors only; 0 is the calling thread. What is refused is left out."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cpus)


def keep_off(pid: int, cpus: Set[int], pids: Iterable[int] = (0,)) -> bool:
    """Let processes run on those of `cpus` on which the main thread of process `pid` did not run last.

    Returns:
        Whether there is such a processor; otherwise they may run on all of `cpus`.
    """
    others = cpus - {thread_cpu(pid, pid)}
    place(others or cpus, pids)
    return bool(others)
