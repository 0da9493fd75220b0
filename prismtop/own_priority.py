"""How long prismtop itself waits for a processor; where Linux leaves it waiting, it raises its priority.

A monitor that gets no processor loses records, and looks like an engine that stands still. It happens where
every core is taken by processes that spin in sched_yield (vLLM's workers on a CPU do): measured on Linux
6.18, an ordinary process then got 10 % of a core with gaps of 2 s, one with nice -5 70 to 99 %. prismtop
uses 2 to 3 % of a core, raised or not.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from dataclasses import dataclass

NICE = -5
PERIOD_NS = 1_000_000_000
_WAITED_NS = 250_000_000
_TIMES = 2
"""Waiting this many times as long as running, and longer than `_WAITED_NS`, is too little."""


@dataclass(frozen=True)
class Share:
    """Nanoseconds that a thread ran, and that it was ready to run but waited (/proc/PID/schedstat)."""

    ran_ns: int = 0
    waited_ns: int = 0

    def since(self, before: Share) -> Share:
        """What was added since `before`."""
        return Share(self.ran_ns - before.ran_ns, self.waited_ns - before.waited_ns)

    @property
    def starved(self) -> bool:
        return self.waited_ns > _WAITED_NS and self.waited_ns > _TIMES * self.ran_ns


class OwnPriority:
    """Looks once a second how the calling thread fares. Not thread safe; the owner of the session calls it.

    Args:
        may_raise: False only tells.
    """

    def __init__(self, may_raise: bool, proc: str = "/proc") -> None:
        self._may_raise = may_raise
        self._proc = proc
        self._thread = 0
        self._before = Share()
        self._looked_ns = 0
        self._told = False
        self._warning = ""
        self._was: tuple[int, int, str] | None = None

    @property
    def raised(self) -> bool:
        return self._was is not None

    def look(self, now_ns: int) -> None:
        """Raise the priority when this thread was left waiting, once.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        if self._told or now_ns - self._looked_ns < PERIOD_NS:
            return
        share = self._read()
        if share is None:
            return
        known, self._looked_ns = self._thread == threading.get_native_id(), now_ns
        self._thread = threading.get_native_id()
        added, self._before = share.since(self._before if known else Share()), share
        if not added.starved:
            return
        self._told = True
        got = added.ran_ns / (added.ran_ns + added.waited_ns)
        self._warning = f"Linux gave prismtop a processor for {got:.0%} of the time that it wanted one"
        if self._may_raise and self._raise():
            self._warning += f": it runs at nice {NICE} until it ends (setting raise_priority)"
        else:
            self._warning += (
                ", so batches come late or are lost; "
                f"'echo {NICE} | sudo tee /proc/{os.getpid()}/autogroup' gives it more"
            )

    def warnings(self) -> tuple[str, ...]:
        """What there is to say since the last call."""
        said, self._warning = self._warning, ""
        return (said,) if said else ()

    def _read(self) -> Share | None:
        try:
            with open(f"{self._proc}/thread-self/schedstat", encoding="ascii") as f:
                ran, waited = f.read().split()[:2]
            return Share(int(ran), int(waited))
        except (OSError, ValueError):
            return None

    def _raise(self) -> bool:
        thread = threading.get_native_id()
        nice, group = os.getpriority(os.PRIO_PROCESS, thread), autogroup_nice(self._proc)
        try:
            os.setpriority(os.PRIO_PROCESS, thread, min(nice, NICE))
        except OSError:
            return False
        self._was = (thread, nice, "" if group is None else str(group))
        if group is not None and group > NICE:
            set_autogroup_nice(NICE, self._proc)
        atexit.register(self.restore)
        return True

    def restore(self) -> None:
        """Give back what was taken. Idempotent."""
        if self._was is None:
            return
        (thread, nice, group), self._was = self._was, None
        atexit.unregister(self.restore)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        if group:
            set_autogroup_nice(int(group), self._proc)


def autogroup_nice(proc: str = "/proc", pid: int | str = "self") -> int | None:
    """The nice value of a process's session (sched(7), autogroup); None where the kernel has none."""
    try:
        with open(f"{proc}/{pid}/autogroup", encoding="ascii") as f:
            return int(f.read().rpartition("nice ")[2])
    except (OSError, ValueError):
        return None


def set_autogroup_nice(value: int, proc: str = "/proc", pid: int | str = "self") -> bool:
    """Set it; False where it may not be set."""
    try:
        with open(f"{proc}/{pid}/autogroup", "w", encoding="ascii") as f:
            f.write(str(value))
    except OSError:
        return False
    return True
