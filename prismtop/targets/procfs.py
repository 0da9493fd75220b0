"""Readers of /proc (proc(5)), read only, no root needed to look. Every one takes the mount point as `proc`.

A process may end between two reads: readers return None when the file is gone, or when the kernel does not
let this user see it (another user's `maps`, `fd`, `exe` and `root` need ptrace access).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

PROC = "/proc"
_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_LISTEN = "0A"  # TCP_LISTEN, include/net/tcp_states.h
_SOCKET = "socket:["


@dataclass(frozen=True)
class Stat:
    """Fields of /proc/PID/stat.

    Attributes:
        comm: thread name, at most 15 bytes.
        state: one letter; Z and X are dead.
        start_time: clock ticks after boot (field 22).
        kernel_thread: PF_KTHREAD is set in its flags.
    """

    pid: int
    comm: str
    state: str
    ppid: int
    start_time: int
    kernel_thread: bool

    @property
    def dead(self) -> bool:
        """Whether it is a zombie or being removed."""
        return self.state in "ZXx"


@dataclass(frozen=True)
class Status:
    """Fields of /proc/PID/status: thread group, real uid, and the pid in its innermost pid namespace."""

    tgid: int
    uid: int
    ns_pid: int
    namespaces: int


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def pids(proc: str = PROC) -> list[int]:
    """All process ids, ascending."""
    try:
        return sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    except OSError:
        return []


def read_stat(pid: int, proc: str = PROC) -> Stat | None:
    """Identity and parent of a process (or thread); None when there is none."""
    data = _read(f"{proc}/{pid}/stat")
    if not data:
        return None
    # comm may hold blanks and parentheses: the last ')' ends it.
    head, _, tail = data.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    return Stat(
        pid=pid,
        comm=head.partition(b"(")[2].decode("utf-8", "replace"),
        state=fields[0].decode("ascii", "replace"),
        ppid=int(fields[1]),
        start_time=int(fields[19]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
    )


def read_status(pid: int, proc: str = PROC) -> Status | None:
    """Owner and pid namespace of a process."""
    data = _read(f"{proc}/{pid}/status")
    if data is None:
        return None
    fields = dict(line.partition(b":")[::2] for line in data.splitlines())
    ns = [int(value) for value in fields.get(b"NSpid", b"").split()] or [pid]
    return Status(
        tgid=int(fields.get(b"Tgid", b"%d" % pid)),
        uid=int((fields.get(b"Uid", b"").split() or [b"-1"])[0]),
        ns_pid=ns[-1],
        namespaces=len(ns),
    )


def read_cmdline(pid: int, proc: str = PROC) -> tuple[str, ...]:
    """Arguments; empty for kernel threads and zombies.

    A process that set its title has the title as its first string, and NULs after it.
    """
    data = _read(f"{proc}/{pid}/cmdline") or b""
    parts = data.rstrip(b"\0").split(b"\0") if data.strip(b"\0") else []
    return tuple(part.decode("utf-8", "replace") for part in parts)


def read_environ(pid: int, name: str, proc: str = PROC) -> str | None:
    """One variable of the initial environment; a process that set its title has usually overwritten it."""
    prefix = name.encode() + b"="
    for entry in (_read(f"{proc}/{pid}/environ") or b"").split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", "replace")
    return None


def read_exe(pid: int, proc: str = PROC) -> str | None:
    """Path of its program, as seen in its own mount namespace."""
    try:
        return os.readlink(f"{proc}/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return None


def mapped_files(pid: int, proc: str = PROC) -> tuple[str, ...] | None:
    """Distinct files mapped by a process, in order of address; None when they may not be read."""
    data = _read(f"{proc}/{pid}/maps")
    if data is None:
        return None
    found: dict[str, None] = {}
    for line in data.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith(b"/"):
            found[os.fsdecode(fields[5]).removesuffix(" (deleted)")] = None
    return tuple(found)


def listening_ports(pid: int, proc: str = PROC) -> tuple[int, ...] | None:
    """TCP ports on which the process itself listens, ascending; None when its sockets may not be read."""
    inodes = set()
    try:
        for name in os.listdir(f"{proc}/{pid}/fd"):
            try:
                target = os.readlink(f"{proc}/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith(_SOCKET):
                inodes.add(target[len(_SOCKET) : -1])
    except OSError:
        return None
    ports = set()
    for table in ("tcp", "tcp6"):
        # The process's own table: it may be in another network namespace.
        for line in (_read(f"{proc}/{pid}/net/{table}") or b"").decode("ascii", "replace").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return tuple(sorted(ports))


def user_name(uid: int) -> str:
    """Login name of a uid, or the uid as text (a container's users are not in our passwd)."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid) if uid >= 0 else ""
