"""How a payload shows from inside the target that it runs: by memfds that appear in /proc/PID/fd.

A memfd has no name in any file system, dies with its process, and is seen across mount and pid namespaces.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_ERROR_LIMIT = 64 * 1024


@dataclass(frozen=True)
class Handshake:
    """Names of the memfds to look for.

    Attributes:
        memfd: appears when the payload has started (made by the payload itself).
        error_memfd: appears when it failed; holds the traceback.
    """

    memfd: str
    error_memfd: str

    @classmethod
    def of(cls, nonce: str) -> Handshake:
        """The names that `payload.safe_template` and the probe use for a nonce."""
        return cls(memfd=f"prismtop-{nonce}", error_memfd=f"prismtop-err-{nonce}")

    @property
    def begun_memfd(self) -> str:
        """Appears while the template runs; made before the payload is even compiled."""
        return "prismtop-go-" + self.memfd.removeprefix("prismtop-")


@dataclass(frozen=True)
class Seen:
    """What is there now; `error` is the traceback text and `error_fd` its descriptor in the target."""

    begun: bool
    started: bool
    error: str | None
    error_fd: int | None


NOTHING = Seen(begun=False, started=False, error=None, error_fd=None)


def descriptors(pid: int, proc: str = "/proc") -> frozenset[str]:
    """The numbers of the target's descriptors."""
    try:
        return frozenset(os.listdir(f"{proc}/{pid}/fd"))
    except OSError:
        return frozenset()


def look(pid: int, handshake: Handshake, proc: str = "/proc", *, but: frozenset[str] = frozenset()) -> Seen:
    """Look through the target's descriptors; a process that has exited shows nothing.

    Args:
        but: numbers that were looked at a moment ago: a server has hundreds, and a thread may be held.
    """
    begun = started = False
    error: str | None = None
    error_fd: int | None = None
    folder = f"{proc}/{pid}/fd"
    for name in descriptors(pid, proc) - but:
        try:
            link = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if not link.startswith("/memfd:prismtop-"):
            continue
        memfd = link.removeprefix("/memfd:").removesuffix(" (deleted)")
        if memfd == handshake.begun_memfd:
            begun = True
        elif memfd == handshake.error_memfd:
            error, error_fd = _read_text(f"{folder}/{name}"), int(name)
        elif memfd.startswith(handshake.memfd):
            started = True
    return Seen(begun or started or error is not None, started, error, error_fd)


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as f:
            return f.read(_ERROR_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""


def last_line(trace: str) -> str:
    """The line of a traceback that says what happened, printable characters only."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return re.sub(r"[^ -~]", "?", lines[-1])[:200] if lines else "no text"
