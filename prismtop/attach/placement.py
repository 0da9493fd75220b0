"""Which processor a process's main thread is running on."""

from __future__ import annotations

from prismtop.attach.process import thread_cpu, thread_stat


def running_on(pid: int) -> int | None:
    """The processor that the main thread of a process is running on; None when it does not run."""
    stat = thread_stat(pid, pid)
    return thread_cpu(pid, pid) if stat is not None and stat.state == "R" else None
