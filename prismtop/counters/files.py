"""Reading the small files of procfs and sysfs, often and cheaply."""

from __future__ import annotations

import os
from collections.abc import Sequence

_CHUNK = 1 << 16
_SHORT = 2048


class KeptFile:
    """A procfs or sysfs file that stays open: reading it again is one `pread`, a third of open-read-close.

    The open file is bound to the process (or thread) it was opened for: a pid that is used again is not read
    by mistake.

    Args:
        path: opened by the first `read`.
        single: its content comes in one piece (`stat`, `status`, `schedstat`, sysfs attributes).
    """

    def __init__(self, path: str, *, single: bool = True) -> None:
        self.path = path
        self._single = single
        self._fd = -1

    def read(self) -> bytes:
        """The present content.

        Raises:
            OSError: as `open` and `read` do; ENOENT or ESRCH when what it describes is gone.
        """
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        data = os.pread(self._fd, _CHUNK, 0)
        if self._single:
            return data
        parts, at = [data], len(data)
        # The kernel hands out whole lines, a page at a time (seq_file): what is far from a page was all. To
        # be told so would cost as much again, where it collects everything at the beginning (vmstat).
        while data and at > _SHORT:
            data = os.pread(self._fd, _CHUNK, at)
            parts.append(data)
            at += len(data)
        return b"".join(parts)

    def holding(self, wanted: Sequence[bytes]) -> bytes:
        """The present content, as far as it takes to have these in it; all of it when one is missing.

        Raises:
            OSError: see `read`.
        """
        if self._fd >= 0:
            data = os.pread(self._fd, _CHUNK, 0)
            if all(one in data for one in wanted):
                return data
        return self.read()

    def close(self) -> None:
        """Close it; reading opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_bytes(path: str) -> bytes | None:
    """Content of a small file; None when it cannot be read."""
    try:
        return content(path)
    except OSError:
        return None


def content(path: str) -> bytes:
    """Content of a small file that is read now and then. Without Python's file object, which asks twice as
    many questions about a file as reading it takes.

    Raises:
        OSError: as `open` and `read` do.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(fd, _CHUNK)
        while part:
            part = os.read(fd, _CHUNK)
            data += part
        return data
    finally:
        os.close(fd)


def read_text(path: str) -> str | None:
    """Content of a small file without blanks around it; None when it cannot be read."""
    data = read_bytes(path)
    return None if data is None else data.decode("utf-8", "replace").strip()


def read_int(path: str) -> int | None:
    """A file that holds one whole number; None when it cannot be read or holds something else."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def entries(path: str) -> list[str]:
    """Names in a directory, sorted; empty when it cannot be listed."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def expand_list(text: str) -> tuple[int, ...]:
    """Numbers of a kernel list such as `0-3,8`; what is no number is left out."""
    made: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            made.extend(range(int(first), int(last or first) + 1))
    return tuple(made)


def key_values(data: bytes) -> dict[bytes, int]:
    """Lines of a name and a whole number (`cpu.stat`, `vmstat`, `memory.events`)."""
    made = {}
    for line in data.splitlines():
        name, _, value = line.partition(b" ")
        if value.strip().isdigit():
            made[name.rstrip(b":")] = int(value)
    return made
