"""Control groups of the targets: v1, v2, and both at once (cgroups(7), Documentation/admin-guide/cgroup-v*).

A limit of a parent stops its children too, so throttling is added up and limits are compared along the whole
path, as far as it is mounted here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from prismtop.counters.files import KeptFile, key_values, read_int, read_text
from prismtop.counters.pressure import stall_totals
from prismtop.counters.sheet import Sheet

_NO_LIMIT = 1 << 60  # v1 writes a page-aligned LONG_MAX
_MEMORY_FILES = (
    *("memory.usage_in_bytes", "memory.failcnt", "memory.oom_control"),  # version 1
    *("memory.current", "memory.events"),
)
_CONTROLLERS = {"cpu", "memory", "freezer"}
_NAMES = (
    "cgroup_throttled_ratio",
    "cgroup_memory_used_bytes",
    "cgroup_cpu_limit_cores",
    "cgroup_memory_limit_bytes",
)


@dataclass
class Paths:
    """Directories of one process's groups, innermost first; empty where there is none.

    Attributes:
        cpu, memory, freezer: of the v1 controllers.
        unified: of the v2 hierarchy.
    """

    cpu: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)
    freezer: list[str] = field(default_factory=list)
    unified: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, ...]:
        """The innermost directories: processes with the same ones are in the same groups."""
        return tuple(dirs[0] for dirs in (self.cpu, self.memory, self.freezer, self.unified) if dirs)


def group_paths(pid: int, proc: str = "/proc") -> tuple[Paths, str]:
    """Where a process's groups are mounted here, and why they are not found where they are not."""
    own = read_text(f"{proc}/{pid}/cgroup")
    mounts = read_text(f"{proc}/self/mountinfo")
    if own is None or mounts is None:
        return Paths(), f"/proc/{pid}/cgroup cannot be read"
    paths = Paths()
    outside = False
    mounted = list(_mounts(mounts))
    for line in own.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for kind, names, root, at in mounted:
            two = kind == "cgroup2" and not controllers
            if not two and not (kind == "cgroup" and names & set(controllers.split(","))):
                continue
            dirs = _upwards(path, root, at)
            outside = outside or dirs is None
            wanted = ("unified",) if two else tuple(_CONTROLLERS & set(controllers.split(",")))
            for name in wanted:
                if not getattr(paths, name):
                    setattr(paths, name, dirs or [])
            break
    if paths.key:
        return paths, ""
    if outside:
        return paths, "its control group lies outside of what is mounted here (another cgroup namespace)"
    return paths, "no control group hierarchy is mounted here"


def _mounts(text: str) -> list[tuple[str, set[str], str, str]]:
    """(type, controllers, root, mount point) of every cgroup mount."""
    made = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, tail = left.split(), right.split()
        if len(words) > 4 and len(tail) > 2 and tail[0] in ("cgroup", "cgroup2"):
            made.append((tail[0], set(tail[2].split(",")), words[3], words[4]))
    return made


