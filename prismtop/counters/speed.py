"""How fast the engine's core does the same work: what clocks, steal and load do not show.

A neighbour on the other half of a physical core, a hypervisor that caps a virtual one, heat behind a clock
that is not shown: procfs looks the same, and everything takes up to twice as long. So a short fixed piece of
work is timed with the CPU clock of the thread that does it: time in which another thread had the core does
not count, time in which the hardware was shared does.

Neighbours slow single cores (two cores of one machine, seven minutes: correlation 0.1 to 0.2), so it has to
be the engine's. A thread of ours must not go there: on a core that is fought over it waits (median 6 ms, one
time in ten half a second), and prismtop's interpreter lock waits with it. So a process of its own does it, of
which nobody minds that it waits; it takes the core for about 0.1 ms, four times a second. Where that cannot
be, the sampler's own thread is timed on whichever core it has; the readings' source says so.

On a machine that sets its clocks by load, a core that was idle may be timed before its clock has risen.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from prismtop.counters import speed_worker
from prismtop.counters.files import KeptFile, read_int
from prismtop.counters.sheet import Sheet
from prismtop.counters.speed_worker import time_work

HZ = 2.0
"""Readings a second; each is of the half second before it."""
SHORTEST_NS = 450_000_000
"""Never more often: the worker takes 0.2 s for an answer."""
BLOCK, RANK = 20, 2
"""Full speed: the second best of 20 consecutive readings (their best decile), in the best such block."""
NO_BASELINE = f"no baseline yet: full speed is known after {BLOCK} readings"
NO_TURN = "the worker has had no turn on the engine's core since the last reading"
NOT_YET = "the first answer is on its way"
ANYWHERE = "timing, any core"
"""Source of readings that are not of the engine's core."""
_STAT_PROCESSOR = 36
"""Column of /proc/PID/task/TID/stat after the name: the core it ran on last (proc(5))."""

Thread = tuple[int, int]
"""(pid, tid)."""


class Answer(NamedTuple):
    """Of the worker: ns of CPU time for the work (minus errno when it may not run there), and ns of CPU time
    that it has used itself so far."""

    core: int
    took_ns: int
    used_ns: int


class Worker(Protocol):
    """Times the work on one core."""

    def ask(self, core: int) -> None:
        """Have it timed there. Raises OSError when the worker is gone."""

    def answer(self) -> Answer | None:
        """What came since it was asked; never waits. Raises OSError when the worker is gone."""

    def close(self) -> None:
        """End it."""


class WorkerProcess:
    """`speed_worker.py` in a process. Raises OSError when it cannot be started."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(speed_worker.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._out, False)

    def ask(self, core: int) -> None:
        """See `Worker`."""
        os.write(self._in, b"%d\n" % core)

    def answer(self) -> Answer | None:
        """See `Worker`."""
        try:
            words = os.read(self._out, 256).split()
        except BlockingIOError:
            return None
        if len(words) < 3:
            raise BrokenPipeError("the worker has ended")
        return Answer(*(int(word) for word in words[-3:]))

    def close(self) -> None:
        """See `Worker`. It ends with its input; one that has no turn to notice is killed."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)


class _FullSpeed:
    """What the work takes at full speed, of one kind of cores."""

    def __init__(self) -> None:
        self.ns: int | None = None
        self._block: deque[int] = deque(maxlen=BLOCK)

    def take(self, took_ns: int) -> None:
        self._block.append(took_ns)
        if len(self._block) == BLOCK:
            decile = sorted(self._block)[RANK - 1]
            self.ns = decile if self.ns is None else min(self.ns, decile)


class SpeedReader:
    """Counters of `host.speed`.

    Args:
        hottest: the thread whose core is to be timed; None while none is known.
        proc, sys: mount points.
        start: starts the worker.
        work: times the work in the calling thread, where no worker can.
    """

    name = "speed"

    def __init__(
        self,
        hottest: Callable[[], Thread | None] = lambda: None,
        proc: str = "/proc",
        sys: str = "/sys",
        start: Callable[[], Worker] = WorkerProcess,
        work: Callable[[], int] = time_work,
    ) -> None:
        self._hottest = hottest
        self._proc = proc
        self._thread: Thread | None = None
        self._stat = KeptFile("")
        self._cpus = f"{sys}/devices/system/cpu"
        self._start = start
        self._work = work
        self._worker: Worker | None = None
        self._refused = False
        self._kinds: dict[int, int] = {}
        self._full: dict[int, _FullSpeed] = {}
        self._read_ns = -SHORTEST_NS

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One reading; none when the last one was a moment ago."""
        if sheet.now_ns - self._read_ns < SHORTEST_NS:
            return
        self._read_ns = sheet.now_ns
        core = None if self._refused else self._engine_core()
        if core is None:
            self._take(sheet, None, self._work())
            return
        try:
            self._on(sheet, core)
        except OSError:
            # One that was killed from outside is not started again: somebody does not want it.
            self._refuse()

    def learn_at_once(self) -> None:
        """Take the present speed for the full one: for who looks once and does not watch (2 ms)."""
        for _ in range(BLOCK):
            self._full.setdefault(0, _FullSpeed()).take(self._work())

    def close(self) -> None:
        """End the worker."""
        self._stat.close()
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _on(self, sheet: Sheet, core: int) -> None:
        if self._worker is None:
            self._worker = self._start()
            self._worker.ask(core)
            sheet.gap("host_cpu_speed_ratio", "host", NOT_YET)
            return
        answer = self._worker.answer()
        if answer is None:
            sheet.gap("host_cpu_speed_ratio", "host", NO_TURN)
        elif answer.took_ns < 0:  # a core outside of our own cpuset
            self._refuse()
        else:
            self._worker.ask(core)
            sheet.rate("sampler_cpu_ratio", "speed worker", answer.used_ns, 1e-9)
            self._take(sheet, answer.core, answer.took_ns)

    def _refuse(self) -> None:
        self._refused = True
        self._full.clear()
        self.close()

    def _take(self, sheet: Sheet, core: int | None, took_ns: int) -> None:
        if took_ns <= 0:
            return
        full = self._full.setdefault(0 if core is None else self._kind(core), _FullSpeed())
        full.take(took_ns)
        source = ANYWHERE if core is None else ""
        if full.ns is None:
            sheet.gap("host_cpu_speed_ratio", "host", NO_BASELINE, source=source)
            return
        # Faster than full speed is only for as long as the baseline has not caught up: no speed to fall from.
        speed = min(1.0, full.ns / took_ns)
        sheet.value("host_cpu_speed_ratio", "host", speed, source=source)
        if core is not None:
            sheet.value("core_speed_ratio", f"core {core}", speed)

    def _engine_core(self) -> int | None:
        """Where the hottest thread ran last."""
        thread = self._hottest()
        if thread is None:
            return None
        if thread != self._thread:
            self._stat.close()
            self._thread = thread
            self._stat = KeptFile(f"{self._proc}/{thread[0]}/task/{thread[1]}/stat")
        try:
            return int(self._stat.read().rpartition(b")")[2].split()[_STAT_PROCESSOR])
        except (OSError, IndexError, ValueError):  # it has ended
            return None

    def _kind(self, core: int) -> int:
        """Cores of one kind share a baseline: those with the same highest clock, or capacity (arm64)."""
        if core not in self._kinds:
            where = f"{self._cpus}/cpu{core}"
            kind = read_int(f"{where}/cpufreq/cpuinfo_max_freq") or read_int(f"{where}/cpu_capacity")
            self._kinds[core] = kind or 0
        return self._kinds[core]
