"""What /proc tells about a process, read without touching it (proc_pid_stat(5), proc_pid_status(5))."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass

from prismtop.attach.errors import AttachPermissionError, NoSuchProcessError, TargetExitedError

PF_EXITING, PF_KTHREAD = 0x00000004, 0x00200000  # include/linux/sched.h; field 9 of /proc/PID/stat
CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


@dataclass(frozen=True)
class Stat:
    """Fields of /proc/PID/stat: `state` (3), `flags` (9), `start_time` (22) in clock ticks since boot."""

    comm: str
    state: str
    flags: int
    start_time: int

    @property
    def kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def exited(self) -> bool:
        """A zombie, or on the way there: its memory is gone before its state says so."""
        return self.state in "ZX" or bool(self.flags & PF_EXITING)


@dataclass(frozen=True)
class Status:
    """Fields of /proc/PID/status; ids as seen from this process's user namespace."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    ns_pids: tuple[int, ...]
    tracer_pid: int
    cap_permitted: int
    cap_effective: int
    seccomp: int
    shadow_stack: bool


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps; addresses and `offset` in bytes; `path` without the deleted mark."""

    start: int
    end: int
    perms: str
    offset: int
    path: str
    deleted: bool


def read_stat(pid: int, proc: str = "/proc") -> Stat:
    """Read /proc/PID/stat, readable by anyone.

    Raises:
        NoSuchProcessError: no such pid.
    """
    try:
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as f:
            text = f.read()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        raise NoSuchProcessError(
            f"There is no process {pid}.", fix="Run 'prismtop list' to see the processes that can be watched."
        ) from None
    # The name is in parentheses and may itself hold parentheses and spaces.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(
        comm=head.partition("(")[2], state=fields[0], flags=int(fields[6]), start_time=int(fields[19])
    )


def read_status(pid: int, proc: str = "/proc") -> Status:
    """Read /proc/PID/status, readable by anyone.

    Raises:
        NoSuchProcessError: no such pid.
    """
    try:
        with open(f"{proc}/{pid}/status", encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        raise NoSuchProcessError(f"There is no process {pid}.") from None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)

    def ints(key: str, base: int = 10) -> tuple[int, ...]:
        return tuple(int(x, base) for x in fields.get(key, "").split())

    def one(key: str, base: int = 10) -> int:
        values = ints(key, base)
        return values[0] if values else 0

    return Status(
        uids=ints("Uid"),
        gids=ints("Gid"),
        ns_pids=ints("NSpid") or (pid,),
        tracer_pid=one("TracerPid"),
        cap_permitted=one("CapPrm", 16),
        cap_effective=one("CapEff", 16),
        seccomp=one("Seccomp"),
        # Documentation/arch/x86/shstk.rst: the features in use, by name.
        shadow_stack="shstk" in fields.get("x86_Thread_features", "").split(),
    )


def check_identity(pid: int, start_time: int, proc: str = "/proc") -> None:
    """Make sure that `pid` still means the process that started at `start_time` (ticks since boot).

    Raises:
        TargetExitedError: it has exited; the pid is free, or belongs to another process now.
    """
    try:
        stat = read_stat(pid, proc)
    except NoSuchProcessError:
        raise TargetExitedError(f"Process {pid} has exited.") from None
    if stat.start_time != start_time:
        raise TargetExitedError(
            f"Process {pid} has exited and its pid now belongs to another process.",
            fix="Run 'prismtop list' to see the processes that can be watched.",
        )
    if stat.exited:
        raise TargetExitedError(f"Process {pid} has exited.")


def read_maps(pid: int, proc: str = "/proc") -> list[Mapping]:
    """Read /proc/PID/maps, in address order.

    Raises:
        AttachPermissionError: the kernel refuses (ptrace access mode READ).
        NoSuchProcessError: no such pid.
    """
    try:
        with open(f"{proc}/{pid}/maps", encoding="utf-8", errors="surrogateescape") as f:
            lines = f.readlines()
    except PermissionError:
        raise AttachPermissionError(f"The memory map of process {pid} may not be read.") from None
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcessError(f"There is no process {pid}.") from None
    return list(_parse_maps(lines))


def _parse_maps(lines: list[str]) -> Iterator[Mapping]:
    for line in lines:
        fields = line.rstrip("\n").split(None, 5)
        start, _, end = fields[0].partition("-")
        path = fields[5] if len(fields) > 5 else ""
        deleted = path.endswith(" (deleted)")
        yield Mapping(
            start=int(start, 16),
            end=int(end, 16),
            perms=fields[1],
            offset=int(fields[2], 16),
            path=path[: -len(" (deleted)")] if deleted else path,
            deleted=deleted,
        )


def mapping_at(maps: list[Mapping], address: int) -> Mapping | None:
    """The mapping that holds `address`; `maps` in address order."""
    i = bisect.bisect_right(maps, address, key=lambda m: m.start) - 1
    return maps[i] if i >= 0 and maps[i].start <= address < maps[i].end else None


def threads(pid: int, proc: str = "/proc") -> list[int]:
    """Thread ids of a process, ascending; empty when it has exited."""
    try:
        return sorted(int(x) for x in os.listdir(f"{proc}/{pid}/task"))
    except OSError:
        return []


def thread_stat(pid: int, tid: int, proc: str = "/proc") -> Stat | None:
    """/proc/PID/task/TID/stat, or None when the thread has exited."""
    try:
        with open(f"{proc}/{pid}/task/{tid}/stat", encoding="utf-8", errors="replace") as f:
            text = f.read()
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(head.partition("(")[2], fields[0], int(fields[6]), int(fields[19]))


def thread_cpu(pid: int, tid: int, proc: str = "/proc") -> int | None:
    """The processor that a thread ran on last (field 39 of its stat), or None when it has exited."""
    try:
        with open(f"{proc}/{pid}/task/{tid}/stat", encoding="utf-8", errors="replace") as f:
            return int(f.read().rpartition(")")[2].split()[36])
    except (OSError, IndexError, ValueError):
        return None


def thread_syscall(pid: int, tid: int, proc: str = "/proc") -> tuple[int, int] | None:
    """(system call number, stack pointer) of a thread blocked in the kernel; None when it runs or has exited.

    /proc/PID/task/TID/syscall, see proc_pid_syscall(5).
    """
    try:
        with open(f"{proc}/{pid}/task/{tid}/syscall", encoding="ascii") as f:
            fields = f.read().split()
    except OSError:
        return None
    if len(fields) < 9 or fields[0] == "-1":
        return None
    return int(fields[0]), int(fields[7], 16)


def thread_switches(pid: int, tid: int, proc: str = "/proc") -> int | None:
    """How often a thread has been switched out so far; None when it has exited."""
    try:
        with open(f"{proc}/{pid}/task/{tid}/status", encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except OSError:
        return None
    return sum(int(line.rpartition(":")[2]) for line in lines if "voluntary_ctxt_switches" in line)
