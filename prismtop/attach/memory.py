"""Read and write another process's memory (process_vm_readv(2)); never changes page protections."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from prismtop.attach.errors import AttachError, AttachPermissionError, InjectionError, TargetExitedError

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


for _name in ("process_vm_readv", "process_vm_writev"):
    _function = getattr(_libc, _name)
    _function.restype = ctypes.c_ssize_t
    _function.argtypes = (
        ctypes.c_int, ctypes.POINTER(_Iovec), ctypes.c_ulong, ctypes.POINTER(_Iovec), ctypes.c_ulong,
        ctypes.c_ulong,
    )  # fmt: skip


def _failed(pid: int, what: str, address: int, done: int, size: int) -> AttachError:
    code = ctypes.get_errno() if done < 0 else errno.EFAULT
    if code == errno.ESRCH:
        return TargetExitedError(f"Process {pid} exited while it was being looked at.")
    if code in (errno.EPERM, errno.EACCES):
        return AttachPermissionError(f"The kernel refuses to {what} the memory of process {pid}.")
    return InjectionError(
        f"Could not {what} {size} bytes at {address:#x} of process {pid}: {os.strerror(code)}."
    )


def read(pid: int, address: int, size: int) -> bytes:
    """Read `size` bytes at `address`.

    Raises:
        TargetExitedError, AttachPermissionError, InjectionError: ESRCH, EPERM, anything else.
    """
    buffer = ctypes.create_string_buffer(size)
    local = _Iovec(ctypes.addressof(buffer), size)
    remote = _Iovec(address, size)
    done = _libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if done != size:
        raise _failed(pid, "read", address, done, size)
    return buffer.raw


def write(pid: int, address: int, data: bytes) -> None:
    """Write `data` at `address`; the page must be writable for the process itself.

    Raises:
        TargetExitedError, AttachPermissionError, InjectionError: ESRCH, EPERM, anything else.
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    local = _Iovec(ctypes.addressof(buffer), len(data))
    remote = _Iovec(address, len(data))
    done = _libc.process_vm_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if done != len(data):
        raise _failed(pid, "write", address, done, len(data))


def read_u64(pid: int, address: int) -> int:
    """One little-endian 64-bit word."""
    return int(struct.unpack("<Q", read(pid, address, 8))[0])


def read_i32(pid: int, address: int) -> int:
    """One little-endian signed 32-bit word."""
    return int(struct.unpack("<i", read(pid, address, 4))[0])


def may_read(pid: int, address: int) -> bool:
    """Whether the kernel lets this process attach to `pid`.

    process_vm_readv is checked like ptrace(PTRACE_ATTACH) (PTRACE_MODE_ATTACH_REALCREDS, Yama included) and
    leaves the process alone, so it is the one honest question to ask beforehand.
    """
    try:
        read(pid, address, 1)
    except AttachPermissionError:
        return False
    except AttachError:
        return True
    return True
