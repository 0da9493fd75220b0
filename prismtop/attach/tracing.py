"""The bare system call ptrace(2), x86_64."""

from __future__ import annotations

import ctypes
import errno
import os

# include/uapi/linux/ptrace.h
CONT, GETREGS, SETREGS, DETACH, SYSCALL = 7, 12, 13, 17, 24
SETREGSET, GETREGSET = 0x4205, 0x4204
GETSIGINFO, SEIZE, INTERRUPT, GETSIGMASK, GET_RSEQ = 0x4202, 0x4206, 0x4207, 0x420A, 0x420F

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class Iovec(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def ptrace(request: int, tid: int, address: int = 0, data: object = None) -> int:
    """Its result.

    Raises:
        OSError: as errno says.
    """
    ctypes.set_errno(0)
    result = int(libc.ptrace(request, tid, address, data))
    code = ctypes.get_errno()
    if result == -1 and code:
        raise OSError(code, os.strerror(code))
    return result


def ptrace_blocked_here() -> bool:
    """Whether this process itself may not call ptrace at all (seccomp, as in old container runtimes).

    Asks about pid 0, which is nobody: the kernel answers ESRCH when the call is let through.
    """
    try:
        ptrace(CONT, 0)
    except OSError as e:
        return e.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES)
    return False
