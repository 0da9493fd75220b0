"""Groups of our own for a process that runs: CPU quota and freezer, in cgroup v1 and v2."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.anomaly.undo import CGROUP_ROOT, MARK
from prismtop.targets.procfs import read_stat

PERIOD_US = 50_000
_SUFFIXES = ("-cpu", "-freezer")
_OWN_MOUNT = re.compile(r"^\S+ (\S+) (cgroup2?) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Hierarchy:
    """Where groups with one controller can be made.

    Attributes:
        mount: its mount point.
        version: 1 or 2.
        controller: `cpu` or `freezer`.
    """

    mount: Path
    version: int
    controller: str

    def home(self, pid: int) -> Path | None:
        """The group in which a process is; None when it cannot be told."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        for line in lines:
            _, names, path = line.split(":", 2)
            mine = names == "" if self.version == 2 else self.controller in names.split(",")
            if mine and "/../" not in path and not path.startswith("/.."):
                return self.mount / path.lstrip("/")
        return None

    def directory(self, request: Request) -> Path:
        """The group that an experiment makes: beside the target's own, because in v2 a group with processes
        cannot have children that are limited.
        """
        home = self.home(request.pid) or self.mount
        parent = home if self.version == 1 or home == self.mount else home.parent
        return parent / f"{MARK}{request.experiment or 'experiment'}-{self.controller}"


@dataclass(frozen=True)
class Group:
    """A group that was made, with the target in it."""

    where: Hierarchy
    path: Path

    def limit(self, cpus: float) -> None:
        """Give it this many CPUs' time."""
        quota = max(1000, round(cpus * PERIOD_US))
        if self.where.version == 2:
            _put(self.path / "cpu.max", f"{quota} {PERIOD_US}")
        else:
            _put(self.path / "cpu.cfs_period_us", str(PERIOD_US))
            _put(self.path / "cpu.cfs_quota_us", str(quota))

    def freeze(self, on: bool) -> None:
        """Stop everything in it, or let it run."""
        if self.where.version == 2:
            _put(self.path / "cgroup.freeze", "1" if on else "0")
        else:
            _put(self.path / "freezer.state", "FROZEN" if on else "THAWED")


def hierarchies(mounts: str = "/proc/self/mounts") -> list[tuple[Path, int, tuple[str, ...]]]:
    """Mounted hierarchies: mount point, version, mount options (v1's name their controllers)."""
    try:
        text = Path(mounts).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [
        (Path(where), 2 if kind == "cgroup2" else 1, tuple(options.split(",")))
        for where, kind, options in _OWN_MOUNT.findall(text)
    ]


def cpu(mounts: str = "/proc/self/mounts") -> Hierarchy | None:
    """Where a CPU quota can be set."""
    for mount, version, options in hierarchies(mounts):
        if version == 1 and "cpu" in options:
            return Hierarchy(mount, 1, "cpu")
        if version == 2 and "cpu" in _words(mount / "cgroup.controllers"):
            return Hierarchy(mount, 2, "cpu")
    return None


def freezer(mounts: str = "/proc/self/mounts") -> Hierarchy | None:
    """Where a group can be frozen: v2's is better behaved (a frozen process can still be killed)."""
    found = hierarchies(mounts)
    for mount, version, _ in found:
        if version == 2:
            return Hierarchy(mount, 2, "freezer")
    for mount, _, options in found:
        if "freezer" in options:
            return Hierarchy(mount, 1, "freezer")
    return None


def check(controller: str, pid: int | None) -> Availability:
    """Whether a group with this controller can be made here, for this process."""
    where = cpu() if controller == "cpu" else freezer()
    if where is None:
        return Availability(False, f"no cgroup hierarchy with the {controller} controller is mounted")
    home = where.home(pid) if pid is not None else where.mount
    if home is None:
        return Availability(False, "the process's cgroup cannot be told")
    parent = home if where.version == 1 or home == where.mount else home.parent
    if not parent.is_dir():
        return Availability(False, f"{parent} is not visible here (another cgroup namespace)")
    if where.version == 2 and controller == "cpu" and "cpu" not in _words(parent / "cgroup.subtree_control"):
        return Availability(False, f"{parent} does not pass the cpu controller on to its children")
    if not (os.access(parent, os.W_OK) and os.access(home / "cgroup.procs", os.W_OK)):
        return Availability(False, f"{parent} may not be written to", "Run it as root.", permission=True)
    return AVAILABLE


def check_cpu(pid: int | None) -> Availability:
    """Whether a CPU quota can be set for this process."""
    return check("cpu", pid)


def throttle_steps(request: Request) -> tuple[str, ...]:
    """What throttling writes."""
    where = cpu()
    place = where.directory(request) if where else "a cgroup"
    share = _share(request, request.intensity)
    return (
        f"make {place}, limited to {100 * share:.0f} % of one CPU in periods of {PERIOD_US // 1000} ms",
        f"move process {request.pid} there",
    )


def throttle(request: Request, guard: Guard) -> Iterator[float]:
    """Limit the target's CPU time."""
    with moved(request, guard, "cpu", _share(request, request.level(0.0))) as group:
        elapsed = 0.0
        while True:
            yield 0.1
            elapsed += 0.1
            if elapsed <= request.ramp_s + 0.1:
                group.limit(_share(request, request.level(elapsed)))


@contextmanager
def moved(request: Request, guard: Guard, controller: str, cpus: float | None = None) -> Iterator[Group]:
    """The target in a group of ours; the guard moves it back and removes the group.

    Raises:
        OSError: the kernel refused, or it is in a group of another experiment, which will be removed.
    """
    where = cpu() if controller == "cpu" else freezer()
    home = where.home(request.pid) if where else None
    if where is None or home is None:
        raise OSError(f"no cgroup with the {controller} controller")
    if home.name.startswith(MARK) and home.name.endswith(_SUFFIXES):
        # A child of another target went there with it: there would be no way home.
        raise OSError(f"it is in {home}, which belongs to another experiment")
    group = Group(where, where.directory(request))
    guard.record("cgroup", dir=str(group.path), home=str(home), root=str(_root(where.mount)))
    group.path.mkdir()
    if cpus is not None:
        group.limit(cpus)
    stat = read_stat(request.pid)
    if stat is not None and stat.start_time == request.start_time:
        _put(group.path / "cgroup.procs", str(request.pid))
    yield group


def _share(request: Request, level: float) -> float:
    """CPUs left to the target: all of one at intensity 0, 5 % at 1."""
    return max(0.05, 1.0 - min(1.0, level))


def _root(mount: Path) -> Path:
    return Path(CGROUP_ROOT) if str(mount).startswith(CGROUP_ROOT) else mount


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []


def _put(path: Path, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
