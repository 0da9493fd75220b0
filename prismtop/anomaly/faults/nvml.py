"""Clock locks and devices through NVML. A lock outlives the process that set it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def nvml() -> Iterator[Any]:
    """The binding, initialised.

    Raises:
        OSError: the binding or the driver is missing, or refuses.
    """
    try:
        import pynvml
    except ImportError:
        raise OSError("the Python package nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from None
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from None
    finally:
        pynvml.nvmlShutdown()


def devices() -> list[str]:
    """UUIDs of the GPUs, in NVML's order. Raises OSError."""
    with nvml() as binding:
        return [uuid_of(binding, n) for n in range(binding.nvmlDeviceGetCount())]


def uuid_of(binding: Any, number: int) -> str:
    """Of the GPU with that number."""
    said = binding.nvmlDeviceGetUUID(binding.nvmlDeviceGetHandleByIndex(number))
    return said.decode() if isinstance(said, bytes) else str(said)


def devices_of(pid: int) -> list[str]:
    """UUIDs of the GPUs on which a process computes. Raises OSError."""
    with nvml() as binding:
        found = []
        for number in range(binding.nvmlDeviceGetCount()):
            handle = binding.nvmlDeviceGetHandleByIndex(number)
            if any(one.pid == pid for one in binding.nvmlDeviceGetComputeRunningProcesses(handle)):
                found.append(uuid_of(binding, number))
        return found


def others_on(uuid: str, pid: int) -> list[int]:
    """Processes that compute on a GPU beside the target. Raises OSError."""
    with nvml() as binding:
        handle = binding.nvmlDeviceGetHandleByUUID(uuid)
        running = binding.nvmlDeviceGetComputeRunningProcesses(handle)
        return sorted({int(one.pid) for one in running} - {pid})


def clock_range(uuid: str) -> tuple[int, int]:
    """(lowest, highest) SM clock in MHz that may be locked. Raises OSError."""
    with nvml() as binding:
        handle = binding.nvmlDeviceGetHandleByUUID(uuid)
        memory = max(binding.nvmlDeviceGetSupportedMemoryClocks(handle))
        clocks = binding.nvmlDeviceGetSupportedGraphicsClocks(handle, memory)
        return int(min(clocks)), int(max(clocks))


def limited_by_others(uuid: str) -> bool:
    """Whether somebody has set application clocks or a lock already, as far as NVML tells. Raises OSError."""
    with nvml() as binding:
        handle = binding.nvmlDeviceGetHandleByUUID(uuid)
        reasons = binding.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return bool(reasons & binding.nvmlClocksThrottleReasonApplicationsClocksSetting)


def lock_clocks(uuid: str, mhz: int) -> None:
    """Lock the SM clock. Raises OSError."""
    with nvml() as binding:
        binding.nvmlDeviceSetGpuLockedClocks(binding.nvmlDeviceGetHandleByUUID(uuid), mhz, mhz)


def reset_clocks(uuid: str) -> None:
    """Unlock the SM clock. Raises OSError."""
    with nvml() as binding:
        binding.nvmlDeviceResetGpuLockedClocks(binding.nvmlDeviceGetHandleByUUID(uuid))
