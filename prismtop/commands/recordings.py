"""Which recordings run: a small file for each `prismtop record`, so that another terminal finds it.

A file counts only while the process that it names runs, by pid and start time; others are removed.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from prismtop.errors import PermissionDeniedError, UnavailableError
from prismtop.safe_text import safe_text
from prismtop.targets.procfs import read_stat

_MOST_BYTES = 16 << 10


@dataclass(frozen=True)
class Running:
    """One `prismtop record`.

    Attributes:
        pid, start_time: of the recording process.
        path: the trace, absolute.
        what: engine, version and model; safe to print.
        since: Unix seconds.
    """

    pid: int
    start_time: int
    path: str
    what: str
    since: float


def _directory() -> Path:
    import platformdirs

    return Path(platformdirs.user_state_dir("prismtop", appauthor=False)) / "running"


@contextmanager
def announced(path: str, what: str) -> Iterator[None]:
    """Let other processes find this one's recording. Not being able to is no reason not to record."""
    me = read_stat(os.getpid())
    if me is None:
        yield
        return
    running = Running(me.pid, me.start_time, os.path.abspath(path), what, time.time())
    file = _directory() / f"{me.pid}-{me.start_time}.json"
    try:
        _directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(file, flags, 0o600), "w", encoding="utf-8") as state:
            json.dump(asdict(running), state)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def running() -> list[Running]:
    """Every recording of this user that runs, the longest first."""
    found: list[Running] = []
    try:
        files = sorted(_directory().glob("*.json"))
    except OSError:
        return found
    for file in files:
        one = _read(file)
        if one is not None and _alive(one):
            found.append(one)
        else:
            file.unlink(missing_ok=True)
    return sorted(found, key=lambda each: each.since)


def stop(one: Running, timeout_s: float = 60.0) -> None:
    """Ask a recording to end, and wait until its file is complete.

    Raises:
        PermissionDeniedError: it is another user's.
        UnavailableError: it does not end.
    """
    try:
        pidfd = os.pidfd_open(one.pid)
    except ProcessLookupError:
        return
    try:
        if not _alive(one):  # checked after the pidfd is open: it cannot become another process's
            return
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise PermissionDeniedError(
            f"recording {one.pid} belongs to another user.", fix="Stop it as that user."
        ) from None
    finally:
        os.close(pidfd)
    deadline = time.monotonic() + timeout_s
    while _alive(one):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"recording {one.pid} has not ended within {timeout_s:.0f} s.",
                fix=f"Its disk may be slow; `kill -9 {one.pid}` ends it and keeps what is written.",
            )
        time.sleep(0.02)


def _alive(one: Running) -> bool:
    stat = read_stat(one.pid)
    return stat is not None and not stat.dead and stat.start_time == one.start_time


def _read(file: Path) -> Running | None:
    try:
        with open(file, encoding="utf-8") as state:
            made = Running(**json.loads(state.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError):
        return None
    typed = all(type(each) is int for each in (made.pid, made.start_time)) and made.pid > 0
    typed = typed and isinstance(made.path, str) and isinstance(made.what, str)
    if not typed or not isinstance(made.since, (int, float)):
        return None
    return Running(made.pid, made.start_time, made.path, safe_text(made.what), made.since)
