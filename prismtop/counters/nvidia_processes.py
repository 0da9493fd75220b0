"""Which processes use a GPU, and how much: NVML's pids mapped to the pids of this procfs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from prismtop.counters.nvidia_errors import Calls, explain
from prismtop.counters.sheet import Sheet
from prismtop.model import Target

_NAMES = ("gpu_process_busy_ratio", "gpu_process_memory_bytes")
_OTHERS_BUSY = "gpu_others_busy_ratio"
OTHERS = (_OTHERS_BUSY, "gpu_others_memory_bytes", "gpu_others_count")
NO_SHARES = "NVML tells no use by process while MIG is on"
_MOST = 100
"""Percent. Drivers fill places of the answer with what was in memory: larger numbers, and old or no times."""
OTHER_NAMESPACE = "device-wide only: the driver's process ids are of another pid namespace"


class PidMap:
    """NVML's pids to ours.

    The driver normally gives the host's pids. prismtop on the host sees those; from inside a container they
    mean nothing, and some drivers give the pid of the process's own namespace instead. So a pid is one of
    ours when it is a target's pid, or when it is a target's innermost pid (`NSpid`) and no process here has
    that number.

    Args:
        targets: processes of the engine.
        proc: mount point.
    """

    def __init__(self, targets: Sequence[Target], proc: str = "/proc") -> None:
        self._proc = proc
        self.pids = [target.id.pid for target in targets]
        inner: dict[int, list[int]] = {}
        for target in targets:
            if target.ns_pid is not None and target.ns_pid != target.id.pid:
                inner.setdefault(target.ns_pid, []).append(target.id.pid)
        self._inner = {inside: pids[0] for inside, pids in inner.items() if len(pids) == 1}

    def ours(self, pid: int) -> int | None:
        """The target that NVML means; None when it is no target."""
        if pid in self.pids:
            return pid
        if pid in self._inner and not os.path.exists(f"{self._proc}/{pid}"):
            return self._inner[pid]
        return None

    def foreign(self, pid: int) -> bool:
        """Whether no process of this procfs has this pid."""
        return not os.path.exists(f"{self._proc}/{pid}")


class DeviceProcesses:
    """Counters of `gpu.process` for one device.

    Args:
        nvml: the binding.
        calls: of the device.
        handle: the device, or a MIG device.
        pids: which ones are ours.
        use: whether NVML knows utilisation by process (not under MIG).
    """

    def __init__(self, nvml: Any, calls: Calls, handle: Any, pids: PidMap, *, use: bool = True) -> None:
        self._nvml = nvml
        self._calls = calls
        self._handle = handle
        self._pids = pids
        self._use = use
        self._since_us = 0
        self._present: set[int] = set()
        self._others = False
        self._known = False

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """Memory in slow rounds, utilisation in every one."""
        if slow:
            self._memory(sheet)
        if not self._use:
            sheet.gap(_OTHERS_BUSY, self._calls.device, NO_SHARES)
            for pid in self._present:
                sheet.gap("gpu_process_busy_ratio", self._device(pid), NO_SHARES)
        elif self._present or self._others:
            self._busy(sheet)
        elif self._known:
            sheet.value(_OTHERS_BUSY, self._calls.device, 0.0)

    def gone(self, sheet: Sheet, reason: str) -> None:
        """The device is lost: why what its processes used of it cannot be told."""
        for pid in self._present:
            for name in _NAMES:
                sheet.gap(name, self._device(pid), reason)

    def _device(self, pid: int) -> str:
        return f"{self._calls.device} pid {pid}"

    def _memory(self, sheet: Sheet) -> None:
        nvml, device = self._nvml, self._calls.device
        names = ("gpu_others_memory_bytes", "gpu_others_count")
        running = self._calls(sheet, names, nvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        if running is None:
            return
        used: dict[int, int] = {}
        others, others_bytes, unknown, foreign = 0, 0, False, 0
        for process in running:
            pid = self._pids.ours(int(process.pid))
            memory = process.usedGpuMemory
            if pid is not None:
                used[pid] = used.get(pid, 0) + int(memory or 0)
                continue
            foreign += self._pids.foreign(int(process.pid))
            others += 1
            unknown = unknown or memory is None
            others_bytes += int(memory or 0)
        for pid, memory in used.items():
            sheet.value("gpu_process_memory_bytes", self._device(pid), memory)
        for pid in self._present - used.keys():
            sheet.gap("gpu_process_memory_bytes", self._device(pid), "it left the device")
        self._present = set(used)
        self._others = others > 0
        self._known = True
        if foreign and not used and self._pids.pids:
            # Some of these may be ours: neither their share nor the others' can be told.
            for name in (*names, *_NAMES, _OTHERS_BUSY):
                sheet.gap(name, device, OTHER_NAMESPACE)
            self._others = self._known = False
            return
        sheet.value("gpu_others_count", device, others)
        if unknown:
            sheet.gap("gpu_others_memory_bytes", device, "the driver does not say it for all of them")
        else:
            sheet.value("gpu_others_memory_bytes", device, others_bytes)

    def _busy(self, sheet: Sheet) -> None:
        nvml = self._nvml
        name = "gpu_process_busy_ratio"
        shares: dict[int, list[int]] = {}
        others: dict[int, list[int]] = {}
        since_us = self._since_us
        try:
            for sample in nvml.nvmlDeviceGetProcessUtilization(self._handle, since_us):
                if sample.smUtil > _MOST or sample.timeStamp <= since_us:
                    continue
                self._since_us = max(self._since_us, int(sample.timeStamp))
                pid = self._pids.ours(int(sample.pid))
                of = others if pid is None else shares
                of.setdefault(int(sample.pid) if pid is None else pid, []).append(int(sample.smUtil))
        except nvml.NVMLError as error:
            # NOT_FOUND: nothing ran since then; the binding raises success too when there is no sample.
            if error.value not in (nvml.NVML_SUCCESS, nvml.NVML_ERROR_NOT_FOUND):
                for pid in self._present:
                    sheet.gap(name, self._device(pid), explain(error))
                sheet.gap(_OTHERS_BUSY, self._calls.device, explain(error))
                return
        for pid in self._present:
            sheet.value(name, self._device(pid), _mean(shares.get(pid, [])))
        sheet.value(_OTHERS_BUSY, self._calls.device, min(1.0, sum(map(_mean, others.values()))))


def _mean(percents: Sequence[int]) -> float:
    """Of samples in percent, as a ratio; 0 when nothing ran."""
    return sum(percents) / len(percents) / 100 if percents else 0.0
