"""The part of Level Zero's sysman that is read here: libze_loader.so.1 through ctypes.

Structures, enumerations and codes are those of the public headers `zes_api.h` and `ze_api.h` of
oneapi-src/level-zero, v1.4-r1.4.8: a C compiler gave the same sizes and offsets from them. Of later ones
(v1.12-r1.12.11, v1.15-r1.15.31) the type numbers and the PCI and process structures were read: the same.
`zesInit`, `zesDriverGet` and `zesDeviceGet` came with 1.5;
older loaders start sysman with `zeInit` and ZES_ENABLE_SYSMAN=1.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import c_double, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, TypeVar

LIBRARY = "libze_loader.so.1"
LOST = (0x70000001, 0x70000006)  # DEVICE_LOST, DEVICE_REQUIRES_RESET
UNSUPPORTED = 0x78000003
MISSING = -1
"""Not a code of Level Zero: the loader has no such function."""
_WORDS = {
    MISSING: "this Level Zero loader is too old for it",
    0x70000001: "the GPU is lost: it hung, was reset or was removed",
    0x70000002: "the driver has no memory left",
    0x70000006: "the GPU needs a reset",
    0x70000007: "the GPU is in a low power state",
    0x70010000: "no permission: run prismtop as root",
    0x70010001: "the driver says that it is in use by another program",
    0x70020000: "a library that the driver needs is missing",
    0x78000001: "Level Zero found no driver: install the one for Intel GPUs (libze-intel-gpu1)",
    0x78000002: "the driver does not know this version of it",
    UNSUPPORTED: "not supported by this device",
    0x7FFFFFFE: "the driver does not say why",
}
"""ze_result_t."""
_GPU_ONLY = 1  # ZE_INIT_FLAG_GPU_ONLY
_MANY = 1024
"""More handles of a kind than any device has."""
_S = TypeVar("_S", bound="Described")


class ZeError(Exception):
    """A call failed; `code` is a ze_result_t, or `MISSING`."""

    def __init__(self, code: int) -> None:
        super().__init__(explain(code))
        self.code = code


def explain(code: int) -> str:
    """A ze_result_t in words."""
    return _WORDS.get(code, f"Level Zero error {code:#x}")


class Described(ctypes.Structure):
    """A structure that begins with its type, as most of sysman's do."""

    STYPE = 0

    def __init__(self) -> None:
        super().__init__()
        self.stype = self.STYPE


_HEAD: list[Any] = [("stype", c_uint32), ("pNext", c_void_p)]
_PLACE: list[Any] = [("on_subdevice", c_uint8), ("subdevice", c_uint32)]


class PciAddress(ctypes.Structure):
    """zes_pci_address_t."""

    _fields_ = [(name, c_uint32) for name in ("domain", "bus", "device", "function")]


class PciSpeed(ctypes.Structure):
    """zes_pci_speed_t; -1 where it is not known."""

    _fields_ = [("generation", c_int32), ("width", c_int32), ("max_bandwidth", c_int64)]


class PciProperties(Described):
    """zes_pci_properties_t."""

    STYPE = 0x2
    _fields_ = [
        *_HEAD,
        ("address", PciAddress),
        ("max_speed", PciSpeed),
        ("has_bandwidth", c_uint8),
        ("has_packets", c_uint8),
        ("has_replays", c_uint8),
    ]


class PciState(Described):
    """zes_pci_state_t."""

    STYPE = 0x17
    _fields_ = [
        *_HEAD,
        ("status", c_uint32),
        ("quality", c_uint32),
        ("stability", c_uint32),
        ("speed", PciSpeed),
    ]


class PciStats(ctypes.Structure):
    """zes_pci_stats_t: us, replays, packets, bytes received and sent."""

    _fields_ = [
        *((name, c_uint64) for name in ("us", "replays", "packets", "received", "sent")),
        ("speed", PciSpeed),
    ]


class EngineProperties(Described):
    """zes_engine_properties_t."""

    STYPE = 0x5
    _fields_ = [*_HEAD, ("kind", c_uint32), *_PLACE]


class EngineStats(ctypes.Structure):
    """zes_engine_stats_t, in us."""

    _fields_ = [("active_us", c_uint64), ("us", c_uint64)]


class FrequencyProperties(Described):
    """zes_freq_properties_t, in MHz."""

    STYPE = 0x9
    _fields_ = [
        *_HEAD,
        ("kind", c_uint32),
        *_PLACE,
        ("can_control", c_uint8),
        ("can_tell", c_uint8),
        ("min", c_double),
        ("max", c_double),
    ]


class FrequencyState(Described):
    """zes_freq_state_t, in MHz; negative where it is not known."""

    STYPE = 0x1B
    _fields_ = [
        *_HEAD,
        *((name, c_double) for name in ("voltage", "request", "tdp", "efficient", "actual")),
        ("reasons", c_uint32),
    ]


class MemoryProperties(Described):
    """zes_mem_properties_t."""

    STYPE = 0xB
    _fields_ = [
        *_HEAD,
        ("kind", c_uint32),
        *_PLACE,
        ("location", c_uint32),
        ("size", c_uint64),
        ("bus_width", c_int32),
        ("channels", c_int32),
    ]


class MemoryState(Described):
    """zes_mem_state_t, in bytes."""

    STYPE = 0x1E
    _fields_ = [*_HEAD, ("health", c_uint32), ("free", c_uint64), ("size", c_uint64)]


class MemoryBandwidth(ctypes.Structure):
    """zes_mem_bandwidth_t: bytes, bytes a second, us."""

    _fields_ = [(name, c_uint64) for name in ("read", "written", "max_per_s", "us")]


