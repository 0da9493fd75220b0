"""Run on the processor of the thread that is about to be stopped.

A stop hands the processor to and fro between the tracer and the thread some ten times. On one processor that
is a context switch; between two it is an interrupt to, and on a virtual machine the waking of, one that had
gone idle, or a wait behind whatever else runs there. Measured on two busy cores of a virtual machine, for a
sleeping thread: median 88 us instead of 122 us, 98th percentile 0.13 ms instead of 13 ms.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from prismtop.attach.process import thread_cpu, thread_stat
from prismtop.attach.rehearsal import rehearse_again


@contextlib.contextmanager
def beside(pid: int, tid: int) -> Iterator[None]:
    """Rehearse, then stay on the thread's processor until the block ends; anywhere, where that is forbidden.

    The rehearsal is elsewhere when the process's main thread, which as a rule runs the engine, is running on
    that processor: it is held up for no longer than the stop itself takes.
    """
    own = os.sched_getaffinity(0)
    cpu = thread_cpu(pid, tid)
    if cpu is None or cpu not in own:
        rehearse_again()
        yield
        return
    if cpu == running_on(pid) and len(own) > 1:
        _move({*own} - {cpu})
        rehearse_again()
        _move({cpu})
    else:
        _move({cpu})
        rehearse_again()
    try:
        yield
    finally:
        _move(own)


def running_on(pid: int) -> int | None:
    """The processor that the main thread of a process is running on; None when it does not run."""
    stat = thread_stat(pid, pid)
    return thread_cpu(pid, pid) if stat is not None and stat.state == "R" else None


def _move(cpus: set[int]) -> None:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cpus)
