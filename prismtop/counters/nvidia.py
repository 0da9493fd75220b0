"""NVIDIA GPUs through NVML (`pip install nvidia-ml-py`, which is imported as `pynvml`)."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator
from typing import Any

from prismtop.counters.clock_limits import clock_limit_words
from prismtop.counters.device import Absent, Where, missing
from prismtop.counters.nvidia_errors import Calls, explain
from prismtop.counters.nvidia_events import Events
from prismtop.counters.nvidia_fields import Fields
from prismtop.counters.nvidia_gpm import METRIC_NAMES, PCIE, PROFILING, Gpm
from prismtop.counters.nvidia_processes import OTHERS, DeviceProcesses, PidMap
from prismtop.counters.sheet import Reader, Sheet

_USE = ("gpu_busy_ratio", "gpu_memory_busy_ratio")
_MEMORY = ("gpu_memory_used_bytes", "gpu_memory_total_bytes")
_LOST_NAMES = missing(("gpu_xid_errors_total",))


def open_reader(where: Where) -> Reader | Absent:
    """NVML initialised, or why it cannot be."""
    nodes = [path for path in glob.glob(f"{where.dev}/nvidia*") if path[-1].isdigit()]
    try:
        import pynvml
    except ImportError:
        fix = "Run `pip install nvidia-ml-py`."
        return Absent("nvidia", "the Python package nvidia-ml-py is not installed", fix, bool(nodes))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        reason = explain(error)
        if not nodes and error.value in (9, 12):
            return Absent("nvidia", "no NVIDIA GPU: there is no driver and no /dev/nvidia*")
        return Absent("nvidia", reason, _fix(error.value), hardware=True)
    except AttributeError as error:
        fix = "Run `pip uninstall pynvml`, then `pip install --force-reinstall nvidia-ml-py`."
        return Absent("nvidia", f"another package hides nvidia-ml-py ({error})", fix, bool(nodes))
    try:
        gpus = list(_gpus(pynvml, where))
    except pynvml.NVMLError as error:
        pynvml.nvmlShutdown()
        return Absent("nvidia", explain(error), _fix(error.value), hardware=True)
    if not gpus:
        pynvml.nvmlShutdown()
        return Absent("nvidia", "the driver runs, and has no GPU for this container", "", bool(nodes))
    return NvidiaReader(pynvml, gpus)


def _fix(code: int) -> str:
    if code == 18:
        return "Reboot, or restart the container with the driver's present libraries."
    if code == 4:
        return "Run prismtop as root."
    if code == 12:
        return "Start the container with `--gpus all`, or install the driver's libraries."
    return "Run `nvidia-smi`, and follow what it says."


def _gpus(nvml: Any, where: Where) -> Iterator[_Gpu]:
    pids = PidMap(where.targets, where.proc)
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:  # one broken GPU does not hide the others
            yield _Gpu(nvml, f"gpu {index}", None, pids, explain(error))
        else:
            yield _Gpu(nvml, f"gpu {index}", handle, pids)


class NvidiaReader:
    """Counters of all NVIDIA GPUs. NVML stays initialised until `close`."""

    name = "nvidia"

    def __init__(self, nvml: Any, gpus: list[_Gpu]) -> None:
        self._nvml = nvml
        self._gpus = gpus
        handles = {gpu.device: gpu.handle for gpu in gpus if gpu.handle is not None}
        self._events = Events(nvml, handles)

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round over all GPUs; each has its own time."""
        counts, reasons = self._events.counts(), self._events.reasons()
        for gpu in self._gpus:
            sheet.now_ns = _now()
            gpu.read(sheet, slow=slow)
            self._xids(sheet, gpu, slow, counts.get(gpu.device), reasons.get(gpu.device, ""))

    def _xids(self, sheet: Sheet, gpu: _Gpu, slow: bool, found: tuple[int, str] | None, reason: str) -> None:
        """What was counted is shown for as long as it is more than nothing, whether or not it goes on."""
        name, device = "gpu_xid_errors_total", gpu.device
        if found is None or (reason and not found[0]):
            if reason:
                sheet.gap(name, device, reason)
            return
        count, text = found
        if slow or count != gpu.xids:
            gpu.xids = count
            sheet.value(name, device, count, text=f"{text}; not counted now: {reason}" if reason else text)

    def close(self) -> None:
        """End the waiting thread, free samples, then shut NVML down: in this order."""
        self._events.close()
        for gpu in self._gpus:
            gpu.close()
        self._nvml.nvmlShutdown()