def _upwards(path: str, root: str, at: str) -> list[str] | None:
    """The directory of a group and of its parents, innermost first; None when it is not under this mount."""
    inner = os.path.relpath(path, root)
    if inner.startswith(".."):
        return None
    parts = [] if inner == "." else inner.split("/")
    dirs = ["/".join([at, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return [where for where in dirs if os.path.isdir(where)] or None


class CgroupReader:
    """Counters of `cgroup`, one series for each set of groups; its device names the first process."""

    name = "cgroups"

    def __init__(self, pids: Sequence[int], proc: str = "/proc") -> None:
        self._pids = pids
        self._proc = proc
        self._groups: dict[str, _Group] | None = None
        self._memberships = [KeptFile(f"{proc}/{pid}/cgroup") for pid in pids]
        self._mounts = KeptFile(f"{proc}/self/mountinfo", single=False)
        self._seen: list[bytes] = []
        self._mounted = b""
        self._all_found = False

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round. A process that moves to another group is followed at once: a limit may be all there is
        in that group, and last for seconds.
        """
        seen = [_content(file) for file in self._memberships]
        mounted = _content(self._mounts) if slow else self._mounted
        if seen != self._seen or mounted != self._mounted or (slow and not self._all_found):
            self._seen, self._mounted = seen, mounted
            self._find(sheet)
        for device, group in (self._groups or {}).items():
            group.read(sheet, device, slow)

    def _find(self, sheet: Sheet) -> None:
        found: dict[str, _Group] = {}
        keys: set[tuple[str, ...]] = set()
        self._all_found = True
        for pid in self._pids:
            device = f"pid {pid}"
            paths, reason = group_paths(pid, self._proc)
            if reason:
                self._all_found = False
                if os.path.exists(f"{self._proc}/{pid}"):
                    for name in _NAMES:
                        sheet.gap(name, device, reason)
                continue
            if paths.key in keys:
                continue
            keys.add(paths.key)
            known = (self._groups or {}).get(device)
            found[device] = known if known and known.paths == paths else _Group(paths)
        for device, group in (self._groups or {}).items():
            if found.get(device) is not group:
                group.close()
                sheet.forget(device, "cgroup_")
        self._groups = found

    def close(self) -> None:
        """Close the files."""
        for file in (*self._memberships, self._mounts):
            file.close()
        for group in (self._groups or {}).values():
            group.close()


def _content(file: KeptFile) -> bytes:
    try:
        return file.read()
    except OSError:
        return b""


def _freezer_files(paths: Paths) -> list[KeptFile]:
    """Where the kernel says whether a group is frozen, by itself or with a parent; none for root groups."""
    named = ((paths.freezer, "freezer.state"), (paths.unified, "cgroup.events"))
    wanted = [f"{dirs[0]}/{name}" for dirs, name in named if dirs]
    return [KeptFile(path) for path in wanted if os.path.exists(path)]


class _Group:
    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._v1_cpu = bool(paths.cpu)
        self._v1_memory = bool(paths.memory)
        self._stats = [KeptFile(f"{where}/cpu.stat") for where in paths.cpu or paths.unified]
        self._freezers = _freezer_files(paths)
        self._pressure = {
            kind: KeptFile(f"{paths.unified[0]}/{kind}.pressure")
            for kind in (("cpu", "memory", "io") if paths.unified else ())
        }
        where = paths.memory or paths.unified
        self._memory = {name: KeptFile(f"{where[0]}/{name}") for name in _MEMORY_FILES if where}

    def close(self) -> None:
        for file in (*self._stats, *self._freezers, *self._pressure.values(), *self._memory.values()):
            file.close()

    def read(self, sheet: Sheet, device: str, slow: bool) -> None:
        self._throttling(sheet, device)
        self._freezing(sheet, device)
        if slow:
            self._cpu_limit(sheet, device)
        if self._v1_memory:
            self._memory_v1(sheet, device, slow)
        else:
            self._memory_v2(sheet, device, slow)
        self._stalls(sheet, device)

    def _throttling(self, sheet: Sheet, device: str) -> None:
        """Of the group and its parents. The kernel adds up all cores: it may be more than 1."""
        stopped_us, periods, hit, seen = 0.0, 0, 0, False
        for file in self._stats:
            try:
                stat = key_values(file.read())
            except OSError:
                continue
            if b"nr_throttled" not in stat:
                continue
            seen = True
            stopped_us += stat.get(b"throttled_usec", 0) + stat.get(b"throttled_time", 0) / 1e3
            periods += stat.get(b"nr_periods", 0)
            hit += stat[b"nr_throttled"]
        if not seen:
            reason = "its group has no CPU controller, so nothing limits it"
            sheet.gap("cgroup_throttled_ratio", device, reason)
            sheet.gap("cgroup_throttled_periods_ratio", device, reason)
            return
        sheet.rate("cgroup_throttled_ratio", device, stopped_us, 1e-6)
        passed = sheet.delta("cgroup_throttled_periods_ratio", f"{device}/periods", periods)
        stopped = sheet.delta("cgroup_throttled_periods_ratio", device, hit)
        if passed is not None and stopped is not None:
            # Without a limit no period passes: nothing was throttled.
            sheet.value("cgroup_throttled_periods_ratio", device, stopped[0] / max(1.0, passed[0]))

    def _freezing(self, sheet: Sheet, device: str) -> None:
        """A group without such a file is the root, or has no freezer: nobody can freeze it as one."""
        states = [_content(file) for file in self._freezers]
        frozen = any(
            state.startswith((b"FROZEN", b"FREEZING")) or key_values(state).get(b"frozen") == 1
            for state in states
        )
        sheet.value("cgroup_frozen_ratio", device, float(frozen))

    def _cpu_limit(self, sheet: Sheet, device: str) -> None:
        limits = []
        for where in self.paths.cpu or self.paths.unified:
            if self._v1_cpu:
                quota = read_int(f"{where}/cpu.cfs_quota_us")
                period = read_int(f"{where}/cpu.cfs_period_us")
            else:
                words = (read_text(f"{where}/cpu.max") or "max").split()
                quota = int(words[0]) if words[0].isdigit() else None
                period = int(words[1]) if len(words) > 1 else 100_000
            if quota is not None and quota > 0 and period:
                limits.append(quota / period)
        if limits:
            sheet.value("cgroup_cpu_limit_cores", device, min(limits))
        else:
            sheet.gap("cgroup_cpu_limit_cores", device, "no CPU limit is set")

    def _memory_v2(self, sheet: Sheet, device: str, slow: bool) -> None:
        where = self.paths.unified
        used = self._number("memory.current") if where else None
        if used is None:
            for name in ("cgroup_memory_used_bytes", "cgroup_memory_limit_bytes"):
                sheet.gap(name, device, "its group has no memory controller")
            return
        sheet.value("cgroup_memory_used_bytes", device, used)
        if slow:
            self._memory_limit(sheet, device, [read_int(f"{path}/memory.max") for path in where])
        events = key_values(_content(self._memory["memory.events"]))
        for name, key in (
            ("cgroup_memory_high_total", b"high"),
            ("cgroup_memory_limit_hits_total", b"max"),
            ("cgroup_oom_kills_total", b"oom_kill"),
        ):
            if key in events:
                sheet.value(name, device, events[key])
            else:
                sheet.gap(name, device, f"memory.events has no {key.decode()}")

    def _memory_v1(self, sheet: Sheet, device: str, slow: bool) -> None:
        where = self.paths.memory
        used = self._number("memory.usage_in_bytes")
        if used is not None:
            sheet.value("cgroup_memory_used_bytes", device, used)
        if slow:
            self._memory_limit(sheet, device, [read_int(f"{path}/memory.limit_in_bytes") for path in where])
            sheet.gap("cgroup_memory_high_total", device, "version 1 of control groups does not count it")
        hits = self._number("memory.failcnt")
        if hits is not None:
            sheet.value("cgroup_memory_limit_hits_total", device, hits)
        kills = key_values(_content(self._memory["memory.oom_control"])).get(b"oom_kill")
        if kills is None:
            sheet.gap("cgroup_oom_kills_total", device, "this kernel's memory.oom_control has no oom_kill")
        else:
            sheet.value("cgroup_oom_kills_total", device, kills)

    def _number(self, name: str) -> int | None:
        text = _content(self._memory[name]).strip()
        return int(text) if text.isdigit() else None

    def _memory_limit(self, sheet: Sheet, device: str, limits: Sequence[int | None]) -> None:
        known = [limit for limit in limits if limit is not None and limit < _NO_LIMIT]
        if known:
            sheet.value("cgroup_memory_limit_bytes", device, min(known))
        else:
            sheet.gap("cgroup_memory_limit_bytes", device, "no memory limit is set")

    def _stalls(self, sheet: Sheet, device: str) -> None:
        for kind in ("cpu", "memory", "io"):
            name = f"cgroup_pressure_{kind}_some_ratio"
            if kind not in self._pressure:
                sheet.gap(name, device, "version 1 of control groups has no pressure information")
                continue
            try:
                sheet.rate(name, device, stall_totals(self._pressure[kind].read())["some"], 1e-6)
            except (OSError, KeyError):
                sheet.gap(name, device, f"{kind}.pressure of its group cannot be read")
