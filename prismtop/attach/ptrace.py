"""ptrace(2) on one thread of another process, x86_64: stop it, make it run a call, put it back, let it go.

Only that thread is ever stopped. No signal is sent to it and none is blocked: calls are followed through
system call stops. Signals that arrive meanwhile are held and sent again. Everything the thread runs returns
by itself into its own registers (see `registers`), so it survives the death of this process at any moment.
For the same reason PTRACE_O_EXITKILL is never set.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import time
from collections.abc import Callable
from types import TracebackType

from prismtop.attach import memory
from prismtop.attach.errors import (
    AttachError,
    AttachPermissionError,
    InjectionError,
    TargetExitedError,
    TargetStateError,
)
from prismtop.attach.gadgets import Gadgets
from prismtop.attach.process import Mapping, check_identity, mapping_at, thread_stat
from prismtop.attach.registers import (
    NO_SYSCALL,
    Regs,
    ReturnFrame,
    foreign,
    in_blocking_syscall,
    restarted,
    return_frame,
)
from prismtop.attach.tracing import (
    CONT,
    DETACH,
    GET_RSEQ,
    GETREGS,
    GETREGSET,
    GETSIGINFO,
    GETSIGMASK,
    INTERRUPT,
    SEIZE,
    SETREGS,
    SETREGSET,
    SYSCALL,
    Iovec,
    libc,
    ptrace,
)

_O_TRACESYSGOOD = 1  # include/uapi/linux/ptrace.h
_EVENT_STOP = 128
_NT_X86_XSTATE = 0x202
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
_SYS_READ, _SYS_RT_TGSIGQUEUEINFO, _SYS_TGKILL = 0, 297, 234  # arch/x86/entry/syscalls/syscall_64.tbl
_SI_TKILL = -6
_MAX_XSTATE = 1 << 16
_LOOK_EVERY_S = 0.05
STOP_TIMEOUT_S = 2.0

Step = Callable[[str], None]


class ThreadGoneError(AttachError):
    """The chosen thread ended before it was touched; another one will do."""


class NotNowError(AttachError):
    """The thread is at a place where it must not be made to run anything; it was let go untouched."""


def _refused(pid: int) -> AttachPermissionError:
    return AttachPermissionError(
        f"The kernel refuses ptrace on process {pid}.",
        fix="Run 'prismtop doctor' to see what stands in the way.",
    )


_overdue: set[int] = set()


def overdue() -> bool:
    """Whether a thread did not stop in time and could not be let go, because only a stopped one can be.

    It stops as soon as it leaves the kernel, with nobody to notice. Nothing takes the request back but the
    end of this process, which has to come before that.
    """
    return bool(_overdue)


class StoppedThread:
    """One thread, stopped; a context manager that always leaves it as it was.

    Args:
        pid: the process.
        tid: the thread.
        start_time: start time of the process (clock ticks since boot); checked again once it is held.
        maps: its memory map, read shortly before.
        on_step: called with the name of each step just done; for tests that end this process there.

    Attributes:
        pause_us: how long the thread was stopped, from the request to the release (an upper bound).
    """

    def __init__(
        self, pid: int, tid: int, start_time: int, maps: list[Mapping], on_step: Step = lambda _: None
    ) -> None:
        self.pid, self.tid = pid, tid
        self.pause_us = 0.0
        self.regs = Regs()
        self._start_time = start_time
        self._maps = maps
        self._on_step = on_step
        self._changed = False  # its registers are not its own at the moment
        self._in_syscall = False  # stopped on entry of the harmless system call that ends a remote call
        self._held: list[tuple[int, bytes]] = []
        self._frame: ReturnFrame | None = None
        self._xstate = b""
        self._buffer = ctypes.create_string_buffer(_MAX_XSTATE)
        self._end_wait = False

    # -- stopping and letting go

    def __enter__(self) -> StoppedThread:
        self._signals = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        try:
            return self._hold()
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)
            raise

    def _hold(self) -> StoppedThread:
        try:
            self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise TargetExitedError(f"Process {self.pid} has exited.") from None
        except PermissionError:
            raise _refused(self.pid) from None
        try:
            self._seize()
        except BaseException:
            os.close(self._memory)
            raise
        try:
            # From here on the kernel keeps pid and thread id for us, so that neither can come to mean
            # another.
            check_identity(self.pid, self._start_time)
            if thread_stat(self.pid, self.tid) is None:
                raise ThreadGoneError(f"Thread {self.tid} is not one of process {self.pid} any more.")
            self._on_step("seized")
            began = time.perf_counter_ns()
            ptrace(INTERRUPT, self.tid)
            self._await_first_stop()
            self._on_step("stopped")
            ptrace(GETREGS, self.tid, 0, self.regs.buffer)
        except OSError as e:
            self._detach()
            raise TargetExitedError(f"Process {self.pid} exited while it was being entered.") from e
        except BaseException:
            self._detach()
            raise
        self._began = began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish()
        except (OSError, TargetExitedError) as e:
            error = e if error is None else error
        finally:
            self._detach()
            self.pause_us = (time.perf_counter_ns() - self._began) / 1e3
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals)
        if isinstance(error, OSError) and error.errno == errno.ESRCH:
            raise TargetExitedError(f"Process {self.pid} exited while it was being entered.") from error
        if error is not None:
            raise error

    def _seize(self) -> None:
        try:
            ptrace(SEIZE, self.tid, 0, _O_TRACESYSGOOD)
        except OSError as e:
            if e.errno == errno.ESRCH:
                raise ThreadGoneError(f"Thread {self.tid} of process {self.pid} has ended.") from None
            raise _refused(self.pid) from None

    def _await_first_stop(self) -> None:
        """Wait for the stop that was asked for; signals already on their way are let through.

        The only wait that may time out: nothing has been changed yet.
        """
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            status = self._wait(deadline)
            number = os.WSTOPSIG(status)
            if status >> 16 == _EVENT_STOP:
                if number != signal.SIGTRAP:
                    raise TargetStateError(
                        f"Process {self.pid} is stopped ({signal.Signals(number).name}).",
                        fix=f"Resume it with 'kill -CONT {self.pid}', then try again.",
                    )
                return
            ptrace(CONT, self.tid, 0, number)

    def _wait(self, deadline: float | None = None) -> int:
        """The next stop of the thread, as a wait status.

        Without a deadline it waits for as long as it takes: a thread with foreign registers must be seen
        through, and a throttled cgroup or a starved real-time core can delay it a lot. It never spins: the
        thread may have to run on this very core (measured on two cores: spinning for 60 us made the slowest
        twentieth of the stops ten times as long).
        """
        tid, status = self._waitpid(os.WNOHANG if deadline is not None else 0)
        while not tid:
            # A stop sends SIGCHLD to the tracer; it is blocked while a thread is held (see __enter__).
            signal.sigtimedwait((signal.SIGCHLD,), _LOOK_EVERY_S)
            tid, status = self._waitpid(os.WNOHANG)
            if not tid and deadline is not None and time.monotonic() > deadline:
                raise TargetStateError(
                    f"Thread {self.tid} of process {self.pid} did not stop within {STOP_TIMEOUT_S:g} s: "
                    "it is waiting for a device (state D) or gets no CPU.",
                    fix="Try again when it is scheduled (see its cgroup's cpu.stat and cpu.max).",
                )
        if os.WIFSTOPPED(status):
            return status
        if self._changed or self.tid == self.pid:
            raise TargetExitedError(f"Process {self.pid} exited while it was being entered.")
        raise ThreadGoneError(f"Thread {self.tid} of process {self.pid} has ended.")

    def _waitpid(self, flags: int) -> tuple[int, int]:
        try:
            return os.waitpid(self.tid, _WALL | flags)
        except ChildProcessError:
            raise TargetExitedError(f"Process {self.pid} exited while it was being entered.") from None

    def _detach(self) -> None:
        try:
            ptrace(DETACH, self.tid)
        except OSError:
            stat = thread_stat(self.pid, self.tid)
            if stat is not None and not stat.exited:
                _overdue.add(self.tid)
        os.close(self._memory)

    def _finish(self) -> None:
        """Give the thread its own registers, at a stop from which an interrupted call is restarted."""
        if self._changed:
            self._give_back()
        elif self._end_wait:
            self.regs.put(rax=-errno.EINTR, orig_rax=NO_SYSCALL)
            ptrace(SETREGS, self.tid, 0, self.regs.buffer)
        self._on_step("restored")
        for number, info in self._held:
            self._send_again(number, info)
        self._held.clear()

    def _give_back(self) -> None:
        own = self.regs
        if self._end_wait:
            own = own.copy().put(rax=-errno.EINTR, orig_rax=NO_SYSCALL)
        if self._in_syscall and self.in_blocking_syscall() and not self._end_wait:
            own = restarted(own)  # the harmless call that it is about to enter becomes its own again
        elif not self._faulted:
            ptrace(INTERRUPT, self.tid)
            self._resume(CONT, until_event=True)
        buffer = ctypes.create_string_buffer(self._xstate, len(self._xstate))
        iovec = Iovec(ctypes.addressof(buffer), len(self._xstate))
        ptrace(SETREGSET, self.tid, _NT_X86_XSTATE, ctypes.byref(iovec))
        ptrace(SETREGS, self.tid, 0, own.buffer)
        self._changed = False

    def _send_again(self, number: int, info: bytes) -> None:
        """Hand a held signal to the thread that had taken it, with its siginfo where the kernel allows that.

        rt_tgsigqueueinfo(2) refuses si_code >= 0 and SI_TKILL: nobody may pretend to be the kernel or
        kill(2).
        """
        (code,) = struct.unpack_from("<i", info, 8)
        if code < 0 and code != _SI_TKILL:
            buffer = ctypes.create_string_buffer(info, len(info))
            if libc.syscall(_SYS_RT_TGSIGQUEUEINFO, self.pid, self.tid, number, buffer) == 0:
                return
        libc.syscall(_SYS_TGKILL, self.pid, self.tid, number)

    # -- following it

    _faulted = False

    def _resume(self, request: int, *, until_event: bool = False) -> None:
        """Let the thread go on until its next system call stop (or the stop that was asked for)."""
        while True:
            ptrace(request, self.tid)
            status = self._wait()
            number = os.WSTOPSIG(status)
            if status >> 16 == _EVENT_STOP:
                if until_event:
                    return
                continue  # a group stop of the whole process: it joins it when it is let go
            if number == _SYSCALL_STOP:
                if not until_event:
                    return
                continue
            info = ctypes.create_string_buffer(128)
            ptrace(GETSIGINFO, self.tid, 0, info)
            if number in _FAULTS and struct.unpack_from("<i", info, 8)[0] > 0:
                self._faulted = True  # a signal stop: its registers can be put back right here
                raise InjectionError(
                    f"A call inside process {self.pid} ended with {signal.Signals(number).name}; "
                    "it was undone."
                )
            self._held.append((number, info.raw))

    # -- making it do things

    def in_blocking_syscall(self) -> bool:
        """Whether it was asleep in a system call that the kernel restarts by itself."""
        return in_blocking_syscall(self.regs)

    def end_wait(self) -> None:
        """On release, let the interrupted system call return EINTR instead of restarting it.

        CPython's lock code then looks for pending calls (Python/thread_pthread.h and
        PyThread_acquire_lock_timed_with_retries), which is how an idle engine hears of one.
        """
        if self.in_blocking_syscall():
            self._end_wait = True

    def prepare(self, gadgets: Gadgets) -> None:
        """Write the frame through which every call returns; afterwards `syscall` and `call` may be used.

        Raises:
            NotNowError: it is in a restartable sequence, or its stack has too little room.
        """
        if not self.in_blocking_syscall() and self._in_rseq():
            raise NotNowError("The thread is in a restartable sequence.")
        iovec = Iovec(ctypes.addressof(self._buffer), _MAX_XSTATE)
        ptrace(GETREGSET, self.tid, _NT_X86_XSTATE, ctypes.byref(iovec))
        self._xstate = ctypes.string_at(self._buffer, iovec.length)
        mask = ctypes.c_uint64(0)
        ptrace(GETSIGMASK, self.tid, 8, ctypes.byref(mask))
        self._gadgets = gadgets
        frame = return_frame(self.regs, mask.value, self._xstate, gadgets)
        stack = mapping_at(self._maps, self.regs.get("rsp"))
        if stack is None or stack.start > frame.lowest or not stack.perms.startswith("rw"):
            raise NotNowError("The thread's stack has too little room.")
        for address, data in frame.parts:
            self.write(address, data)
        self._frame = frame
        self._on_step("prepared")

    def write(self, address: int, data: bytes) -> None:
        """Write to the target's memory; cheaper during a stop than process_vm_writev through ctypes is."""
        if os.pwrite(self._memory, data, address) != len(data):
            raise InjectionError(f"Could not write {len(data)} bytes at {address:#x} of process {self.pid}.")

    def _in_rseq(self) -> bool:
        """Whether the thread is inside a restartable sequence (rseq(2)).

        The kernel would take foreign registers for having left it, and not restart it any more: per-CPU
        data of tcmalloc and the like would be damaged.
        """
        config = ctypes.create_string_buffer(24)
        try:
            ptrace(GET_RSEQ, self.tid, 24, config)
        except OSError:
            return False  # Linux < 5.13 or built without
        (area,) = struct.unpack_from("<Q", config)
        critical = memory.read_u64(self.pid, area + 8) if area else 0
        if not critical:
            return False
        _, start, length, _ = struct.unpack("<QQQQ", memory.read(self.pid, critical, 32))
        return bool(0 <= self.regs.get("rip") - start < length)

    def _start(self, regs: Regs) -> None:
        if self._in_syscall:
            self._resume(SYSCALL)
            self._in_syscall = False
        ptrace(SETREGS, self.tid, 0, regs.buffer)
        if not self._changed:
            self._changed = True
            self._on_step("changed")

    def syscall(self, number: int, *arguments: int) -> int:
        """Run a system call in the thread; a negative errno is returned as such."""
        frame = self._prepared()
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        values = dict(zip(names, (*arguments, *(0,) * 6), strict=False))
        self._start(
            foreign(self.regs, rip=self._gadgets.syscall_ret, rsp=frame.syscall_sp, rax=number, **values)
        )
        self._resume(SYSCALL)
        self._on_step(f"syscall {number} entered")
        self._resume(SYSCALL)
        regs = Regs()
        ptrace(GETREGS, self.tid, 0, regs.buffer)
        self._on_step(f"syscall {number} left")
        return regs.signed("rax")

    def call(self, function: int, *arguments: int) -> int:
        """Run `int function(...)` in the thread and return its result."""
        frame = self._prepared()
        names = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
        values = dict(zip(names, (*arguments, *(0,) * 6), strict=False))
        self._start(foreign(self.regs, rip=function, rsp=frame.call_sp, rax=0, **values))
        regs = Regs()
        while True:  # the function may make system calls of its own
            self._resume(SYSCALL)
            ptrace(GETREGS, self.tid, 0, regs.buffer)
            if regs.get("rsp") == frame.syscall_sp and regs.get("rip") == self._gadgets.syscall_ret + 2:
                break
        result = regs.get("orig_rax") & 0xFFFFFFFF
        # Whatever the result was, the system call that it now stands for shall be read(-1, 0, 0).
        regs.put(orig_rax=_SYS_READ, rdi=-1, rsi=0, rdx=0)
        ptrace(SETREGS, self.tid, 0, regs.buffer)
        self._in_syscall = True
        self._on_step("called")
        return result - (1 << 32) if result >> 31 else result

    def _prepared(self) -> ReturnFrame:
        if self._frame is None:
            raise RuntimeError("prepare() was not called")
        return self._frame
