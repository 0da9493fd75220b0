"""CPU time that processes took which have nothing to do with an experiment.

A campaign on a machine that others use meets disturbances that it did not inject: what is said about them is
true, and looks false. So it is measured how much of the machine others had.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

PERIOD_NS = 10**9
_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)
"""Columns of /proc/stat that are not work: idle, waiting for a disk (proc(5)). The last two, guests, are in
the first two already."""
_COLUMNS = 8


class Neighbours:
    """Samples once a second.

    Attributes:
        seen: (CLOCK_MONOTONIC ns of the end, cores that others used) of each second.

    Args:
        own: the processes of the experiment; the time of their children counts once they have ended.
    """

    def __init__(self, own: Callable[[], Sequence[int]]) -> None:
        self.seen: list[tuple[int, float]] = []
        self._own = own
        self._before: tuple[int, int, dict[int, int]] | None = None

    def take(self, now_ns: int) -> None:
        """Look, if it is time to."""
        before = self._before
        if before is not None and now_ns - before[0] < PERIOD_NS:
            return
        busy = _busy_ns()
        if busy is None:
            return
        own = {pid: spent for pid in self._own() if (spent := _spent_ns(pid)) is not None}
        self._before = now_ns, busy, own
        if before is not None and own.keys() == before[2].keys():
            ours = sum(own.values()) - sum(before[2].values())
            self.seen.append((now_ns, max(0.0, (busy - before[1] - ours) / (now_ns - before[0]))))


def children() -> list[int]:
    """This process and its children."""
    me = os.getpid()
    made = [me]
    for task in Path(f"/proc/{me}/task").iterdir():
        try:
            made += map(int, (task / "children").read_text(encoding="ascii").split())
        except (OSError, ValueError):  # the thread ended, or the kernel has no such file
            continue
    return made


def mean(seen: Sequence[tuple[int, float]], start_ns: int, end_ns: int) -> float | None:
    """Cores that others used in an interval; None when it was not measured then."""
    inside = [cores for at, cores in seen if start_ns < at <= end_ns + PERIOD_NS]
    return sum(inside) / len(inside) if inside else None


def _busy_ns() -> int | None:
    try:
        with open("/proc/stat", "rb") as file:
            words = file.readline().split()[1 : 1 + _COLUMNS]
    except OSError:
        return None
    return sum(int(word) for at, word in enumerate(words) if at not in _IDLE) * _TICK_NS


def _spent_ns(pid: int) -> int | None:
    """Of a process and of its children that have ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return sum(map(int, words[11:15])) * _TICK_NS
