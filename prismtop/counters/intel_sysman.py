"""What Level Zero's sysman tells about an Intel GPU, beside sysfs and fdinfo.

Counters of time come with a time of their own (us), and rates are taken with it: the two belong together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_double, c_int32, c_uint32, c_void_p
from typing import Any

from prismtop.counters.clock_limits import clock_limit_words
from prismtop.counters.level_zero import (
    LOST,
    Described,
    Energy,
    EngineProperties,
    EngineStats,
    FabricThroughput,
    FrequencyProperties,
    FrequencyState,
    Library,
    MemoryBandwidth,
    MemoryProperties,
    MemoryState,
    PciProperties,
    PciState,
    PciStats,
    PowerProperties,
    ProcessState,
    SustainedLimit,
    TemperatureProperties,
    ZeError,
    open_library,
)
from prismtop.counters.sheet import Sheet

RETRY_NS = 60 * 10**9
"""What failed is tried again after this time."""
_LIMITS = ((0x1, 0x4), (0x2, 0x4), (0x4, 0x200), (0x8, 0x40), (0x10, 0x80), (0x20, 0x2), (0x40, 0x200))
"""zes_freq_throttle_reason_flag_t as bits of `gpu_clock_limits_bitmask`: average and burst power, current,
heat, power supply, range set by software, a part of the chip that is slower.
"""
_DEVICE_MEMORY = 1  # ZES_MEM_LOC_DEVICE
_GPU, _MEMORY = 0, 1  # ZES_FREQ_DOMAIN_*
_ALL, _COMPUTE_ALL = 0, 1  # ZES_ENGINE_GROUP_*
_GLOBAL, _CHIP, _OF_MEMORY = 0, 1, 2  # ZES_TEMP_SENSORS_*
_PERCENT = 1  # ZES_FAN_SPEED_UNITS_PERCENT
_SUSTAINED, _POWER = 1, 2  # ZES_POWER_LEVEL_SUSTAINED, ZES_LIMIT_UNIT_POWER
_BUSY, _ACTIVE = "gpu_busy_ratio", "gpu_dram_active_ratio"
_WATTS, _LIMIT = "gpu_power_watts", "gpu_power_limit_watts"
_PCIE = ("gpu_pcie_receive_bytes_per_s", "gpu_pcie_transmit_bytes_per_s")
_FABRIC = ("gpu_nvlink_receive_bytes_per_s", "gpu_nvlink_transmit_bytes_per_s")
_OTHERS = ("gpu_others_count", "gpu_others_memory_bytes")


class _None(Exception):
    """A device does not have such a part: why, half a sentence."""


class Sysman:
    """Level Zero's sysman, started.

    Args:
        library: the loader.
        handles: devices by PCI address.
        pids: the targets.
    """

    def __init__(self, library: Library, handles: Mapping[str, c_void_p], pids: Sequence[int]) -> None:
        self._library = library
        self._pids = frozenset(pids)
        self._handles = {address.lower(): handle for address, handle in handles.items()}
        self._devices: dict[str, _Device] = {}

    def read(self, sheet: Sheet, device: str, address: str, *, slow: bool) -> Mapping[str, str]:
        """Put a card's readings on the sheet.

        Returns by name of a counter why it was not read; an empty reason when it was, or will be once two
        readings are there. A name that sysman does not have at all is left out.
        """
        handle = self._handles.get(address.lower())
        if handle is None:
            return {}
        found = self._devices.get(device)
        if found is None:
            found = self._devices[device] = _Device(self._library, handle, device, self._pids)
        return found.read(sheet, slow=slow)


def open_sysman(pids: Sequence[int]) -> tuple[Sysman | None, str]:
    """Sysman, or why there is none."""
    library, handles, why_not = open_library()
    return (Sysman(library, handles, pids), "") if library is not None else (None, why_not)


class _Device:
    """One GPU. Its parts (domains, sensors, engines) are looked for once."""

    def __init__(self, library: Library, handle: c_void_p, name: str, pids: frozenset[int]) -> None:
        self._library, self._handle, self._name, self._pids = library, handle, name, pids
        self._parts: dict[str, list[tuple[c_void_p, int]]] = {}
        self._before: dict[tuple[str, int], tuple[int, int]] = {}
        self._again_ns: dict[str, int] = {}
        self._lost_until_ns = 0
        self._told: dict[str, str] = {}
        self._slow_round = True
        self._fast: tuple[tuple[tuple[str, ...], Callable[[Sheet], None]], ...] = (
            (("gpu_sm_clock_mhz", "gpu_clock_limits_bitmask"), self._clock),
            (("gpu_memory_clock_mhz",), self._memory_clock),
            ((_BUSY,), self._busy),
            (("gpu_memory_used_bytes", "gpu_memory_total_bytes"), self._memory),
            ((_ACTIVE,), self._bandwidth),
            ((_WATTS,), self._power),
            (("gpu_temperature_celsius",), self._temperature),
            (("gpu_memory_temperature_celsius",), self._memory_temperature),
            (_PCIE, self._pcie),
            (_FABRIC, self._fabric),
        )
        self._slow: tuple[tuple[tuple[str, ...], Callable[[Sheet], None]], ...] = (
            (("gpu_sm_clock_max_mhz",), self._clock_max),
            ((_LIMIT,), self._power_limit),
            (("gpu_fan_ratio",), self._fan),
            (("gpu_pcie_replays_total",), self._replays),
            (("gpu_pcie_generation_count", "gpu_pcie_width_count"), self._link),
            (_OTHERS, self._others),
        )

    def read(self, sheet: Sheet, *, slow: bool) -> Mapping[str, str]:
        if sheet.now_ns < self._lost_until_ns:
            return self._told
        self._slow_round = slow
        for names, read in (*self._fast, *(self._slow if slow else ())):
            if sheet.now_ns < self._again_ns.get(names[0], 0):
                continue
            try:
                read(sheet)
                self._told |= dict.fromkeys(names, "")
            except _None as error:
                self._told |= dict.fromkeys(names, str(error))
                self._again_ns[names[0]] = sheet.now_ns + RETRY_NS
            except ZeError as error:
                if error.code in LOST:
                    self._lost(sheet, str(error))
                    break
                self._told |= dict.fromkeys(names, str(error))
                self._again_ns[names[0]] = sheet.now_ns + RETRY_NS
        return self._told

    def _lost(self, sheet: Sheet, reason: str) -> None:
        """Nothing of it can be read; its handles may not be valid when it is back."""
        self._lost_until_ns = sheet.now_ns + RETRY_NS
        everything = (name for names, _ in (*self._fast, *self._slow) for name in names)
        self._told = dict.fromkeys(everything, reason)
        self._parts.clear()
        self._before.clear()
        self._again_ns.clear()

    def _of(self, what: str, kind: type[Described], kinds: Sequence[int]) -> list[c_void_p]:
        """The parts of one sort that are of the first of these kinds that the device has: those of the whole
        device where there are such, else those of its tiles.
        """
        enumerate_, properties = what.split()
        if what not in self._parts:
            made = []
            for handle in self._library.handles(enumerate_, self._handle):
                about: Any = self._library.get(properties, handle, kind)
                made.append((handle, (about.kind << 1) | bool(about.on_subdevice)))
            self._parts[what] = made
        for wanted in kinds:
            for tile in (0, 1):
                found = [handle for handle, key in self._parts[what] if key == wanted << 1 | tile]
                if found:
                    return found
        raise _None("this GPU has no such part, as Level Zero tells it")

    def _grown(self, name: str, number: int, total: int, us: int) -> tuple[int, int] | None:
        """(growth, us) since the last time; None the first time, after a reset, and when no time passed."""
        before = self._before.get((name, number))
        if before is not None and us == before[1]:
            return None
        self._before[name, number] = (total, us)
        if before is None or total < before[0] or us < before[1]:
            return None
        return total - before[0], us - before[1]

    def _put(self, sheet: Sheet, name: str, value: float, text: str = "") -> None:
        sheet.value(name, self._name, value, source="sysman", text=text)

    def _domains(self, kind: int) -> list[c_void_p]:
        what = "zesDeviceEnumFrequencyDomains zesFrequencyGetProperties"
        return self._of(what, FrequencyProperties, (kind,))

    def _states(self, kind: int) -> list[FrequencyState]:
        get = self._library.get
        return [get("zesFrequencyGetState", handle, FrequencyState) for handle in self._domains(kind)]

    def _clock(self, sheet: Sheet) -> None:
        """Of several tiles the slowest one sets the pace; what limits any of them counts."""
        states = self._states(_GPU)
        known = [state.actual for state in states if state.actual >= 0]
        if not known:
            raise _None("the driver does not know the clock")
        self._put(sheet, "gpu_sm_clock_mhz", min(known))
        bits = 0
        for state in states:
            for flag, bit in _LIMITS:
                bits |= bit if state.reasons & flag else 0
        self._put(sheet, "gpu_clock_limits_bitmask", bits, clock_limit_words(bits))

    def _memory_clock(self, sheet: Sheet) -> None:
        known = [state.actual for state in self._states(_MEMORY) if state.actual >= 0]
        if not known:
            raise _None("the driver does not know the clock")
        self._put(sheet, "gpu_memory_clock_mhz", min(known))

    def _clock_max(self, sheet: Sheet) -> None:
        get = self._library.get
        found = [get("zesFrequencyGetProperties", one, FrequencyProperties) for one in self._domains(_GPU)]
        known = [about.max for about in found if about.max > 0]
        if not known:
            raise _None("the driver does not know the highest clock")
        self._put(sheet, "gpu_sm_clock_max_mhz", max(known))

    def _busy(self, sheet: Sheet) -> None:
        what = "zesDeviceEnumEngineGroups zesEngineGetProperties"
        shares = []
        for number, handle in enumerate(self._of(what, EngineProperties, (_ALL, _COMPUTE_ALL))):
            stats = self._library.plain("zesEngineGetActivity", handle, EngineStats)
            grown = self._grown(_BUSY, number, stats.active_us, stats.us)
            if grown is not None:
                shares.append(grown[0] / grown[1])
        if shares:
            self._put(sheet, _BUSY, min(1.0, max(shares)))

    def _modules(self) -> list[c_void_p]:
        if "memory" not in self._parts:
            made = []
            for handle in self._library.handles("zesDeviceEnumMemoryModules", self._handle):
                about = self._library.get("zesMemoryGetProperties", handle, MemoryProperties)
                if about.location == _DEVICE_MEMORY:
                    made.append((handle, int(about.on_subdevice != 0)))
            self._parts["memory"] = made
        whole = [handle for handle, tile in self._parts["memory"] if not tile]
        found = whole or [handle for handle, _ in self._parts["memory"]]
        if not found:
            raise _None("this GPU has no memory of its own")
        return found

    def _memory(self, sheet: Sheet) -> None:
        get = self._library.get
        states = [get("zesMemoryGetState", handle, MemoryState) for handle in self._modules()]
        total = sum(state.size for state in states)
        self._put(sheet, "gpu_memory_used_bytes", total - sum(state.free for state in states))
        if self._slow_round:
            self._put(sheet, "gpu_memory_total_bytes", total)

    def _bandwidth(self, sheet: Sheet) -> None:
        moved, possible = 0.0, 0.0
        for number, handle in enumerate(self._modules()):
            now = self._library.plain("zesMemoryGetBandwidth", handle, MemoryBandwidth)
            if not now.max_per_s:
                raise _None("the driver does not know the highest bandwidth")
            grown = self._grown(_ACTIVE, number, now.read + now.written, now.us)
            if grown is not None:
                moved += grown[0] / grown[1] * 1e6
                possible += now.max_per_s
        if possible:
            self._put(sheet, _ACTIVE, min(1.0, moved / possible))

    def _supplies(self) -> list[c_void_p]:
        """The power domain of the card, else those of the tiles."""
        if "power" not in self._parts:
            made = []
            for handle in self._library.handles("zesDeviceEnumPowerDomains", self._handle):
                about = self._library.get("zesPowerGetProperties", handle, PowerProperties)
                made.append((handle, int(about.on_subdevice != 0)))
            self._parts["power"] = made
        whole = [handle for handle, tile in self._parts["power"] if not tile]
        found = whole[:1] or [handle for handle, _ in self._parts["power"]]
        if not found:
            raise _None("this GPU has no such part, as Level Zero tells it")
        return found

    def _power(self, sheet: Sheet) -> None:
        watts = []
        for number, handle in enumerate(self._supplies()):
            energy = self._library.plain("zesPowerGetEnergyCounter", handle, Energy)
            grown = self._grown(_WATTS, number, energy.uj, energy.us)
            if grown is not None:
                watts.append(grown[0] / grown[1])  # uJ a us are W
        if watts:
            self._put(sheet, _WATTS, sum(watts))

    def _power_limit(self, sheet: Sheet) -> None:
        limits = [mw for mw in map(self._limit_of, self._supplies()) if mw is not None]
        if not limits:
            raise _None("no sustained limit is set")
        self._put(sheet, _LIMIT, sum(limits) / 1e3)

    def _limit_of(self, domain: c_void_p) -> int | None:
        """mW; by the extension of 1.4, else by the call that it replaces."""
        try:
            for limit in self._library.limits(domain):
                if limit.level == _SUSTAINED and limit.unit == _POWER and limit.enabled:
                    return int(limit.limit)
            return None
        except ZeError as error:
            if error.code in LOST:
                raise
        made = SustainedLimit()
        self._library.call("zesPowerGetLimits", domain, byref(made), None, None)
        return int(made.mw) if made.enabled else None

    def _sensor(self, sheet: Sheet, name: str, kinds: Sequence[int]) -> None:
        what = "zesDeviceEnumTemperatureSensors zesTemperatureGetProperties"
        found = []
        for handle in self._of(what, TemperatureProperties, kinds):
            value = c_double()
            self._library.call("zesTemperatureGetState", handle, byref(value))
            found.append(value.value)
        self._put(sheet, name, max(found))

    def _temperature(self, sheet: Sheet) -> None:
        self._sensor(sheet, "gpu_temperature_celsius", (_CHIP, _GLOBAL))

    def _memory_temperature(self, sheet: Sheet) -> None:
        self._sensor(sheet, "gpu_memory_temperature_celsius", (_OF_MEMORY,))

    def _fan(self, sheet: Sheet) -> None:
        fans = self._library.handles("zesDeviceEnumFans", self._handle)
        speeds = []
        for fan in fans:
            speed = c_int32(-1)
            self._library.call("zesFanGetState", fan, c_uint32(_PERCENT), byref(speed))
            if speed.value >= 0:
                speeds.append(speed.value / 100)
        if not speeds:
            raise _None("the speed of a fan could not be measured" if fans else "this GPU has no fan")
        self._put(sheet, "gpu_fan_ratio", max(speeds))

    def _pcie(self, sheet: Sheet) -> None:
        stats = self._library.plain("zesDevicePciGetStats", self._handle, PciStats)
        if not stats.received and not stats.sent:
            # What the driver does not count is always 0 (zes_pci_stats_t).
            raise _None("the driver does not count PCIe traffic")
        for name, total in zip(_PCIE, (stats.received, stats.sent), strict=True):
            grown = self._grown(name, 0, total, stats.us)
            if grown is not None:
                self._put(sheet, name, grown[0] / grown[1] * 1e6)

    def _replays(self, sheet: Sheet) -> None:
        if not self._library.get("zesDevicePciGetProperties", self._handle, PciProperties).has_replays:
            raise _None("the driver does not count PCIe replays")
        stats = self._library.plain("zesDevicePciGetStats", self._handle, PciStats)
        self._put(sheet, "gpu_pcie_replays_total", stats.replays)

    def _link(self, sheet: Sheet) -> None:
        speed = self._library.get("zesDevicePciGetState", self._handle, PciState).speed
        if speed.generation < 0 or speed.width < 0:
            raise _None("the driver does not know the speed of the link")
        self._put(sheet, "gpu_pcie_generation_count", speed.generation)
        self._put(sheet, "gpu_pcie_width_count", speed.width)

    def _fabric(self, sheet: Sheet) -> None:
        """Xe Link."""
        ports = self._library.handles("zesDeviceEnumFabricPorts", self._handle)
        if not ports:
            raise _None("this GPU has no Xe Link")
        rates = dict.fromkeys(_FABRIC, 0.0)
        known = False
        for number, port in enumerate(ports):
            now = self._library.plain("zesFabricPortGetThroughput", port, FabricThroughput)
            for name, total in zip(_FABRIC, (now.received, now.sent), strict=True):
                grown = self._grown(name, number, total, now.us)
                if grown is not None:
                    known = True
                    rates[name] += grown[0] / grown[1] * 1e6
        if known:
            for name, rate in rates.items():
                self._put(sheet, name, rate)

    def _others(self, sheet: Sheet) -> None:
        using = self._library.processes(self._handle)
        if using and not self._pids & {state.pid for state in using} and self._foreign(using):
            raise _None("device-wide only: the driver's process ids are of another pid namespace")
        others = [state for state in using if state.pid not in self._pids]
        self._put(sheet, _OTHERS[0], len(others))
        self._put(sheet, _OTHERS[1], sum(state.memory for state in others))

    @staticmethod
    def _foreign(using: Sequence[ProcessState]) -> bool:
        """Whether some of these are no processes of this procfs."""
        return any(not os.path.exists(f"/proc/{state.pid}") for state in using)
