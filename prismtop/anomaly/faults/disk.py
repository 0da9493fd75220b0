"""Disk and page-cache pressure: a file written, synced and read again, in a directory of our own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.errors import UnavailableError

SIZE_MB = 512
_SPARE = 4
"""The disk keeps at least this many times the file's size free."""
_WRITER = """
import ctypes, os, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
path, seconds, size, share, ramp = sys.argv[1], *map(float, sys.argv[2:6])
block = os.urandom(1 << 20)
start = time.monotonic()
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
while time.monotonic() < start + seconds:
    os.lseek(fd, 0, os.SEEK_SET)
    for n in range(int(size)):
        t = time.monotonic()
        if t >= start + seconds:
            break
        os.write(fd, block)
        if n % 16 == 15:
            os.fsync(fd)
        level = share * min(1.0, (t - start) / ramp) if ramp > 0 else share
        worked = time.monotonic() - t
        if level < 0.999:
            time.sleep(min(0.5, worked * (1 - level) / max(level, 0.01)))
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(fd, 0, os.SEEK_SET)
    while time.monotonic() < start + seconds and os.read(fd, 1 << 20):
        pass
"""


def check(pid: int | None) -> Availability:
    """Whether the disk of temporary files has room to spare."""
    import tempfile

    where = tempfile.gettempdir()
    free = shutil.disk_usage(where).free >> 20
    if free < _SPARE * SIZE_MB:
        return Availability(
            False,
            f"{where} has {free} MB free, {_SPARE * SIZE_MB} are wanted",
            "Set TMPDIR.",
        )
    return AVAILABLE


def steps(request: Request) -> tuple[str, ...]:
    """One file, rewritten."""
    return (
        f"write, fsync and read again a file of {SIZE_MB} MB in "
        f"{request.work_dir or 'a temporary directory'}, "
        f"busy {100 * request.intensity:.0f} % of the time",
    )


def inject(request: Request, guard: Guard) -> Iterator[float]:
    """Write, sync, drop from the cache, read."""
    path = os.path.join(request.work_dir, "prismtop-pressure")
    numbers = (request.duration_s + 1.0, SIZE_MB, request.intensity, request.ramp_s)
    pid = guard.spawn([sys.executable, "-c", _WRITER, path, *map(str, numbers)])
    while True:
        status = guard.ended(pid)
        if status is not None:
            raise UnavailableError(f"the writer ended early with status {status}.")
        yield 0.1
