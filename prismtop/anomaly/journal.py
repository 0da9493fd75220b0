"""The journal of an experiment: what was about to be done, on disk before it was done.

One file per target in the user's state directory, so that a target has one experiment at a time. Its first
line says who and what; every further line is one act with what is needed to undo it. The watchdog holds a
lock on the file: a journal that can be locked is one that a crash has left behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prismtop.targets.procfs import read_stat

VERSION = 1
SUFFIX = ".journal"


def journal_dir() -> Path:
    """Where journals are; need not exist."""
    import platformdirs

    return Path(platformdirs.user_state_dir("prismtop", appauthor=False)) / "anomaly"


@dataclass(frozen=True)
class Header:
    """First line of a journal: the experiment, its target, and who runs it.

    Attributes:
        experiment: name of the experiment.
        scenario: its id.
        pid, start_time: the target.
        injector, injector_start: the process that acts.
        boot: boot id of the machine: after a restart nothing but files is left.
    """

    experiment: str
    scenario: str
    pid: int
    start_time: int
    injector: int
    injector_start: int
    boot: str

    def line(self) -> str:
        """As JSON."""
        return json.dumps({"v": VERSION, **self.__dict__})


@dataclass(frozen=True)
class Journal:
    """A journal as read.

    Attributes:
        header: None when the first line was not finished, so nothing was done.
        acts: in the order in which they were about to be done.
        running: its watchdog lives.
    """

    path: Path
    header: Header | None
    acts: tuple[Mapping[str, Any], ...]
    running: bool


def boot_id() -> str:
    """Changes at every restart of the machine; empty when it cannot be read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def path_for(directory: Path, pid: int, start_time: int) -> Path:
    """The journal of experiments on one target."""
    return directory / f"{pid}-{start_time}{SUFFIX}"


def make_header(experiment: str, scenario: str, pid: int, start_time: int) -> Header:
    """For an experiment run by this process."""
    me = os.getpid()
    stat = read_stat(me)
    return Header(experiment, scenario, pid, start_time, me, stat.start_time if stat else 0, boot_id())


def create(path: Path, header: Header) -> int:
    """Make the journal, locked by the descriptor that is returned.

    Raises:
        FileExistsError: there is one already.
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        _lock(fd)
        if os.stat(path).st_ino != os.fstat(fd).st_ino:
            raise FileExistsError(str(path))  # taken for a crashed one between the two calls above
        write(fd, header.line())
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int) -> None:
    """Lock for good; a reader that asks whether it is locked holds it for a moment."""
    for _ in range(100):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.005)
    raise FileExistsError("the journal is held by another process")


def write(fd: int, line: str) -> None:
    """Append one line, and come back when it is on disk."""
    data = line.encode() + b"\n"
    if os.write(fd, data) != len(data):
        raise OSError("the journal could not be written completely")
    os.fsync(fd)


def read(path: Path) -> Journal | None:
    """A journal; None when it is gone. A line that was not finished is an act that was not begun."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        running = _is_locked(file.fileno())
        *lines, _unfinished = file.read().split(b"\n")
    objects = [made for line in lines if (made := _object(line)) is not None]
    header = _header(objects[0]) if objects else None
    return Journal(path, header, tuple(objects[1:]) if header else (), running)


def all_journals(directory: Path) -> list[Journal]:
    """Every journal in a directory, oldest name first."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))
    except OSError:
        return []
    found = (read(directory / name) for name in names)
    return [journal for journal in found if journal is not None]


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        made = json.loads(line)
    except ValueError:
        return None
    return made if isinstance(made, dict) else None


def _header(fields: Mapping[str, Any]) -> Header | None:
    if fields.get("v") != VERSION:
        return None
    try:
        return Header(
            experiment=str(fields["experiment"]),
            scenario=str(fields["scenario"]),
            pid=int(fields["pid"]),
            start_time=int(fields["start_time"]),
            injector=int(fields["injector"]),
            injector_start=int(fields["injector_start"]),
            boot=str(fields["boot"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
