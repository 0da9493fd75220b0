"""The threads of the captured processes that are worth tracing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prismtop.counters.files import read_bytes
from prismtop.safe_text import safe_text

MOST = 48
"""Threads that are traced: every switch of the host is compared with each of them, in the kernel."""
MOST_POLLED = 8
MAX_LISTED = 4096


@dataclass(frozen=True)
class Thread:
    """One thread.

    Attributes:
        pid, tid: in our pid namespace.
        name: safe to print.
        ran_ns, waited_ns: since it began (schedstat).
    """

    pid: int
    tid: int
    name: str
    ran_ns: int
    waited_ns: int


def read_thread(pid: int, tid: int, proc: str = "/proc") -> Thread | None:
    """A thread as it is now; None when it is gone or the kernel has no schedstat."""
    where = f"{proc}/{pid}/task/{tid}"
    words = (read_bytes(f"{where}/schedstat") or b"").split()
    if len(words) < 2:
        return None
    name = (read_bytes(f"{where}/comm") or b"?").decode("utf-8", "replace").rstrip("\n")
    return Thread(pid, tid, safe_text(name, 16), int(words[0]), int(words[1]))


def choose(
    pids: Sequence[int], hot: Mapping[int, int], most: int = MOST, proc: str = "/proc"
) -> tuple[list[Thread], int]:
    """The threads to trace, most important first: model threads, main threads, then those that ran most.

    Also how many there are altogether.
    """
    found: list[Thread] = []
    for pid in pids:
        try:
            names = os.listdir(f"{proc}/{pid}/task")[:MAX_LISTED]
        except OSError:
            continue
        threads = (read_thread(pid, int(name), proc) for name in names)
        found += [thread for thread in threads if thread is not None]

    def order(thread: Thread) -> tuple[bool, bool, int]:
        return hot.get(thread.pid) != thread.tid, thread.pid != thread.tid, -thread.ran_ns

    return sorted(found, key=order)[:most], len(found)
