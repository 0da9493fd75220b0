"""Undoing acts, from the journal alone. Each is idempotent, and harmless when its act was never done.

A pid is only acted on while its start time is the journal's: the kernel reuses pids.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prismtop.targets.procfs import pids, read_environ, read_stat

MARK = "prismtop-"
"""Every group, directory and file that is made begins with it; nothing else is ever removed."""
VARIABLE = "PRISMTOP_EXPERIMENT"
"""In the environment of every process that is started."""
CGROUP_ROOT = "/sys/fs/cgroup"
SYSFS_ROOTS = ("/sys/devices/system/cpu/",)
_PATIENCE_S = 2.0

Act = Mapping[str, Any]


def undo_all(acts: Sequence[Act], same_boot: bool = True) -> tuple[list[str], list[str]]:
    """Undo in reverse order. Returns what was undone and what failed, in words.

    A failure does not keep the others from being undone.
    """
    undone, failed = [], []
    for act in reversed(acts):
        kind = str(act.get("kind"))
        if not same_boot and kind not in _OUTLIVES_BOOT:
            continue
        try:
            undone.append(_UNDO[kind](act))
        except KeyError as error:
            failed.append(f"{kind}: no way to undo it is known ({error})")
        except Exception as error:
            failed.append(f"{kind}: {error}")
    return undone, failed


def alive(pid: int, start_time: int) -> bool:
    """Whether it is that very process, and not a zombie."""
    stat = read_stat(pid)
    return stat is not None and stat.start_time == start_time and not stat.dead


def _continue(act: Act) -> str:
    pid, start_time = int(act["pid"]), int(act["start"])
    fd = _pidfd(pid)
    if fd is None:
        return f"{pid} has ended"
    try:
        stat = read_stat(pid)  # after the descriptor: it and the start time are of one process
        if stat is None or stat.start_time != start_time:
            return f"{pid} has ended"
        _send(fd, signal.SIGCONT)
    finally:
        os.close(fd)
    return f"{pid} continued"


def _processes(act: Act) -> str:
    group, start_time = int(act["pgid"]), int(act["start"])
    deadline = time.monotonic() + _PATIENCE_S
    killed = 0
    while left := _members(group, start_time, str(act.get("experiment", ""))):
        for pid in left:
            killed += _kill(pid, start_time)
        if time.monotonic() > deadline:
            raise OSError(f"processes {left} of group {group} do not end")
        time.sleep(0.002)
    return f"process group {group} ended ({killed} signals)"


def _members(group: int, start_time: int, experiment: str) -> list[int]:
    leader = read_stat(group)
    if leader is not None and leader.start_time != start_time:
        return []  # the number was reused, so the group that had it is gone
    found = []
    for pid in pids():
        try:
            if os.getpgid(pid) != group:
                continue
        except OSError:
            continue
        stat = read_stat(pid)
        if stat is None or stat.dead or stat.start_time < start_time:
            continue
        if pid == group or leader is not None or read_environ(pid, VARIABLE) == experiment:
            found.append(pid)
    return found


def _kill(pid: int, not_before: int) -> int:
    fd = _pidfd(pid)
    if fd is None:
        return 0
    try:
        stat = read_stat(pid)
        if stat is None or stat.start_time < not_before:
            return 0
        return int(_send(fd, signal.SIGKILL))
    finally:
        os.close(fd)


def _cgroup(act: Act) -> str:
    """Thaw, move every process back home, remove the group."""
    group, home = Path(act["dir"]), Path(act["home"])
    _ours(group, str(act.get("root", CGROUP_ROOT)))
    if not group.is_dir():
        return f"{group} is gone"
    for name, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
        if (group / name).exists():
            (group / name).write_text(value, encoding="ascii")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            try:
                (home / "cgroup.procs").write_text(pid, encoding="ascii")
            except ProcessLookupError:
                pass
        try:
            group.rmdir()
            return f"{group} removed"
        except FileNotFoundError:
            return f"{group} is gone"
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _value(act: Act) -> str:
    """Write an old value back to a file of the kernel."""
    path = os.path.realpath(act["path"])
    if not path.startswith(tuple(act.get("roots", SYSFS_ROOTS))):
        raise ValueError(f"{path} is not one of the files that are written to")
    Path(path).write_text(str(act["old"]), encoding="ascii")
    return f"{path} is {act['old']} again"


def _directory(act: Act) -> str:
    path = Path(act["path"])
    if not path.name.startswith(MARK):
        raise ValueError(f"{path} was not made here")
    if path.is_symlink():
        raise ValueError(f"{path} is a link")
    if path.is_dir():
        if path.stat().st_uid != os.getuid():
            raise ValueError(f"{path} belongs to another user")
        shutil.rmtree(path)
    return f"{path} removed"


def _in_target(act: Act) -> str:
    """Ask our thread in the target to end, and wait until it has put everything back.

    Its memfd is open as long as it may disturb anything (`faults.target_code`).
    """
    pid, start_time, memfd = int(act["pid"]), int(act["start"]), str(act["memfd"])
    if not memfd.startswith(MARK):
        raise ValueError(f"{memfd} was not made here")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        if not alive(pid, start_time):
            return f"{pid} has ended"
        found = _memfd(pid, memfd)
        if found is None:
            return f"nothing of ours runs in {pid}"
        try:
            with open(found, "r+b", buffering=0) as file:
                file.write(b"x")
        except FileNotFoundError:
            continue
        if time.monotonic() > deadline:
            raise OSError(f"our thread in {pid} does not end")
        time.sleep(0.002)


def _memfd(pid: int, name: str) -> str | None:
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{number}").startswith(f"/memfd:{name}"):
                return f"{folder}/{number}"
        except OSError:
            continue
    return None


def _gpu_clocks(act: Act) -> str:
    from prismtop.anomaly.faults.nvml import reset_clocks

    reset_clocks(str(act["uuid"]))
    return f"clocks of {act['uuid']} unlocked"


def _qdisc(act: Act) -> str:
    """Remove our queueing discipline from a device of another network namespace."""
    pid = _in_namespace(int(act["pid"]), str(act["namespace"]))
    if pid is None:
        return "the network namespace is gone"
    device = str(act["device"])
    inside = ["nsenter", "-t", str(pid), "-n", "tc", "qdisc"]
    shown = subprocess.run([*inside, "show", "dev", device], capture_output=True, text=True, timeout=5)
    if f"qdisc {act['qdisc']} {act['handle']}" not in shown.stdout:
        return f"no queueing discipline of ours on {device}"
    done = subprocess.run([*inside, "del", "dev", device, "root"], capture_output=True, text=True, timeout=5)
    if done.returncode:
        raise OSError(done.stderr.strip()[:200])
    return f"queueing discipline of {device} removed"


def _in_namespace(first: int, namespace: str) -> int | None:
    for pid in (first, *pids()):
        try:
            if os.readlink(f"/proc/{pid}/ns/net") == namespace:
                return pid
        except OSError:
            continue
    return None


def _ours(path: Path, root: str) -> None:
    real = os.path.realpath(path)
    if not path.name.startswith(MARK) or not real.startswith(os.path.realpath(root) + "/"):
        raise ValueError(f"{path} was not made here")


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _send(pidfd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


_OUTLIVES_BOOT = ("directory",)
_UNDO: dict[str, Callable[[Act], str]] = {
    "continue": _continue,
    "processes": _processes,
    "cgroup": _cgroup,
    "value": _value,
    "directory": _directory,
    "in_target": _in_target,
    "gpu_clocks": _gpu_clocks,
    "qdisc": _qdisc,
}
