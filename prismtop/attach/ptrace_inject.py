"""The ptrace way in (CPython 3.9 and newer with a GIL, Linux x86_64): queue one pending call.

One thread is stopped for about 0.1 ms and made to run `mmap` and `Py_AddPendingCall(PyRun_SimpleString,
source)`. Py_AddPendingCall takes no GIL and allocates nothing (Python/ceval_gil.c, `_push_pending_call`),
so it may run on a thread that was stopped anywhere, malloc included. The source itself is run later by the
main thread at a bytecode boundary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

from prismtop.attach import memory
from prismtop.attach.errors import AttachError, InjectionError, TargetExitedError
from prismtop.attach.gadgets import Gadgets, find_gadgets
from prismtop.attach.handshake import NOTHING, Handshake, Seen, descriptors, look
from prismtop.attach.image import PythonImage, executable, find_python, seems_initialized, verify_in_memory
from prismtop.attach.payload import READ_HEAD, TEMPLATE_HEAD, at_address
from prismtop.attach.placement import keep_off, own_processors, place, running_on
from prismtop.attach.process import (
    Mapping,
    check_identity,
    mapping_at,
    read_maps,
    thread_cpu,
    thread_stat,
    thread_switches,
    thread_syscall,
    threads,
)
from prismtop.attach.ptrace import NotNowError, Step, StoppedThread, ThreadGoneError, overdue
from prismtop.attach.rehearsal import rehearse_again, rehearsing

# arch/x86/entry/syscalls/syscall_64.tbl
_SYS_CLOSE, _SYS_MMAP, _SYS_MUNMAP, _SYS_FUTEX = 3, 9, 11, 202
# System calls that the kernel restarts unseen after a stop, best first: futex; nanosleep, clock_nanosleep;
# poll, ppoll, select, pselect6, pause, wait4, waitid. Others (epoll_wait, semop, sigtimedwait, sockets with
# a timeout) return EINTR to the program (signal(7)), so a thread in one of them is left alone.
_RESTARTED = {n: i for i, n in enumerate((_SYS_FUTEX, 35, 230, 7, 271, 23, 270, 34, 61, 247))}
_PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS = 3, 0x22
_PAGE, _ALIGNED = 4096, 64
_WARM_NS = 4_000_000  # how long after a stop the next one is as quick
_ASLEEP_S = 0.03  # how long a thread must have slept to count as asleep
_RETRIES = 20
_GRACE_S = 0.05  # how long the payload may take to start by itself before it is helped
_MOST_NUDGES, _MOST_WAKES = 2, 3
_EVAL_BREAKER_BUG = range(9, 13)  # minors in which a pending call does not interrupt: gh-95820


@dataclass(frozen=True)
class PtraceResult:
    """What was done; times of the longest single stop, in microseconds; see `ladder.Injection`."""

    thread: int
    thread_kind: str
    pause_us: float
    main_pause_us: float
    nudged: bool
    seen: Seen
    scratch: tuple[int, int]
    notes: tuple[str, ...]


class PtraceInjector:
    """Everything about one target that is looked up before any of its threads is stopped.

    Args:
        on_step: see `StoppedThread`.
        in_front: entered while a thread is held.
        cpus: the processors on which this process may run; None for those on which it may now.

    Raises:
        AttachError: see `find_python`, `verify_in_memory`, `find_gadgets`.
    """

    def __init__(
        self,
        pid: int,
        start_time: int,
        on_step: Step = lambda _: None,
        in_front: Callable[[], AbstractContextManager[None]] = nullcontext,
        cpus: Set[int] | None = None,
    ) -> None:
        self.pid, self.start_time = pid, start_time
        self.cpus = cpus or own_processors()
        self._let_go_ns = 0
        self.maps: list[Mapping] = read_maps(pid)
        self.image: PythonImage = find_python(pid, self.maps, executable(pid))
        verify_in_memory(pid, self.image)
        self.gadgets: Gadgets = find_gadgets(pid, self.maps)
        self.on_step = on_step
        self.in_front = in_front
        check_identity(pid, start_time)

    @contextmanager
    def stopped(self, tid: int) -> Iterator[StoppedThread]:
        """One thread, stopped; see `StoppedThread`."""
        stop = StoppedThread(self.pid, tid, self.start_time, self.maps, self.on_step)
        elsewhere = keep_off(self.pid, self.cpus, (0, *rehearsing()))
        with self.in_front():
            # With one processor, what makes the stop shorter would hold the engine up for longer than that.
            if elsewhere and time.monotonic_ns() - self._let_go_ns > _WARM_NS:
                rehearse_again()
            if tid == self.pid:
                place(self.cpus)  # while the loop is stopped nobody else may be on its processor
            try:
                with stop as thread:
                    yield thread
            finally:
                keep_off(self.pid, self.cpus)
                self._let_go_ns = time.monotonic_ns()

    def sleeping_threads(self) -> list[int]:
        """Auxiliary threads in a long sleep in a system call that restarts unseen, best first: of equals, one
        that last ran on another processor than the one that the main thread is running on.

        Such a thread holds no interpreter lock that matters here, and stopping it stops no engine loop. Those
        that ran within the last moments are left out: by the time of the stop they may be in a system call
        that does not restart (measured: 1 spurious EINTR of epoll_wait in 1,200 injections without this).
        """
        before = self._blocked_threads()
        if not before:
            return []
        time.sleep(_ASLEEP_S)
        now = self._blocked_threads()
        engine = running_on(self.pid)
        asleep = [
            (rank, thread_cpu(self.pid, tid) == engine, -tid)
            for tid, (rank, n) in now.items()
            if before.get(tid) == (rank, n)
        ]
        return [-negative for _, _, negative in sorted(asleep)]

    def _blocked_threads(self) -> dict[int, tuple[int, int]]:
        """Thread id -> (rank of its system call, context switches so far) of those that may be used."""
        found = {}
        for tid in threads(self.pid):
            if tid == self.pid:
                continue
            stat, blocked = thread_stat(self.pid, tid), thread_syscall(self.pid, tid)
            if stat is None or stat.state != "S" or blocked is None or blocked[0] not in _RESTARTED:
                continue
            switches = thread_switches(self.pid, tid)
            if switches is not None:
                found[tid] = (_RESTARTED[blocked[0]], switches)
        return found

    def _may_hold_queue_lock(self, thread: StoppedThread) -> bool:
        """Whether a thread stopped in user code could be inside CPython's own handling of pending calls.

        Py_AddPendingCall would then wait for a lock that this very thread holds. Only CPython itself and
        the lock functions of the C library qualify, and not the interpreter loop, which never holds it.
        """
        if thread.in_blocking_syscall():
            return False
        rip = thread.regs.get("rip")
        if rip in self.image.eval_loop:
            return False
        here = mapping_at(self.maps, rip)
        return here is None or rip in self.image.span or "/libc" in here.path or "/libpthread" in here.path

    def with_thread(
        self, work: Callable[[StoppedThread], None], *, auxiliary: bool = True, insist: bool = True
    ) -> StoppedThread | None:
        """Run `work` on a stopped thread: a sleeping auxiliary one if possible, else the main thread.

        Args:
            insist: take the main thread as it comes when it was never seen at a harmless place.

        Returns:
            The thread, already let go, or None when no thread could be used.

        Raises:
            AttachError: from ptrace or from `work`.
        """
        for tid in self.sleeping_threads()[:3] if auxiliary else ():
            try:
                with self.stopped(tid) as thread:
                    if thread.in_blocking_syscall():
                        thread.prepare(self.gadgets)
                        work(thread)
                        return thread
            except (ThreadGoneError, NotNowError):
                continue
        for attempt in range(_RETRIES):
            try:
                with self.stopped(self.pid) as thread:
                    last = insist and attempt == _RETRIES - 1
                    if last or not self._may_hold_queue_lock(thread):
                        thread.prepare(self.gadgets)
                        work(thread)
                        return thread
            except NotNowError:
                self.maps = read_maps(self.pid)
            time.sleep(0.001 * (1 + attempt % 5))
        return None

    def inject(
        self,
        source: str,
        handshake: Handshake,
        *,
        timeout_s: float,
        data: bytes = b"",
        wake: bool = True,
        auxiliary: bool = True,
    ) -> PtraceResult:
        """Queue `source` for the main thread, and see to it that it starts.

        Args:
            source: Python source that cannot raise (`payload.safe_template`).
            handshake: what to look for.
            data: for a source from `payload.direct_template`; put behind it.
            timeout_s: how long to wait for the start, in seconds; 0 returns at once.
            wake: whether an idle main thread may be woken (see `StoppedThread.end_wait`).
            auxiliary: whether an auxiliary thread may be used; for measurements on the main thread.

        Raises:
            InjectionError: refused by the target (not initialised, queue full, no memory); nothing was left.
            AttachError: see `StoppedThread`.
        """
        behind = (len(source) + _ALIGNED) // _ALIGNED * _ALIGNED
        size = (behind + len(data) + _PAGE - 1) // _PAGE * _PAGE
        symbols = self.image.symbols
        scratch: list[int] = []
        initialized = seems_initialized(self.pid, self.image)

        def reserve(thread: StoppedThread) -> None:
            if not initialized and not thread.call(symbols["Py_IsInitialized"]):
                raise InjectionError(
                    f"Python in process {self.pid} is not initialised yet.", fix="Try again in a few seconds."
                )
            address = thread.syscall(_SYS_MMAP, 0, size, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS, -1, 0)
            if -_PAGE < address < 0:
                raise InjectionError(f"Process {self.pid} could not map {size} bytes (errno {-address}).")
            scratch.append(address)

        def queue(thread: StoppedThread) -> None:
            full.append(
                thread.call(symbols["Py_AddPendingCall"], symbols["PyRun_SimpleString"], scratch[0]) != 0
            )

        # Two short stops instead of one of twice the length; nothing is held while the source is written.
        full: list[bool] = []
        first = self.with_thread(reserve, auxiliary=auxiliary)
        second = None
        if first is not None:
            try:
                text = at_address(source, scratch[0] + behind).encode("ascii")
                memory.write(self.pid, scratch[0], text.ljust(behind, b"\0") + data)
                self.on_step("source written")
                second = self.with_thread(queue, auxiliary=auxiliary)
            finally:
                if second is None or full[-1]:
                    with suppress(AttachError):  # the reason for which it is not queued is the one to tell
                        self.unmap((scratch[0], size))
        if first is None or second is None:
            raise InjectionError(
                f"No thread of process {self.pid} could be stopped at a harmless place.", fix="Try again."
            )
        if full[-1]:
            raise InjectionError(
                f"The queue of pending calls of process {self.pid} is full.",
                fix="Another tool is injecting into it; try again when that one has finished.",
            )
        self.on_step("queued")
        stops = (first, second)
        main_pause = max((thread.pause_us for thread in stops if thread.tid == self.pid), default=0.0)
        follow = _Follow(self, handshake, wake)
        seen = follow.until(time.monotonic() + timeout_s)
        return PtraceResult(
            thread=second.tid,
            thread_kind="main" if self.pid in (first.tid, second.tid) else "aux-sleeping",
            pause_us=max(thread.pause_us for thread in stops),
            main_pause_us=max(main_pause, follow.main_pause_us),
            nudged=follow.nudges > 0,
            seen=seen,
            scratch=(scratch[0], size),
            notes=tuple(follow.notes),
        )

    def wake_with(self, function: str) -> float:
        """Queue a call of a function of CPython from a sleeping main thread itself, and end its wait for a
        lock.

        Returns:
            How long it was stopped, in microseconds; 0 when it was not asleep in a lock.
        """
        with self.stopped(self.pid) as thread:
            if not thread.in_blocking_syscall() or thread.regs.get("orig_rax") != _SYS_FUTEX:
                return 0.0
            thread.prepare(self.gadgets)
            thread.call(self.image.symbols["Py_AddPendingCall"], self.image.symbols[function], 0)
            thread.end_wait()
        return thread.pause_us

    def close_descriptor(self, fd: int) -> None:
        """Close a descriptor in the target (the error memfd of a payload that failed)."""
        self.with_thread(lambda thread: void(thread.syscall(_SYS_CLOSE, fd)))

    def unmap(self, scratch: tuple[int, int]) -> bool:
        """Give a scratch mapping back; True when the target does not have it any more."""
        done: list[int] = []
        self.with_thread(lambda thread: done.append(thread.syscall(_SYS_MUNMAP, *scratch)))
        return done == [0]


def mark_read(pid: int, scratch: tuple[int, int]) -> None:
    """Note in the mapping itself that its source was read and is not needed any more."""
    head = READ_HEAD.encode()
    if memory.read(pid, scratch[0], len(head)) == TEMPLATE_HEAD.encode():
        memory.write(pid, scratch[0], head)


def may_unmap(pid: int, scratch: tuple[int, int]) -> bool:
    """Whether a mapping is one of ours, still there, and marked as read."""
    address, size = scratch
    here = mapping_at(read_maps(pid), address)
    if here is None or here.path or here.end < address + size:
        return False
    head = READ_HEAD.encode()
    return memory.read(pid, address, len(head)) == head


def make_empty(pid: int, address: int) -> bool:
    """Make a queued payload do nothing: one byte turns its source into an empty program."""
    head = TEMPLATE_HEAD.encode()
    if memory.read(pid, address, len(head)) != head:
        return False
    memory.write(pid, address, b"\0")
    return True


def void(_: object) -> None:
    """Make an expression a statement."""


class _Follow:
    """Wait for the payload to start, helping where CPython would not look by itself."""

    def __init__(self, injector: PtraceInjector, handshake: Handshake, wake: bool) -> None:
        self.injector, self.handshake, self.wake = injector, handshake, wake
        version = injector.image.version
        self.may_nudge = version is not None and version[0] == 3 and version[1] in _EVAL_BREAKER_BUG
        self.main_pause_us = 0.0
        self.nudges = self.wakes = 0
        self.notes: list[str] = []

    def until(self, deadline: float) -> Seen:
        """What is seen when the payload has started, failed, or `deadline` (monotonic seconds) has passed; or
        when this process has to end (`overdue`)."""
        help_at, pause = time.monotonic() + _GRACE_S, 0.0005
        while True:
            seen = look(self.injector.pid, self.handshake)
            now = time.monotonic()
            if seen.started or seen.error is not None:
                return seen
            if now >= deadline:
                return seen
            if seen == NOTHING and now >= help_at:
                self._help()
                if overdue():
                    return seen
                help_at = time.monotonic() + _GRACE_S * 2 ** (self.nudges + self.wakes)
            check_identity(self.injector.pid, self.injector.start_time)
            time.sleep(min(pause, max(0.0, deadline - now)))
            pause = min(pause * 1.3, 0.005)

    def _help(self) -> None:
        """One attempt to make the main thread look at its pending calls."""
        pid = self.injector.pid
        stat, blocked = thread_stat(pid, pid), thread_syscall(pid, pid)
        if stat is None:
            return
        try:
            if stat.state == "S" and blocked is not None:
                if blocked[0] == _SYS_FUTEX and self.wake and self.wakes < _MOST_WAKES:
                    self._end_wait()
            elif self.may_nudge and self.nudges < _MOST_NUDGES:
                self._nudge()
        except TargetExitedError:
            raise
        except AttachError as e:
            self.notes.append(f"could not nudge the main thread: {e.message}")

    def _end_wait(self) -> None:
        """Idle engine: its main thread sleeps in a lock (Queue.get). Let that end early, as for a signal."""
        with self.injector.stopped(self.injector.pid) as thread:
            if thread.in_blocking_syscall() and thread.regs.get("orig_rax") == _SYS_FUTEX:
                thread.end_wait()
                self.wakes += 1
        self.main_pause_us = max(self.main_pause_us, thread.pause_us)

    def _nudge(self) -> None:
        """gh-95820: a pending call added by another thread does not set the main thread's eval breaker.

        A second one, added by the main thread itself, does. It must not be queued while the first one runs
        (with tracing on, 3.11 then loops for ever), hence only when nothing was seen of it, also not after
        the stop.
        """
        symbols = self.injector.image.symbols

        before = descriptors(self.injector.pid)
        if look(self.injector.pid, self.handshake) != NOTHING:
            return

        def queue_nothing(thread: StoppedThread) -> None:
            if look(self.injector.pid, self.handshake, but=before) == NOTHING:
                thread.call(symbols["Py_AddPendingCall"], symbols["PyCallable_Check"], 0)
                self.nudges += 1

        thread = self.injector.with_thread(queue_nothing, auxiliary=False, insist=False)
        if thread is not None:
            self.main_pause_us = max(self.main_pause_us, thread.pause_us)
