"""XID events: NVML hands them out by a call that waits, so a thread of its own waits for them."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from typing import Any

from prismtop.counters.nvidia_errors import explain

_WAIT_MS = 500
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
    """Counts XID errors of devices. `start` it; `close` ends the thread before NVML is shut down.

    Args:
        nvml: the binding, initialised.
        handles: devices by name.
    """

    def __init__(self, nvml: Any, handles: Mapping[str, Any]) -> None:
        self._nvml = nvml
        self._names = {_address(handle): name for name, handle in handles.items()}
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, str]] = {}
        self.reasons: dict[str, str] = {}
        """Why a device's events cannot be had."""
        self._ended = threading.Event()
        self._set: Any = None
        self._thread = threading.Thread(target=self._wait, name="prismtop-counters-xid", daemon=True)
        try:
            self._set = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            self.reasons = dict.fromkeys(handles, explain(error))
            return
        for name, handle in handles.items():
            try:
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._set)
                self._counts[name] = (0, "")
            except nvml.NVMLError as error:
                self.reasons[name] = explain(error)
        if self._counts:
            self._thread.start()

    def counts(self) -> dict[str, tuple[int, str]]:
        """Errors so far by device, and the last one in words."""
        with self._lock:
            return dict(self._counts)

    def _wait(self) -> None:
        nvml = self._nvml
        while not self._ended.is_set():
            try:
                event = nvml.nvmlEventSetWait_v2(self._set, _WAIT_MS)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_TIMEOUT:
                    continue
                with self._lock:
                    # A lost GPU ends the waiting for all of them (nvml.h).
                    self.reasons.update(dict.fromkeys(self._counts, explain(error)))
                    self._counts.clear()
                return
            if event.eventType & nvml.nvmlEventTypeXidCriticalError:
                self._count(_address(event.device), int(event.eventData))

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
        if self._set is not None and not self._thread.is_alive():
            self._nvml.nvmlEventSetFree(self._set)
            self._set = None


def _address(handle: Any) -> int:
    """What a device handle points to: equal for equal devices."""
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
