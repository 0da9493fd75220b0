"""Files of a deep capture, handled from outside: what the target names is never trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from prismtop.errors import PermissionDeniedError, UnavailableError
from prismtop.probe import deep
from prismtop.targets import procfs


def owner_here(pid: int) -> int | None:
    """Owner of a process to which paths mean the same as to us; None when they do not."""
    try:
        here, there = os.stat("/"), os.stat(f"/proc/{pid}/root/.")
        near = os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{pid}/ns/mnt")
        same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
        return os.stat(f"/proc/{pid}").st_uid if near and same else None
    except OSError:
        return None


def swept(folder: str, owner: int) -> bool:
    """Remove the folder in which a process of `owner` died while it exported, and nothing else, wherever the
    name leads. False when it may still be there.
    """
    if not os.path.basename(folder).startswith(deep.FOLDER):
        return False
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if found.st_uid != owner or found.st_mode & 0o777 != 0o700:
            return False
        for name in os.listdir(fd):
            if not name.startswith(deep.PROFILE):
                return False
            os.unlink(name, dir_fd=fd)
        os.rmdir(folder)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def opened(path: str, pid: int, limit: int) -> BinaryIO:
    """A file that the target holds open, if it is a nameless one of its own, of at most `limit` bytes.

    Raises:
        UnavailableError, PermissionDeniedError: it is not, or may not be read.
    """
    try:
        owners = {os.stat(f"/proc/{pid}").st_uid}  # root's, when the target may not be dumped
        status = procfs.read_status(pid)
        owners |= {status.uid} if status else set()
        # Such a path is the kernel's own link to the open file; O_NOFOLLOW would refuse exactly that.
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError as error:
        raise PermissionDeniedError(f"The files of process {pid} may not be read.") from error
    except OSError as error:
        raise UnavailableError(f"Process {pid} has taken its capture away ({error.strerror}).") from error
    found = os.fstat(fd)
    if (
        not stat.S_ISREG(found.st_mode)
        or found.st_uid not in owners
        or found.st_nlink
        or found.st_size > limit
    ):
        os.close(fd)
        raise UnavailableError(f"What process {pid} names as its capture is not a file of its own that fits.")
    return os.fdopen(fd, "r+b", buffering=0)


def created(path: Path) -> BinaryIO:
    """A new file that only we may read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "wb")


def free(source: BinaryIO) -> None:
    """It has no name any more: cutting it to nothing gives its space back at once."""
    try:
        source.truncate(0)
    except OSError:
        pass