class PowerProperties(Described):
    """zes_power_properties_t, in mW."""

    STYPE = 0xD
    _fields_ = [
        *_HEAD,
        *_PLACE,
        ("can_control", c_uint8),
        ("has_threshold", c_uint8),
        ("default_mw", c_int32),
        ("min_mw", c_int32),
        ("max_mw", c_int32),
    ]


class Energy(ctypes.Structure):
    """zes_power_energy_counter_t."""

    _fields_ = [("uj", c_uint64), ("us", c_uint64)]


class SustainedLimit(ctypes.Structure):
    """zes_power_sustained_limit_t."""

    _fields_ = [("enabled", c_uint8), ("mw", c_int32), ("interval_ms", c_int32)]


class LimitDescription(Described):
    """zes_power_limit_ext_desc_t."""

    STYPE = 0x27
    _fields_ = [
        *_HEAD,
        ("level", c_uint32),
        ("source", c_uint32),
        ("unit", c_uint32),
        ("enabled_locked", c_uint8),
        ("enabled", c_uint8),
        ("interval_locked", c_uint8),
        ("interval_ms", c_int32),
        ("limit_locked", c_uint8),
        ("limit", c_int32),
    ]


class TemperatureProperties(Described):
    """zes_temp_properties_t."""

    STYPE = 0x14
    _fields_ = [
        *_HEAD,
        ("kind", c_uint32),
        *_PLACE,
        ("max", c_double),
        ("critical", c_uint8),
        ("threshold1", c_uint8),
        ("threshold2", c_uint8),
    ]


class FabricThroughput(ctypes.Structure):
    """zes_fabric_port_throughput_t: us, bytes."""

    _fields_ = [("us", c_uint64), ("received", c_uint64), ("sent", c_uint64)]


class ProcessState(Described):
    """zes_process_state_t, in bytes."""

    STYPE = 0x16
    _fields_ = [
        *_HEAD,
        ("pid", c_uint32),
        ("memory", c_uint64),
        ("shared", c_uint64),
        ("engines", c_uint32),
    ]


class Library:
    """A loaded libze_loader.so.1.

    Args:
        library: the `CDLL`.
    """

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function. Raises ZeError."""
        function = getattr(self._library, name, None)
        if function is None:
            raise ZeError(MISSING)
        code = int(function(*arguments))
        if code:
            raise ZeError(code)

    def has(self, name: str) -> bool:
        """Whether the loader has a function."""
        return hasattr(self._library, name)

    def handles(self, name: str, *parents: c_void_p) -> list[c_void_p]:
        """What an enumeration gives. Raises ZeError."""
        count = c_uint32(0)
        self.call(name, *parents, ctypes.byref(count), None)
        if not count.value:
            return []
        count = c_uint32(min(count.value, _MANY))
        array = (c_void_p * count.value)()
        self.call(name, *parents, ctypes.byref(count), array)
        return [c_void_p(handle) for handle in array[: count.value]]

    def get(self, name: str, handle: c_void_p, kind: type[_S]) -> _S:
        """A structure that a function fills in. Raises ZeError."""
        made = kind()
        self.call(name, handle, ctypes.byref(made))
        return made

    def plain(self, name: str, handle: c_void_p, kind: type[Any]) -> Any:
        """The same for a structure without a type in it. Raises ZeError."""
        made = kind()
        self.call(name, handle, ctypes.byref(made))
        return made

    def processes(self, device: c_void_p) -> Sequence[ProcessState]:
        """Processes that use a device. Raises ZeError."""
        count = c_uint32(0)
        self.call("zesDeviceProcessesGetState", device, ctypes.byref(count), None)
        # More than there are, since some may come; unused ones are not counted afterwards.
        count = c_uint32(min(count.value, _MANY) + 16)
        array = (ProcessState * count.value)()
        for state in array:
            state.stype = ProcessState.STYPE
        self.call("zesDeviceProcessesGetState", device, ctypes.byref(count), array)
        return array[: min(count.value, len(array))]

    def limits(self, domain: c_void_p) -> Sequence[LimitDescription]:
        """Limits of a power domain. Raises ZeError."""
        count = c_uint32(0)
        self.call("zesPowerGetLimitsExt", domain, ctypes.byref(count), None)
        count = c_uint32(min(count.value, _MANY))
        array = (LimitDescription * max(1, count.value))()
        for limit in array:
            limit.stype = LimitDescription.STYPE
        self.call("zesPowerGetLimitsExt", domain, ctypes.byref(count), array)
        return array[: min(count.value, len(array))]


def open_library() -> tuple[Library | None, dict[str, c_void_p], str]:
    """Start sysman: the library, its devices by PCI address, and why there is none."""
    try:
        library = Library(ctypes.CDLL(LIBRARY))
    except OSError:
        return None, {}, f"{LIBRARY} was not found: install Level Zero (libze1) and its driver for Intel GPUs"
    try:
        if library.has("zesInit"):
            library.call("zesInit", c_uint32(0))
            drivers, devices = "zesDriverGet", "zesDeviceGet"
        else:
            os.environ["ZES_ENABLE_SYSMAN"] = "1"
            library.call("zeInit", c_uint32(_GPU_ONLY))
            drivers, devices = "zeDriverGet", "zeDeviceGet"
        found: dict[str, c_void_p] = {}
        for driver in library.handles(drivers):
            for device in library.handles(devices, driver):
                at = library.get("zesDevicePciGetProperties", device, PciProperties).address
                found[f"{at.domain:04x}:{at.bus:02x}:{at.device:02x}.{at.function:x}"] = device
    except ZeError as error:
        return None, {}, str(error)
    return library, found, ""
