"""Do to a child of our own what is about to be done to the target.

Two reasons: what fails here (a sandbox whose ptrace is not the kernel's, an odd CPU) fails before the
target is touched; and the code is warm afterwards, so that the real stop is several times shorter.
"""

from __future__ import annotations

import ctypes
import os
import signal

from prismtop.attach.errors import AttachError, UnsupportedTargetError
from prismtop.attach.gadgets import find_gadgets
from prismtop.attach.process import read_maps, read_stat
from prismtop.attach.ptrace import StoppedThread
from prismtop.attach.registers import plain_xstate_size

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_SYS_GETPID, _SYS_MMAP, _SYS_MUNMAP = 39, 9, 11
_ROUNDS, _ROUNDS_AGAIN = 10, 3


class _Child:
    """A child that sleeps until it is killed; it does not outlive its parent."""

    def __init__(self) -> None:
        ready, wake = os.pipe()
        prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # we may be killed while it is stopped
            os.write(wake, b"x")
            while os.getppid() == parent:
                signal.pause()
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(wake)
        self.start_time = read_stat(self.pid).start_time
        self.maps = read_maps(self.pid)
        self.gadgets = find_gadgets(self.pid, self.maps)
        self.function = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value or 0

    def play(self, rounds: int) -> None:
        """Stop it, run system calls and a function in it, and let it go."""
        for _ in range(rounds):
            with StoppedThread(self.pid, self.pid, self.start_time, self.maps) as thread:
                thread.prepare(self.gadgets)
                page = thread.syscall(_SYS_MMAP, 0, 4096, 3, 0x22, -1, 0)
                thread.write(page, b"prismtop")
                right = thread.syscall(_SYS_GETPID) == self.pid
                right = right and thread.syscall(_SYS_MUNMAP, page, 4096) == 0
                right = right and thread.call(self.function) == os.getpid()
            if not right:
                raise AttachError("a call made in a child process gave a wrong result")

    def end(self) -> None:
        """Kill it and wait for it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


_kept: list[_Child] = []


def rehearse() -> None:
    """Stop a child, run system calls and a function in it, and let it go; it is kept for `rehearse_again`.

    Raises:
        UnsupportedTargetError: it did not go as on a Linux kernel; nothing else was touched.
    """
    plain_xstate_size()
    if _kept:
        return
    try:
        _kept.append(_Child())
        _kept[0].play(_ROUNDS)
    except (AttachError, OSError) as e:
        end_rehearsal()
        raise UnsupportedTargetError(
            f"ptrace does not work here as on a Linux kernel ({e}).",
            fix="In a sandbox such as gVisor, run prismtop on the host.",
        ) from e


def rehearse_again() -> None:
    """Once more, right before the real thing: after a sleep of 20 ms the same stop takes twice as long.

    Measured: 460 us with cold caches, 230 us right after another one.
    """
    for child in _kept:
        child.play(_ROUNDS_AGAIN)


def rehearsing() -> tuple[int, ...]:
    """Pid of the child that is kept, if there is one."""
    return tuple(child.pid for child in _kept)


def end_rehearsal() -> None:
    """Let the child go."""
    while _kept:
        _kept.pop().end()
