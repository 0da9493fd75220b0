"""The memory file, made in the target, and what packs a record into it."""

from __future__ import annotations

import os
import struct
from typing import Any

from prismtop.probe.layout import *

PACKERS: dict[int, Any] = {}


def memfd(name: Any, size: Any) -> Any:
    """A nameless file in memory: memfd_create, its bare system call where this Python was built without it,
    or an unlinked file (seccomp), with its room reserved: a page that finds none is a SIGBUS."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except AttributeError:
        import ctypes

        fd = ctypes.CDLL(None).memfd_create(name.encode(), 3)
        if fd >= 0:
            return fd
    except OSError:
        pass
    for folder in ("/dev/shm", "/tmp"):
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            continue
        try:
            os.posix_fallocate(fd, 0, size)
            return fd
        except OSError:
            os.close(fd)
    raise OSError("this process may create no memfd (seccomp?), and no unlinked file of %d bytes" % size)


def packer(values: Any) -> Any:
    """Writes a record of so many values into the ring; the others are bytes made beforehand.

    Native codes: for `l` and `L` CPython converts by the digit, for `q` and `Q` through an array of bytes.
    All hooks with as many values share one: it need not be fetched from memory for each of them.
    """
    if values not in PACKERS:
        rest = "%ds" % (8 * (VALUES - values)) if values < VALUES else ""
        PACKERS[values] = struct.Struct("@LLLII%dl%sL" % (values, rest)).pack_into
    return PACKERS[values]
