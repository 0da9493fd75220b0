"""The PEP 768 way in (CPython 3.14 and newer): the interpreter's own remote debugging protocol.

No thread is stopped and no code of ours runs before a safe point: a script path and a flag are written into
the main thread's state, and the interpreter runs the script at its next check (PEP 768;
Python/remote_debugging.c, Python/ceval_gil.c `_PyRunRemoteDebugger`). This is a writer of our own because
`sys.remote_exec` wants the same minor version on both sides.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from prismtop.attach import memory
from prismtop.attach.errors import (
    AttachError,
    InjectionError,
    RemoteDebuggingDisabledError,
    TargetStateError,
    UnsupportedTargetError,
)
from prismtop.attach.handshake import NOTHING, Handshake, Seen, look
from prismtop.attach.image import CHECK_SIGNALS, PythonImage, executable, find_python
from prismtop.attach.process import check_identity, read_maps, read_status, thread_stat, thread_syscall
from prismtop.attach.ptrace import StoppedThread, overdue
from prismtop.attach.ptrace_inject import PtraceInjector
from prismtop.attach.rehearsal import rehearse
from prismtop.attach.script_file import ScriptFile, write_script

_COOKIE = b"xdebugpy"
_PATH_SIZE = 512  # _Py_MAX_SCRIPT_PATH_SIZE, Include/cpython/pystate.h
# Word (8 bytes each) of a field in struct _Py_DebugOffsets, Include/internal/pycore_debug_offsets.h.
_VERSION, _FREE_THREADED, _FINALIZING, _INTERPRETERS_HEAD = 1, 2, 4, 5
_INTERP_SIZE, _INTERP_ID, _INTERP_NEXT, _THREADS_MAIN = 6, 7, 8, 10
_TSTATE_SIZE, _TSTATE_INTERP = 22, 25


@dataclass(frozen=True)
class _Layout:
    """Words that differ between minors: thread_state.native_thread_id, and the six of debugger_support."""

    native_thread_id: int
    debugger_support: int


LAYOUTS = {(3, 14): _Layout(28, 89), (3, 15): _Layout(31, 105)}

# Include/internal/pycore_ceval.h. The byte that holds these is also changed by the target, and there is no
# atomic OR across processes: a bit that it sets between our read and our write would be lost. A bit set
# without cause is looked at and cleared, so the ones whose loss would matter are always set along.
_PLEASE_STOP = 1 << 5
_LOOK_AGAIN = (1 << 1) | (1 << 2) | (1 << 3)  # signals pending, calls to do, asynchronous exception
_BREAKER_AFTER_S = 0.005  # how long to wait for a check that comes by itself before asking for one
_WAKE_AFTER_S = 0.05
_MOST_WAKES = 3
_SYS_FUTEX, _EPOLL_CALLS = 202, (232, 281, 441)  # x86_64; epoll_wait, epoll_pwait, epoll_pwait2
_HEAD = "try:\n __import__('os').unlink({path})\nexcept:\n pass\n"


@dataclass(frozen=True)
class RemoteDebugger:
    """Addresses in a target, found and checked against each other."""

    main_thread: int
    pending: int
    path: int
    eval_breaker: int


@dataclass(frozen=True)
class Pep768Result:
    """See `ladder.Injection`; times in microseconds."""

    seen: Seen
    script: str
    main_pause_us: float
    notes: tuple[str, ...]


def locate(pid: int, image: PythonImage) -> RemoteDebugger:
    """Find the remote debugging fields of the main thread; reads only.

    Every step is checked: cookie, version, sizes, the main interpreter (id 0), its main thread's back
    pointer and its native thread id, which must be the process's id in its own pid namespace.

    Raises:
        UnsupportedTargetError: another version, a free-threaded build, or anything that does not fit.
        RemoteDebuggingDisabledError: it is switched off in the target.
        AttachPermissionError: memory may not be read.
        TargetStateError: the interpreter is not running.
    """
    version = image.version or (0, 0, 0)
    layout = LAYOUTS.get(version[:2])
    if layout is None or image.runtime is None:
        raise UnsupportedTargetError(
            f"PEP 768 is known to prismtop for CPython 3.14 and 3.15, not {version[0]}.{version[1]}."
        )
    if image.free_threaded:
        raise UnsupportedTargetError(
            "The target is a free-threaded Python, whose debug offsets could not be verified.",
            fix="Run the engine on a Python build with the GIL to attach.",
        )
    count = layout.debugger_support + 6
    words = struct.unpack(f"<{count}Q", memory.read(pid, image.runtime, 8 * count))
    breaker, support, enabled, pending, path, path_size = words[layout.debugger_support :]
    size, interp_size = words[_TSTATE_SIZE], words[_INTERP_SIZE]
    plausible = (
        words[0] == int.from_bytes(_COOKIE, "little")
        and (words[_VERSION] >> 24, words[_VERSION] >> 16 & 0xFF) == version[:2]
        and words[_FREE_THREADED] == 0
        and path_size == _PATH_SIZE
        and pending < path <= 64
        and support + path + path_size <= size < 1 << 16
        and breaker < 256
        and enabled < interp_size
        and words[_THREADS_MAIN] < interp_size
    )
    if not plausible:
        raise _unverified(pid)
    if memory.read_u64(pid, image.runtime + words[_FINALIZING]):
        raise TargetStateError(f"Python in process {pid} is shutting down.")
    interp = memory.read_u64(pid, image.runtime + words[_INTERPRETERS_HEAD])
    for _ in range(64):
        if not interp or memory.read_u64(pid, interp + words[_INTERP_ID]) == 0:
            break
        interp = memory.read_u64(pid, interp + words[_INTERP_NEXT])
    thread = memory.read_u64(pid, interp + words[_THREADS_MAIN]) if interp else 0
    if not thread:
        raise TargetStateError(
            f"Python in process {pid} is not running yet, or not any more.", fix="Try again in a few seconds."
        )
    native = memory.read_u64(pid, thread + words[layout.native_thread_id])
    back = memory.read_u64(pid, thread + words[_TSTATE_INTERP])
    if back != interp or native != read_status(pid).ns_pids[-1]:
        raise _unverified(pid)
    if memory.read_i32(pid, interp + enabled) != 1:
        raise RemoteDebuggingDisabledError(
            f"Remote debugging is switched off in process {pid}, which prismtop takes as its operator's no.",
            fix="To allow it, restart without PYTHON_DISABLE_REMOTE_DEBUG and -X disable_remote_debug.",
        )
    return RemoteDebugger(
        main_thread=thread,
        pending=thread + support + pending,
        path=thread + support + path,
        eval_breaker=thread + breaker,
    )


def _unverified(pid: int) -> UnsupportedTargetError:
    return UnsupportedTargetError(
        f"The debug offsets of Python in process {pid} do not fit what prismtop knows of its version.",
        fix="Please report the Python version and where it came from.",
    )


def inject(
    pid: int,
    start_time: int,
    source: str,
    handshake: Handshake,
    *,
    timeout_s: float,
    wake: bool,
    may_stop: bool,
    in_front: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Pep768Result:
    """Have `source` run by the main thread at its next check.

    Args:
        timeout_s: how long to wait for the start, in seconds.
        wake: whether an idle main thread may be woken.
        may_stop: whether ptrace can be used for that (x86_64, not forbidden).
        in_front: entered while a thread is held.

    Raises:
        AttachError: see `locate`, `write_script`.
        InjectionError: another script is waiting there already.
    """
    image = find_python(pid, read_maps(pid), executable(pid))
    fields = locate(pid, image)
    if memory.read_i32(pid, fields.pending):
        raise InjectionError(
            f"Another tool's script is waiting to be run in process {pid}.", fix="Try again when it has run."
        )
    status = read_status(pid)
    script = write_script(pid, status, _HEAD, source)
    try:
        check_identity(pid, start_time)
        path = script.path.encode() + b"\0"
        memory.write(pid, fields.path, path)
        memory.write(pid, fields.pending, struct.pack("<i", 1))
        follow = _Follow(pid, start_time, handshake, fields, wake and may_stop, in_front)
        seen = follow.until(time.monotonic() + timeout_s)
        if seen == NOTHING and not memory.read_i32(pid, fields.pending):
            follow.notes.append("the target has taken the script, but its handshake was not seen")
    except BaseException:
        script.remove()
        raise
    if seen.started or seen.error is not None:
        script.remove()
    script.close()
    return Pep768Result(seen, script.path, follow.main_pause_us, tuple(follow.notes))


def withdraw(pid: int, start_time: int, script: str) -> bool:
    """Take back a script that has not run: clear the flag if the path is still ours, remove the file."""
    try:
        check_identity(pid, start_time)
        fields = locate(pid, find_python(pid, read_maps(pid), executable(pid)))
        path = script.encode() + b"\0"
        taken = memory.read(pid, fields.path, len(path)) == path and memory.read_i32(pid, fields.pending) == 1
        if taken:
            memory.write(pid, fields.pending, bytes(4))
        ScriptFile.of(pid, script).remove()
        return taken
    except (AttachError, OSError):
        return False


class _Follow:
    """Wait for the script to start; ask for a check when none comes by itself; wake an idle main thread."""

    def __init__(
        self,
        pid: int,
        start_time: int,
        handshake: Handshake,
        fields: RemoteDebugger,
        wake: bool,
        in_front: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.pid, self.start_time, self.handshake, self.fields = pid, start_time, handshake, fields
        self.in_front = in_front
        self.wakes_left = _MOST_WAKES if wake else 0
        self.main_pause_us = 0.0
        self.notes: list[str] = []

    def until(self, deadline: float) -> Seen:
        began = time.monotonic()
        asked, wake_at, pause = False, began + _WAKE_AFTER_S, 0.0005
        while True:
            seen = look(self.pid, self.handshake)
            now = time.monotonic()
            if seen.started or seen.error is not None:
                return seen
            if seen == NOTHING and not asked and (now >= began + _BREAKER_AFTER_S or now >= deadline):
                self._ask()
                asked = True
            if now >= deadline:
                return seen
            if seen == NOTHING and now >= wake_at and self.wakes_left:
                self._wake()
                if overdue():
                    return seen
                wake_at = now + _WAKE_AFTER_S * 2 ** (_MOST_WAKES - self.wakes_left)
            check_identity(self.pid, self.start_time)
            time.sleep(min(pause, max(0.0, deadline - now)))
            pause = min(pause * 1.3, 0.005)

    def _ask(self) -> None:
        """Set the eval breaker, unless the script has been taken already."""
        if memory.read_i32(self.pid, self.fields.pending) == 1:
            (now,) = memory.read(self.pid, self.fields.eval_breaker, 1)
            memory.write(self.pid, self.fields.eval_breaker, bytes([now | _PLEASE_STOP | _LOOK_AGAIN]))

    def _wake(self) -> None:
        """An idle main thread: let its wait end early, as for a signal, so that CPython checks."""
        stat, blocked = thread_stat(self.pid, self.pid), thread_syscall(self.pid, self.pid)
        if stat is None or stat.state != "S" or blocked is None:
            return
        try:
            if blocked[0] == _SYS_FUTEX:
                self.wakes_left -= 1
                # A lock looks for pending calls only, so one is needed that looks for scripts
                # (Python/pythonrun.c, PyErr_CheckSignals; it takes no argument and returns an int).
                rehearse()
                injector = PtraceInjector(self.pid, self.start_time, in_front=self.in_front)
                self.main_pause_us += injector.wake_with(CHECK_SIGNALS)
            elif blocked[0] in _EPOLL_CALLS:
                self.wakes_left -= 1
                with self.in_front(), StoppedThread(self.pid, self.pid, self.start_time, []) as thread:
                    pass  # these end with EINTR at any stop, and CPython's epoll object then checks (PEP 475)
                self.main_pause_us += thread.pause_us
        except (AttachError, KeyError) as e:
            self.wakes_left = 0
            self.notes.append(f"could not wake the main thread ({e})")
