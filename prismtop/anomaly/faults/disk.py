"""Disk and page-cache pressure: a file written, synced and read again, in a directory of our own."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.errors import UnavailableError

SIZE_MB = 512
_SPARE = 4
"""The disk keeps at least this many times the file's size free."""


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
    pid = guard.spawn(lambda: press(path, request, SIZE_MB))
    while True:
        status = guard.ended(pid)
        if status is not None:
            raise UnavailableError(f"the writer ended early with status {status}.")
        yield 0.1


def press(path: str, request: Request, size_mb: int) -> int:
    """Write, sync and read a file until a second after the planned end; 0."""
    block, start = os.urandom(1 << 20), time.monotonic()
    end = start + request.duration_s + 1.0
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.unlink(path)  # it ends with this process, and the next experiment in this directory can have its name
    while time.monotonic() < end:
        os.lseek(fd, 0, os.SEEK_SET)
        for number in range(size_mb):
            began = time.monotonic()
            if began >= end:
                break
            os.write(fd, block)
            if number % 16 == 15:
                os.fsync(fd)
            level = min(1.0, request.level(began - start))
            if level < 0.999:
                time.sleep(min(0.5, (time.monotonic() - began) * (1 - level) / max(level, 0.01)))
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(fd, 0, os.SEEK_SET)
        while time.monotonic() < end and os.read(fd, 1 << 20):
            pass
    return 0
