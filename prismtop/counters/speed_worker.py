"""Times a short fixed piece of work on the core it is told: a process of its own, which waits there for its
turn without holding anybody up. Run as a file; imports nothing of ours.

Lines in: the number of a core. Lines out: that number, CPU time of the work in ns (the mean of two timings:
neighbours come and go within a second; or minus errno when it may not run there), CPU time of this process
so far in ns. It ends when its input ends.
"""

from __future__ import annotations

import os
import re
import time

TIMINGS, APART_S = 2, 0.2
REPEATS = 3
"""Of one timing: the shortest of so many counts. Caches are cold in the first, an interrupt may hit one."""

# Python's matcher is an interpreter in C: branches and loads from the first cache, as in the host code of an
# engine; it keeps the interpreter lock and calls nothing. Beside a busy sibling it takes 1.7 times as long, a
# loop in Python 1.9 times, a multiplication of long numbers 1.3 times.
_TEXT = "alpha beta 12 gamma," * 20
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


def _time_on(core: int) -> int:
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        return -(error.errno or 1)
    took = time_work()
    for _ in range(TIMINGS - 1):
        time.sleep(APART_S)
        took += time_work()
    return took // TIMINGS


def main() -> None:
    """Answer until the input ends."""
    while line := os.read(0, 64):
        core = int(line.split()[-1])
        os.write(1, b"%d %d %d\n" % (core, _time_on(core), time.process_time_ns()))


if __name__ == "__main__":
    main()
