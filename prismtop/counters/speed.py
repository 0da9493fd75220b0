"""How fast the engine's core does the same work: what clocks, steal and load do not show.

A neighbour on the other half of a physical core, a hypervisor that caps a virtual one, heat behind a clock
that is not shown: procfs looks the same, and everything takes up to twice as long. So a short fixed piece of
work is timed with the CPU clock of the thread that does it: time in which another thread had the core does
not count, time in which the hardware was shared does.

Neighbours slow single cores (two cores of one machine, seven minutes: correlation 0.1 to 0.3), so it has to
be the engine's. A thread of ours must not go there: on a core that is fought over it waits (median 6 ms, one
time in ten half a second), and prismtop's interpreter lock waits with it. So a process of its own does it, of
which nobody minds that it waits; it takes the core for about 0.1 ms, twice a second. Where that cannot
be (a cpuset, a machine with isolated cores), the sampler's own thread is timed on whichever core it has; the
readings' source says so.

An engine that is moved between cores within a period is met on each as often as it was there, so that short
slowdowns are a matter of luck. On a machine that sets its clocks by load, a core that was idle may be timed
before its clock has risen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from prismtop.counters import speed_worker
from prismtop.counters.files import read_int, read_text
from prismtop.counters.sheet import Sheet
from prismtop.counters.speed_worker import time_work

BLOCK, RANK = 40, 4
"""Full speed: the fourth best of 40 consecutive timings (their best decile), in the best such block."""
NO_BASELINE = f"no baseline yet: full speed is known after {BLOCK} timings, about 20 seconds"
NO_TURN = "the worker has had no turn on the engine's core for two seconds"
NO_TURN_NS = 2 * 10**9
ANYWHERE = "timing, any core"
"""Source of readings that are not of the engine's core."""

Thread = tuple[int, int]
"""(pid, tid)."""


class Timing(NamedTuple):
    """Of the worker: ns of CPU time for the work on a core, and those that it has used itself so far. With
    core -1 it could not, and `took_ns` is the errno.
    """

    core: int
    took_ns: int
    used_ns: int


class Worker(Protocol):
    """Times the work on the core of a thread."""

    def follow(self, path: str) -> None:
        """Whose core to time: the `stat` of a thread. Raises OSError when the worker is gone."""

    def timings(self) -> Sequence[Timing]:
        """What came since the last call; never waits. Raises OSError when the worker is gone."""

    def close(self) -> None:
        """End it."""


class WorkerProcess:
    """`speed_worker.py` in a process. Raises OSError when it cannot be started."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable or "python3", "-I", "-S", str(Path(speed_worker.__file__))],
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
        self._rest = b""

    def follow(self, path: str) -> None:
        """See `Worker`."""
        os.write(self._in, path.encode() + b"\n")

    def timings(self) -> Sequence[Timing]:
        """See `Worker`."""
        try:
            data = os.read(self._out, 1 << 16)
        except BlockingIOError:
            return ()
        if not data:
            raise BrokenPipeError(errno.EPIPE, "the worker has ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [Timing(*map(int, line.split())) for line in lines]

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
        self._cpus = f"{sys}/devices/system/cpu"
        self._start = start
        self._work = work
        self._worker: Worker | None = None
        self._thread: Thread | None = None
        # Whoever set cores apart wants nobody else's work there, however short. Without any the files are
        # empty, missing, or say `(null)`.
        kept = [read_text(f"{self._cpus}/{name}") or "" for name in ("isolated", "nohz_full")]
        self._refused = any(map(str.isdigit, "".join(kept)))
        self._heard_ns = 0
        self._kinds: dict[int, int] = {}
        self._full: dict[int, _FullSpeed] = {}

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One reading: the mean over the timings since the last one."""
        if not self._refused:
            try:
                if self._follow(sheet):
                    self._timings(sheet)
                    return
            except OSError:
                # One that was killed from outside is not started again: somebody does not want it.
                self._refuse()
        self._put(sheet, {-1: [self._work()]})

    def learn_at_once(self) -> None:
        """Take the present speed for the full one: for who looks once and does not watch (2 ms)."""
        for _ in range(BLOCK):
            self._full.setdefault(0, _FullSpeed()).take(self._work())

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _follow(self, sheet: Sheet) -> bool:
        """Have the worker follow the hottest thread; False when there is none."""
        thread = self._hottest()
        if thread is None:
            return False
        if self._worker is None:
            self._worker = self._start()
            self._heard_ns = sheet.now_ns
        if thread != self._thread:
            self._thread = thread
            self._worker.follow(f"{self._proc}/{thread[0]}/task/{thread[1]}/stat")
        return True

    def _timings(self, sheet: Sheet) -> None:
        assert self._worker is not None
        cores: dict[int, list[int]] = {}
        for core, took_ns, used_ns in self._worker.timings():
            if core >= 0:
                cores.setdefault(core, []).append(took_ns)
                used_s = used_ns / 1e9
            elif took_ns in (errno.ENOENT, errno.ESRCH):  # that thread has ended
                self._thread = None
            else:  # a core outside of our own cpuset
                self._refuse()
                return
        if cores:
            self._heard_ns = sheet.now_ns
            sheet.rate("sampler_cpu_ratio", "speed worker", used_s)
            self._put(sheet, cores)
        elif sheet.now_ns - self._heard_ns >= NO_TURN_NS:
            sheet.gap("host_cpu_speed_ratio", "host", NO_TURN)

    def _refuse(self) -> None:
        self._refused = True
        self._full.clear()
        self.close()

    def _put(self, sheet: Sheet, cores: dict[int, list[int]]) -> None:
        """Readings of timings by core; -1 is any core."""
        source = ANYWHERE if -1 in cores else ""
        shares: list[float] = []
        for core, took in cores.items():
            full = self._full.setdefault(self._kind(core), _FullSpeed())
            for took_ns in took:
                full.take(took_ns)
            if full.ns is None:
                continue
            # Faster than full speed is only for as long as the baseline has not caught up: no speed to fall
            # from.
            slowness = [max(1.0, took_ns / full.ns) for took_ns in took]
            shares += slowness
            if core >= 0:
                sheet.value("core_speed_ratio", f"core {core}", len(slowness) / sum(slowness))
        if shares:
            sheet.value("host_cpu_speed_ratio", "host", len(shares) / sum(shares), source=source)
        else:
            sheet.gap("host_cpu_speed_ratio", "host", NO_BASELINE, source=source)

    def _kind(self, core: int) -> int:
        """Cores of one kind share a baseline: those with the same highest clock, or capacity (arm64)."""
        if core < 0:
            return 0
        if core not in self._kinds:
            where = f"{self._cpus}/cpu{core}"
            kind = read_int(f"{where}/cpufreq/cpuinfo_max_freq") or read_int(f"{where}/cpu_capacity")
            self._kinds[core] = kind or 0
        return self._kinds[core]
