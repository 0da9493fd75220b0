"""Errors of NVML in words, and calls that are not repeated when they cannot succeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prismtop.counters.sheet import Sheet

_T = TypeVar("_T")
RETRY_NS = 60 * 10**9
"""A call that is not supported or not allowed is tried again after this time."""
LOST = (15, 16)  # NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED
_WORDS = {
    1: "NVML is not initialised",
    3: "not supported by this device",
    4: "no permission: run prismtop as root, or ask the administrator of the driver",
    6: "the driver does not know it",
    9: "the driver is not loaded: load it with `nvidia-smi`, or reboot after an update",
    10: "the driver did not answer in time",
    12: "libnvidia-ml.so.1 was not found: install the driver's libraries, or start the container with GPUs",
    13: "this driver is too old for it",
    15: "the GPU is lost: it has fallen off the bus or needs a reboot",
    16: "the GPU needs a reset",
    17: "the operating system blocks it",
    18: "the driver and its library have different versions: reboot, or update the container",
    25: "this driver is too old for it",
}
FINAL = (3, 4, 13, 25)
"""What fails so need not be tried again soon."""


def explain(error: Any) -> str:
    """An `NVMLError` as a reason; codes without words of ours keep NVML's."""
    return _WORDS.get(int(error.value), f"NVML error {int(error.value)}: {error}")


class Calls:
    """Calls of one device that put a gap on the sheet when they fail.

    Args:
        nvml: the binding (`pynvml`).
        device: name of the device.
    """

    def __init__(self, nvml: Any, device: str) -> None:
        self._nvml = nvml
        self.device = device
        self.lost_until_ns = 0
        self.lost_reason = ""
        self._refused: dict[object, int] = {}

    def lost(self, now_ns: int) -> bool:
        """Whether the device was lost a short while ago; it is tried again from time to time."""
        return now_ns < self.lost_until_ns

    def __call__(
        self, sheet: Sheet, names: Sequence[str], function: Callable[..., _T], *args: object
    ) -> _T | None:
        """What `function(*args)` returns; None after a gap for each of `names`."""
        if self._refused:
            key = _key(function, args)
            refused = self._refused.get(key)
            if refused is not None:
                if sheet.now_ns < refused:
                    return None
                del self._refused[key]
        try:
            return function(*args)
        except self._nvml.NVMLError as error:
            self.failed(sheet, names, error, _key(function, args))
        return None

    def failed(self, sheet: Sheet, names: Sequence[str], error: Any, key: object = None) -> None:
        """Gaps for `names`; remembers what need not be tried again soon."""
        reason = explain(error)
        if error.value in LOST:
            self.lost_until_ns = sheet.now_ns + RETRY_NS
            self.lost_reason = reason
        if key is not None and error.value in FINAL:
            self._refused[key] = sheet.now_ns + RETRY_NS
        for name in names:
            sheet.gap(name, self.device, reason, source="nvml")


def _key(function: object, args: Sequence[object]) -> object:
    """Calls that differ in a number (which clock, which error counter) are refused one by one."""
    return function, args[1] if len(args) > 1 and isinstance(args[1], int) else None
