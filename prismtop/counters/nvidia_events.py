"""XID events: NVML hands them out by a call that waits, so a thread of its own waits for them."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from prismtop.counters.nvidia_errors import explain

_WAIT_MS = 500
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""Before the devices that are left are waited for again, and at most when that fails again and again."""
XIDS = {
    13: "exception in a kernel",
    31: "memory page fault of a kernel",
    32: "corrupted push buffer",
    38: "driver firmware error",
    43: "a kernel was stopped",
    45: "a process was taken off the GPU",
    48: "double bit ECC error",
    61: "internal microcontroller breakpoint",
    62: "internal microcontroller halt",
    63: "a memory row will be remapped",
    64: "a memory row could not be remapped",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "many single bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "the GPU's system processor did not answer in time",
    120: "error of the GPU's system processor",
    140: "unrecovered ECC error",
    143: "the GPU could not be initialised",
    149: "NVLink error",
}
"""From NVIDIA's XID catalogue, the ones that are seen on servers."""


def xid_words(number: int) -> str:
    """`XID 79: the GPU has fallen off the bus`."""
    return f"XID {number}: {XIDS.get(number, 'see the XID catalogue of NVIDIA')}"


class Events:
    """Counts XID errors of devices, in a thread that `close` ends before NVML is shut down.

    One lost GPU ends the waiting for all that share its event set (nvml.h), so the set is made again, with
    those that can still be waited for. What was counted before stays: the last XID of a lost GPU says why.

    Args:
        nvml: the binding, initialised.
        handles: devices by name.
    """

    def __init__(self, nvml: Any, handles: Mapping[str, Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._names = {_address(handle): name for name, handle in handles.items()}
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, str]] = {}
        self._reasons: dict[str, str] = {}
        self._ended = threading.Event()
        self._set: Any = None
        self._added_s = 0.0
        self._thread = threading.Thread(target=self._wait, name="prismtop-counters-xid", daemon=True)
        self._register()
        if self._counts:
            self._thread.start()

    def counts(self) -> dict[str, tuple[int, str]]:
        """Errors so far by device, and the last one in words; without devices that never could be watched."""
        with self._lock:
            return dict(self._counts)

    def reasons(self) -> dict[str, str]:
        """Why a device is not watched now."""
        with self._lock:
            return dict(self._reasons)

    def _register(self) -> None:
        """Make the event set, with every device that can be watched."""
        self._free()
        try:
            self._set = self._nvml.nvmlEventSetCreate()
        except self._nvml.NVMLError as error:
            with self._lock:
                self._reasons = dict.fromkeys(self._handles, explain(error))
        else:
            self._add(self._handles)

    def _add(self, names: Iterable[str]) -> None:
        """Put devices into the set that there is."""
        nvml, reasons = self._nvml, {}
        for name in names:
            try:
                nvml.nvmlDeviceRegisterEvents(
                    self._handles[name], nvml.nvmlEventTypeXidCriticalError, self._set
                )
            except nvml.NVMLError as error:
                reasons[name] = explain(error)
        self._added_s = time.monotonic()
        with self._lock:
            self._reasons = reasons
            for name in self._handles.keys() - reasons.keys():
                self._counts.setdefault(name, (0, ""))

    def _wait(self) -> None:
        nvml, pause_s = self._nvml, _FIRST_PAUSE_S
        while not self._ended.is_set():
            try:
                event = nvml.nvmlEventSetWait_v2(self._set, _WAIT_MS)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_TIMEOUT:
                    pause_s = _FIRST_PAUSE_S
                    if self._reasons and time.monotonic() - self._added_s > _LONGEST_PAUSE_S:
                        self._add(tuple(self._reasons))  # a GPU that was reset is watched again
                    continue
                with self._lock:
                    self._reasons = dict.fromkeys(self._handles, explain(error)) | self._reasons
                pause_s = self._again(pause_s)
                continue
            if event.eventType & nvml.nvmlEventTypeXidCriticalError:
                self._count(_address(event.device), int(event.eventData))

    def _again(self, pause_s: float) -> float:
        """Wait, then make the set again, until it holds a device; the pause that is next."""
        while not self._ended.wait(pause_s):
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._register()
            if len(self._reasons) < len(self._handles):
                break
        return pause_s

    def _count(self, address: int, xid: int) -> None:
        name = self._names.get(address)
        with self._lock:
            if name in self._counts:
                self._counts[name] = (self._counts[name][0] + 1, xid_words(xid))

    def close(self) -> None:
        """End the thread, then free the event set."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _WAIT_MS / 1000 + 1)
        if not self._thread.is_alive():
            self._free()

    def _free(self) -> None:
        if self._set is not None:
            self._nvml.nvmlEventSetFree(self._set)
            self._set = None


def _address(handle: Any) -> int:
    """What a device handle points to: equal for equal devices."""
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
