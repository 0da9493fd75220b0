"""What a thread did, seen from time to time: `schedstat`, and whether it waits for the GIL.

Nothing is traced and nothing needs a privilege (schedstat), or only that of ptrace (`syscall`); the threads
are not stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prismtop.counters.files import KeptFile
from prismtop.deepdive.layer import LayerEvent

RATE_HZ = 50
PERIOD_NS = 10**9 // RATE_HZ
MAX_EVENTS = 200_000
_FUTEX = {b"202", b"98"}
"""futex(2): x86_64, and the generic table (aarch64). On x86_64 98 is getrusage(2): no address of ours."""


@dataclass
class _Watched:
    pid: int
    tid: int
    schedstat: KeptFile
    stat: KeptFile
    syscall: KeptFile
    gil: range
    at_ns: int = 0
    ran_ns: int = 0
    waited_ns: int = 0
    slices: int = 0
    core: int = -1
    gone: bool = False
    waiting_since_ns: int = 0
    waiting_seen: int = 0


@dataclass
class Poller:
    """Reads the threads `RATE_HZ` times a second, in the thread that calls `read`.

    Args:
        threads: (pid, tid).
        gil: by pid, where the interpreter keeps its GIL (`gil.gil_range`); none leaves GIL waits out.
        schedstat: read it; False when something better tells of the scheduler.
        proc: mount point.
    """

    threads: Sequence[tuple[int, int]]
    gil: Mapping[int, range] = field(default_factory=dict)
    schedstat: bool = True
    proc: str = "/proc"

    def __post_init__(self) -> None:
        self._watched: list[_Watched] = []
        for pid, tid in self.threads:
            where = f"{self.proc}/{pid}/task/{tid}"
            files = [KeptFile(f"{where}/{name}") for name in ("schedstat", "stat", "syscall")]
            gil = self.gil.get(pid, range(0))
            self._watched.append(_Watched(pid, tid, files[0], files[1], files[2], gil))
        self._made: list[LayerEvent] = []
        self.rounds = 0
        self.gil_refused = ""
        self.full = False

    def read(self, now_ns: int) -> None:
        """One round."""
        for thread in self._watched:
            if thread.gone or self.full:
                continue
            try:
                if self.schedstat:
                    self._schedstat(thread, time.monotonic_ns() if self.proc == "/proc" else now_ns)
                if len(thread.gil):
                    self._gil(thread, now_ns)
            except OSError:
                thread.gone = True
                self._settle(thread)
        self.rounds += 1
        self.full = len(self._made) > MAX_EVENTS

    def leave_schedstat(self) -> None:
        """Something better tells of the scheduler from now on: what was seen of it so far is dropped."""
        self.schedstat = False
        self._made = [event for event in self._made if event.name == "gil"]

    def events(self) -> Iterator[LayerEvent]:
        """What was seen; ends what is still going on."""
        for thread in self._watched:
            self._settle(thread)
        yield from self._made

    def close(self) -> None:
        """Close all files."""
        for thread in self._watched:
            for file in (thread.schedstat, thread.stat, thread.syscall):
                file.close()

    def _schedstat(self, thread: _Watched, now_ns: int) -> None:
        ran, waited, slices = (int(word) for word in thread.schedstat.read().split()[:3])
        since = thread.at_ns
        grown_ran, grown_waited, given = (
            ran - thread.ran_ns,
            waited - thread.waited_ns,
            slices - thread.slices,
        )
        thread.at_ns, thread.ran_ns, thread.waited_ns, thread.slices = now_ns, ran, waited, slices
        if not since or not (grown_ran or grown_waited):
            return
        words = thread.stat.read().rpartition(b")")[2].split()
        core = int(words[36])
        args = {"sampled": True, "period_ns": now_ns - since, "core": core, "times_given": given}
        # How long is exact, when within the period is not known: first the wait, then the run.
        room = now_ns - since
        wait = min(grown_waited, room)
        if wait:
            self._slice("runq", thread, since, wait, args)
        run = min(grown_ran, room - wait)
        if run:
            self._slice("oncpu", thread, since + wait, run, args)

    def _gil(self, thread: _Watched, now_ns: int) -> None:
        try:
            words = thread.syscall.read().split()
        except PermissionError:
            thread.gil = range(0)
            self.gil_refused = "GIL waits: /proc/PID/syscall may not be read; run prismtop as root"
            return
        waits = len(words) > 2 and words[0] in _FUTEX and int(words[1], 16) in thread.gil
        if waits:
            thread.waiting_since_ns = thread.waiting_since_ns or now_ns
            thread.waiting_seen += 1
        else:
            self._settle(thread)

    def _settle(self, thread: _Watched) -> None:
        """A wait for the GIL ended: it lasted about as many periods as it was seen."""
        if thread.waiting_seen:
            args = {"sampled": True, "period_ns": PERIOD_NS, "seen": thread.waiting_seen}
            dur = thread.waiting_seen * PERIOD_NS
            self._slice("gil", thread, thread.waiting_since_ns - PERIOD_NS // 2, dur, args)
        thread.waiting_since_ns = thread.waiting_seen = 0

    def _slice(
        self, name: str, thread: _Watched, t0_ns: int, dur_ns: int, args: Mapping[str, object]
    ) -> None:
        self._made.append(LayerEvent("scheduler", "slice", name, t0_ns, dur_ns, thread.pid, thread.tid, args))
