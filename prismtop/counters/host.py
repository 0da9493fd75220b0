"""The whole host: cores, memory, swap, clocks (proc(5), sysfs)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from prismtop.counters.files import KeptFile, entries, expand_list, read_bytes, read_int
from prismtop.counters.sheet import Sheet

CORES_OFTEN = 64
"""With more cores than this, single cores are read in slow rounds only."""
CORES_CLOCKED = 16
"""Clocks are read of so many cores at most: each reading may interrupt its core."""
_PAGE = 4096
_VMSTAT = (
    ("host_swap_in_bytes_per_s", b"pswpin", _PAGE),
    ("host_swap_out_bytes_per_s", b"pswpout", _PAGE),
    ("host_major_faults_per_s", b"pgmajfault", 1),
    ("host_direct_reclaim_per_s", b"pgscan_direct", 1),
    ("host_oom_kills_total", b"oom_kill", 1),
)
_VMSTAT_LINES = tuple(b"\n" + key + b" " for _, key, _ in _VMSTAT)
_CORE = re.compile(r"cpu(\d+)$")


class HostReader:
    """Counters of `host.cpu`, `host.memory` and `host.frequency`.

    Args:
        proc, sys: mount points.
        cores_in_use: cores whose clocks matter; by default all, as far as `CORES_CLOCKED` goes.
    """

    name = "host"

    def __init__(
        self, proc: str = "/proc", sys: str = "/sys", cores_in_use: Callable[[], Iterable[int]] = tuple
    ) -> None:
        self._stat = KeptFile(f"{proc}/stat", single=False)
        self._meminfo = KeptFile(f"{proc}/meminfo")
        self._vmstat = KeptFile(f"{proc}/vmstat", single=False)
        self._cpuinfo = f"{proc}/cpuinfo"
        self._cpus = f"{sys}/devices/system/cpu"
        self._cores_in_use = cores_in_use
        self._times: dict[bytes, tuple[int, ...]] = {}

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        self._cpu(sheet, slow)
        self._memory(sheet)
        if slow:
            self._clocks(sheet)
            self._throttles(sheet)

    def close(self) -> None:
        """Close the files."""
        for file in (self._stat, self._meminfo, self._vmstat):
            file.close()

    def _cpu(self, sheet: Sheet, slow: bool) -> None:
        try:
            lines = self._stat.read().split(b"\n")
        except OSError as error:
            sheet.gap("host_cpu_busy_ratio", "host", f"/proc/stat: {error.strerror}")
            return
        cores = sum(line.startswith(b"cpu") for line in lines) - 1
        single = slow or cores <= CORES_OFTEN
        if slow:
            sheet.value("host_cores_count", "host", cores)
        for line in lines:
            if line.startswith(b"cpu"):
                if single or line.startswith(b"cpu "):
                    self._core(sheet, line, seldom=cores > CORES_OFTEN)
                continue
            name, _, value = line.partition(b" ")
            if name == b"ctxt":
                sheet.rate("host_context_switches_per_s", "host", int(value))
            elif name == b"procs_running":
                sheet.value("host_running_count", "host", int(value))
            elif name == b"procs_blocked":
                sheet.value("host_blocked_count", "host", int(value))

    def _core(self, sheet: Sheet, line: bytes, *, seldom: bool) -> None:
        """`cpu`/`cpuN` user nice system idle iowait irq softirq steal; guest time is part of user."""
        words = line.split()
        times = tuple(map(int, words[1:9])) + (0,) * (9 - len(words))
        before = self._times.get(words[0])
        self._times[words[0]] = times
        if before is None:
            return
        # idle and iowait may step back by a tick (proc(5)): that is no time at all.
        user, nice, system, idle, wait, irq, soft, steal = (
            max(0, new - old) for new, old in zip(times, before, strict=True)
        )
        total = user + nice + system + idle + wait + irq + soft + steal
        if not total:
            return
        busy = (total - idle - wait - steal) / total
        if words[0] != b"cpu":
            sheet.value("core_busy_ratio", f"core {words[0][3:].decode()}", busy, seldom=seldom)
            return
        sheet.value("host_cpu_busy_ratio", "host", busy)
        sheet.value("host_cpu_system_ratio", "host", (system + irq + soft) / total)
        sheet.value("host_cpu_iowait_ratio", "host", wait / total)
        sheet.value("host_cpu_steal_ratio", "host", steal / total)

    def _memory(self, sheet: Sheet) -> None:
        try:
            lines = self._meminfo.read().split(b"\n", 16)
            vm = self._vmstat.holding(_VMSTAT_LINES)
        except OSError as error:
            sheet.gap("host_memory_used_bytes", "host", f"/proc/meminfo, /proc/vmstat: {error.strerror}")
            return
        kib = {words[0]: int(words[1]) for words in map(bytes.split, lines[:16]) if len(words) > 1}
        if b"MemAvailable:" in kib:
            sheet.value("host_memory_available_bytes", "host", kib[b"MemAvailable:"] * 1024)
            used = kib[b"MemTotal:"] - kib[b"MemAvailable:"]
            sheet.value("host_memory_used_bytes", "host", used * 1024)
        if b"SwapTotal:" in kib:
            swapped = kib[b"SwapTotal:"] - kib[b"SwapFree:"]
            sheet.value("host_swap_used_bytes", "host", swapped * 1024)
        for name, key, scale in _VMSTAT:
            total = _vmstat(vm, key)
            if total is None:
                sheet.gap(name, "host", f"this kernel's /proc/vmstat has no {key.decode()}")
            elif name.endswith("_total"):
                sheet.value(name, "host", total)
            else:
                sheet.rate(name, "host", total, scale)

    def _clocks(self, sheet: Sheet) -> None:
        cores = sorted(set(self._cores_in_use())) or range(CORES_CLOCKED)
        clocks: dict[int, float] = {}
        source = "cpufreq"
        for core in list(cores)[:CORES_CLOCKED]:
            khz = read_int(f"{self._cpus}/cpu{core}/cpufreq/scaling_cur_freq")
            if khz is not None:
                clocks[core] = khz / 1000
        if not clocks:
            source, clocks = "cpuinfo", self._cpuinfo_clocks(set(cores))
        for core, mhz in clocks.items():
            sheet.value("core_frequency_mhz", f"core {core}", mhz, source=source)
        if clocks:
            mean = sum(clocks.values()) / len(clocks)
            sheet.value("host_cpu_frequency_mhz", "host", mean, source=source)
        else:
            sheet.gap("host_cpu_frequency_mhz", "host", "neither cpufreq nor /proc/cpuinfo shows clocks")

    def _cpuinfo_clocks(self, wanted: set[int]) -> dict[int, float]:
        clocks: dict[int, float] = {}
        core = -1
        for line in (read_bytes(self._cpuinfo) or b"").split(b"\n"):
            if line.startswith(b"processor"):
                core = int(line.partition(b":")[2])
            elif line.startswith(b"cpu MHz") and core in wanted and len(clocks) < CORES_CLOCKED:
                clocks[core] = float(line.partition(b":")[2])
        return clocks

    def _throttles(self, sheet: Sheet) -> None:
        """core_throttle_count, and package_throttle_count once for each package (x86)."""
        total, packages = None, set()
        for name in entries(self._cpus):
            if not _CORE.match(name):
                continue
            where = f"{self._cpus}/{name}/thermal_throttle"
            count = read_int(f"{where}/core_throttle_count")
            if count is None:
                continue
            total = (total or 0) + count
            package = read_int(f"{self._cpus}/{name}/topology/physical_package_id")
            if package not in packages:
                packages.add(package)
                total += read_int(f"{where}/package_throttle_count") or 0
        if total is None:
            reason = "this machine counts no thermal throttling (no thermal_throttle in sysfs)"
            sheet.gap("host_thermal_throttles_total", "host", reason, source="sysfs")
        else:
            sheet.value("host_thermal_throttles_total", "host", total, source="sysfs")


def _vmstat(data: bytes, key: bytes) -> int | None:
    """One of the two hundred lines of /proc/vmstat."""
    at = data.find(b"\n" + key + b" ")
    if at < 0 and not data.startswith(key + b" "):
        return None
    return int(data[at + len(key) + 2 : data.find(b"\n", at + 1)])


def numa_nodes(sys: str = "/sys") -> dict[int, int]:
    """NUMA node of every core; empty on a kernel without NUMA."""
    nodes = f"{sys}/devices/system/node"
    made: dict[int, int] = {}
    for name in entries(nodes):
        if name.startswith("node") and name[4:].isdigit():
            cores = read_bytes(f"{nodes}/{name}/cpulist") or b""
            made.update(dict.fromkeys(expand_list(cores.decode("ascii", "replace")), int(name[4:])))
    return made