def _now() -> int:
    return time.monotonic_ns()


class _Gpu:
    """One physical GPU, with its MIG devices."""

    def __init__(self, nvml: Any, device: str, handle: Any, pids: PidMap, reason: str = "") -> None:
        self.device = device
        self.handle = handle
        self.xids = -1
        self._nvml = nvml
        self._reason = reason
        self._calls = Calls(nvml, device)
        self._gpm = Gpm(nvml, self._calls, handle)
        self._pids = pids
        self._processes = DeviceProcesses(nvml, self._calls, handle, pids)
        self._fields = Fields(nvml, self._calls, handle)
        self._migs: list[_Mig] | None = None

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        nvml, calls, handle = self._nvml, self._calls, self.handle
        if handle is None or calls.lost(sheet.now_ns):
            self._gone(sheet, self._reason or calls.lost_reason)
            return
        if slow or self._migs is None:
            self._migs = self._mig_devices(sheet)
        self._use(sheet, bool(self._migs))
        if calls.lost(sheet.now_ns):
            self._gone(sheet, calls.lost_reason)
            return
        self._clocks(sheet, slow)
        memory = calls(sheet, _MEMORY, nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is not None:
            sheet.value("gpu_memory_used_bytes", self.device, memory.used)
            if slow:
                sheet.value("gpu_memory_total_bytes", self.device, memory.total)
        if not self._migs:
            self._gpm.read(sheet, self._fields.given - PCIE)
        works = frozenset() if self._migs else self._gpm.works
        self._fields.read(sheet, slow=slow, covered=works)
        self._power(sheet, self._fields.power_mw)
        if not self._migs:
            self._processes.read(sheet, slow=slow)
        for mig in self._migs:
            mig.read(sheet, slow=slow)
        if slow:
            self._seldom(sheet)

    def close(self) -> None:
        self._gpm.close()
        for mig in self._migs or ():
            mig.close()

    def _gone(self, sheet: Sheet, reason: str) -> None:
        for name in _LOST_NAMES:
            sheet.gap(name, self.device, reason)
        self._processes.gone(sheet, reason)
        for mig in self._migs or ():
            mig.gone(sheet, reason)

    def _use(self, sheet: Sheet, mig: bool) -> None:
        if mig:
            for name in (*_USE, *PROFILING, *OTHERS):
                sheet.gap(name, self.device, "not available while MIG is on: see its MIG devices")
            return
        use = self._calls(sheet, _USE, self._nvml.nvmlDeviceGetUtilizationRates, self.handle)
        if use is not None:
            sheet.value("gpu_busy_ratio", self.device, use.gpu / 100)
            sheet.value("gpu_memory_busy_ratio", self.device, use.memory / 100)

    def _clocks(self, sheet: Sheet, slow: bool) -> None:
        nvml, calls, handle = self._nvml, self._calls, self.handle
        for name, kind in (
            ("gpu_sm_clock_mhz", nvml.NVML_CLOCK_SM),
            ("gpu_memory_clock_mhz", nvml.NVML_CLOCK_MEM),
        ):
            mhz = calls(sheet, (name,), nvml.nvmlDeviceGetClockInfo, handle, kind)
            if mhz is not None:
                sheet.value(name, self.device, mhz)
        bits = self._limits(sheet)
        if bits is not None:
            words = clock_limit_words(bits)
            sheet.value("gpu_clock_limits_bitmask", self.device, bits, text=words)
        if slow:
            name = "gpu_sm_clock_max_mhz"
            mhz = calls(sheet, (name,), nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
            if mhz is not None:
                sheet.value(name, self.device, mhz)

    def _limits(self, sheet: Sheet) -> int | None:
        """Event reasons; drivers before 535 know them as throttle reasons."""
        nvml, name = self._nvml, ("gpu_clock_limits_bitmask",)
        bits = self._calls(sheet, (), nvml.nvmlDeviceGetCurrentClocksEventReasons, self.handle)
        if bits is None:
            bits = self._calls(sheet, name, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, self.handle)
        return None if bits is None else int(bits)

    def _power(self, sheet: Sheet, instant_mw: float | None) -> None:
        """The field of instant power; older drivers have the one-second average only."""
        nvml, calls, handle = self._nvml, self._calls, self.handle
        milliwatts: float | None = instant_mw
        if milliwatts is None:
            milliwatts = calls(sheet, ("gpu_power_watts",), nvml.nvmlDeviceGetPowerUsage, handle)
        if milliwatts is not None:
            sheet.value("gpu_power_watts", self.device, milliwatts / 1000)
        name = "gpu_temperature_celsius"
        celsius = calls(sheet, (name,), nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        if celsius is not None:
            sheet.value(name, self.device, celsius)

    def _seldom(self, sheet: Sheet) -> None:
        nvml, calls, handle = self._nvml, self._calls, self.handle
        simple = (
            ("gpu_power_limit_watts", nvml.nvmlDeviceGetEnforcedPowerLimit, (), 1e-3),
            ("gpu_fan_ratio", nvml.nvmlDeviceGetFanSpeed, (), 0.01),
            ("gpu_pcie_generation_count", nvml.nvmlDeviceGetCurrPcieLinkGeneration, (), 1.0),
            ("gpu_pcie_width_count", nvml.nvmlDeviceGetCurrPcieLinkWidth, (), 1.0),
            (
                "gpu_ecc_corrected_total",
                nvml.nvmlDeviceGetTotalEccErrors,
                (nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_VOLATILE_ECC),
                1.0,
            ),
            (
                "gpu_ecc_uncorrected_total",
                nvml.nvmlDeviceGetTotalEccErrors,
                (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
                1.0,
            ),
        )
        for name, function, args, scale in simple:
            value = calls(sheet, (name,), function, handle, *args)
            if value is not None:
                sheet.value(name, self.device, value * scale)

    def _mig_devices(self, sheet: Sheet) -> list[_Mig]:
        """MIG devices as they are now; known ones keep their samples. Empty without MIG."""
        nvml = self._nvml
        mode = self._calls(sheet, (), nvml.nvmlDeviceGetMigMode, self.handle)
        if self._calls.lost(sheet.now_ns):
            return self._migs or []  # it is not known that they are gone
        known = {mig.instance: mig for mig in self._migs or ()}
        found: list[_Mig] = []
        if mode is not None and mode[0]:
            count = self._calls(sheet, (), nvml.nvmlDeviceGetMaxMigDeviceCount, self.handle) or 0
            for index in range(count):
                try:
                    handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(self.handle, index)
                    instance = int(nvml.nvmlDeviceGetGpuInstanceId(handle))
                    compute = int(nvml.nvmlDeviceGetComputeInstanceId(handle))
                except nvml.NVMLError:  # NOT_FOUND: this slot is free
                    continue
                mig = known.pop((instance, compute), None)
                found.append(mig or _Mig(self, handle, (instance, compute)))
        for gone in known.values():
            gone.close()
            sheet.forget(gone.device)
        return found

    def mig_parts(self, device: str, handle: Any, instance: int) -> tuple[Calls, Gpm, DeviceProcesses]:
        """What a MIG device of this GPU reads with."""
        calls = Calls(self._nvml, device)
        gpm = Gpm(self._nvml, calls, self.handle, instance)
        return calls, gpm, DeviceProcesses(self._nvml, calls, handle, self._pids, use=False)


class _Mig:
    """One MIG device: NVML has its memory and processes, GPM its activity; the clocks are the GPU's."""

    def __init__(self, gpu: _Gpu, handle: Any, instance: tuple[int, int]) -> None:
        self.device = f"{gpu.device} mig {instance[0]}/{instance[1]}"
        self.instance = instance
        self._handle = handle
        self._nvml = gpu._nvml
        self._calls, self._gpm, self._processes = gpu.mig_parts(self.device, handle, instance[0])

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        memory = self._calls(sheet, _MEMORY, self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        if memory is not None:
            sheet.value("gpu_memory_used_bytes", self.device, memory.used)
            if slow:
                sheet.value("gpu_memory_total_bytes", self.device, memory.total)
        sheet.gap(
            "gpu_busy_ratio", self.device, "NVML has none for a MIG device: see how much of it was active"
        )
        self._gpm.read(sheet)
        self._processes.read(sheet, slow=slow)

    def gone(self, sheet: Sheet, reason: str) -> None:
        for name in (*_MEMORY, *METRIC_NAMES, *OTHERS, "gpu_busy_ratio"):
            sheet.gap(name, self.device, reason)
        self._processes.gone(sheet, reason)

    def close(self) -> None:
        self._gpm.close()
