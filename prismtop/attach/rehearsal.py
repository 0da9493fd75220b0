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
_ROUNDS = 10


def rehearse() -> None:
    """Stop a child, run system calls and a function in it, and let it go.

    Raises:
        UnsupportedTargetError: it did not go as on a Linux kernel; nothing else was touched.
    """
    plain_xstate_size()
    ready, wake = os.pipe()
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()
    child = os.fork()
    if child == 0:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # we may be killed while it is stopped
        os.write(wake, b"x")
        while os.getppid() == parent:
            signal.pause()
        os._exit(0)
    try:
        os.read(ready, 1)
        _play(child)
    except (AttachError, OSError) as e:
        raise UnsupportedTargetError(
            f"ptrace does not work here as on a Linux kernel ({e}).",
            fix="In a sandbox such as gVisor, run prismtop on the host.",
        ) from e
    finally:
        os.close(ready)
        os.close(wake)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _play(child: int) -> None:
    maps = read_maps(child)
    gadgets = find_gadgets(child, maps)
    function = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value or 0
    start_time = read_stat(child).start_time
    for _ in range(_ROUNDS):
        with StoppedThread(child, child, start_time, maps) as thread:
            thread.prepare(gadgets)
            page = thread.syscall(_SYS_MMAP, 0, 4096, 3, 0x22, -1, 0)
            thread.write(page, b"prismtop")
            right = thread.syscall(_SYS_GETPID) == child and thread.call(function) == os.getpid()
            right = right and thread.syscall(_SYS_MUNMAP, page, 4096) == 0
        if not right:
            raise AttachError("a call made in a child process gave a wrong result")
