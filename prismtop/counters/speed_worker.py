"""Times a short fixed piece of work on the core of a thread that it is told: a process of its own, which
waits there for its turn without holding anybody up. Run as a file; imports nothing of ours.

Lines in: the path of a thread's `stat` (proc(5)). Lines out, two a second: the core that it ran on last,
CPU time of the work there in ns, CPU time of this process so far in ns; `-1 errno 0` when it cannot run
there. It ends with its input; while nobody reads what it says it waits.
"""

from __future__ import annotations

import os
import re
import select
import time

PERIOD_S = 0.5
REPEATS = 3
"""Of one timing the shortest of so many counts. Caches are cold in the first, an interrupt may hit one."""
_PROCESSOR = 36
"""Column of `stat` after the name: the core that the thread ran on last."""

# Python's matcher is an interpreter in C: branches and loads from the first cache, as in the host code of an
# engine; it keeps the interpreter lock and calls nothing. Beside a busy sibling it takes 1.7 times as long, a
# loop in Python 1.9 times, a multiplication of long numbers 1.3 times.
_TEXT = "alpha beta 12 gamma," * 10
_match = re.compile(r"(\d+)\D+(\d+)x").findall


def time_work() -> int:
    """CPU time of the fixed piece of work on whichever core this thread is, ns: the shortest of `REPEATS`."""
    best = 0
    for _ in range(REPEATS):
        began = time.thread_time_ns()
        _match(_TEXT)
        took = time.thread_time_ns() - began
        best = took if not best else min(best, took)
    return best


class _Thread:
    """The thread whose core is timed. Raises OSError when it has ended, or its core is not for us."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._core = -1

    def join(self) -> int:
        """Go where it ran last; the core."""
        stat = os.pread(self.fd, 1024, 0)
        core = int(stat.rpartition(b")")[2].split()[_PROCESSOR])
        if core != self._core:
            os.sched_setaffinity(0, {core})
            self._core = core
        return core


def main() -> None:
    """Time until the input ends."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    thread = None
    while True:
        if poll.poll(None if thread is None else PERIOD_S * 1000):
            lines = os.read(0, 4096).split(b"\n")
            if len(lines) < 2:
                return
            if thread is not None:
                os.close(thread.fd)
                thread = None
        else:
            lines = []
        try:
            if lines:
                thread = _Thread(lines[-2].decode())
            assert thread is not None
            core = thread.join()
        except OSError as error:
            os.write(1, b"-1 %d 0\n" % (error.errno or 0))
            if thread is not None:
                os.close(thread.fd)
            thread = None
            continue
        os.write(1, b"%d %d %d\n" % (core, time_work(), time.process_time_ns()))


if __name__ == "__main__":
    main()
