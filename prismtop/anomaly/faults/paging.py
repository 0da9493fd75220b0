"""cpu_swap: the target's anonymous memory pushed out to swap, again and again.

By process_madvise(2) with MADV_PAGEOUT, which touches this process only. Pages come back when they are used:
nothing needs to be undone. Swap is never switched on here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.errors import PermissionDeniedError, UnavailableError
from prismtop.targets.procfs import read_stat

_SYS_PROCESS_MADVISE = 440  # one number on every architecture since Linux 5.10
_MADV_PAGEOUT = 21
_SMALLEST = 1 << 20
_VECTORS = 64
_PERIOD_S = 0.2


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def swap_bytes(path: str = "/proc/swaps") -> int:
    """Size of all swap areas in use by the kernel."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return 0
    return sum(int(line.split()[2]) * 1024 for line in lines if len(line.split()) > 2)


def check(pid: int | None) -> Availability:
    """Whether there is swap, and the right to page another process out."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return Availability(False, f"not tried on {platform.machine()}")
    if not swap_bytes():
        return Availability(
            False,
            "this machine has no swap, so anonymous memory cannot be pushed out",
            "An administrator may add a swap file (mkswap, swapon); prismtop does not do that.",
        )
    if pid is not None and not os.access(f"/proc/{pid}/maps", os.R_OK):
        return Availability(False, "its memory map may not be read", "Run it as root.", permission=True)
    return AVAILABLE


def steps(request: Request) -> tuple[str, ...]:
    """What is paged out."""
    return (
        f"process_madvise(MADV_PAGEOUT) on {100 * request.intensity:.0f} % of the anonymous mappings of "
        f"at least 1 MB of process {request.pid}, every {1000 * _PERIOD_S:.0f} ms",
    )


def inject(request: Request, guard: Guard) -> Iterator[float]:
    """Page out, wait, page out.

    Raises:
        PermissionDeniedError: CAP_SYS_NICE or ptrace access is missing.
        UnavailableError: the kernel has no process_madvise.
    """
    elapsed = 0.0
    fd = os.pidfd_open(request.pid)
    try:
        yield 0.0  # it takes effect while the first call is still under way, which may last seconds
        while True:
            guard.check()
            stat = read_stat(request.pid)
            if stat is None or stat.start_time != request.start_time:
                return
            page_out(fd, request.pid, request.level(elapsed))
            yield _PERIOD_S
            elapsed += _PERIOD_S
    finally:
        os.close(fd)


def page_out(pidfd: int, pid: int, share: float) -> int:
    """Advise the kernel to page out that share of the process's large anonymous mappings; bytes advised."""
    areas = anonymous(Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace"))
    wanted = round(sum(size for _, size in areas) * min(1.0, share))
    vectors: list[tuple[int, int]] = []
    for start, size in areas:
        if wanted <= 0:
            break
        vectors.append((start, min(size, -(-wanted // 4096) * 4096)))
        wanted -= size
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for at in range(0, len(vectors), _VECTORS):
        part = vectors[at : at + _VECTORS]
        array = (_Vector * len(part))(*(_Vector(start, size) for start, size in part))
        done = libc.syscall(
            ctypes.c_long(_SYS_PROCESS_MADVISE),
            ctypes.c_int(pidfd),
            ctypes.byref(array),
            ctypes.c_size_t(len(part)),
            ctypes.c_int(_MADV_PAGEOUT),
            ctypes.c_uint(0),
        )
        if done < 0:
            number = ctypes.get_errno()
            if number == errno.EPERM:
                raise PermissionDeniedError(
                    "the kernel does not let this user page out another process.",
                    fix="Run it as root (CAP_SYS_NICE and ptrace access).",
                )
            if number == errno.ENOSYS:
                raise UnavailableError("this kernel has no process_madvise.", fix="Linux 5.10 has it.")
            if number not in (errno.ENOMEM, errno.EINVAL, errno.ESRCH):  # a mapping went away meanwhile
                raise OSError(number, os.strerror(number))
        total += max(0, done)
    return total


def anonymous(maps: str) -> list[tuple[int, int]]:
    """(address, bytes) of writable mappings without a file, of at least 1 MB."""
    found = []
    for line in maps.splitlines():
        fields = line.split(None, 5)
        name = fields[5] if len(fields) > 5 else ""
        if len(fields) < 5 or fields[4] != "0" or "rw" not in fields[1] or name.startswith(("[v", "[stack")):
            continue
        start, _, end = fields[0].partition("-")
        size = int(end, 16) - int(start, 16)
        if size >= _SMALLEST:
            found.append((int(start, 16), size))
    return found
