"""The few calls of the CUDA driver API that the GPU faults need, through ctypes on libcuda.so.1.

Sources: the CUDA Driver API reference; the `_v2` names are those that cuda.h maps to since CUDA 4.
"""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libcuda.so.1"
_COMPUTE_UNITS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class CudaError(OSError):
    """A call of the driver failed."""


class Cuda:
    """A context on one device, with what was allocated in it. Ends with the process at the latest.

    Args:
        uuid: of the device as NVML writes it (`GPU-...`); empty takes the first.

    Raises:
        CudaError: the driver refused.
        OSError: there is no driver.
    """

    def __init__(self, uuid: str = "", library: Any = None) -> None:
        self._lib = ctypes.CDLL(LIBRARY) if library is None else library
        self._call("cuInit", 0)
        self.device = self._find(uuid)
        self._enter(self.device)

    def devices(self) -> int:
        """How many there are."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    def units(self) -> int:
        """Streaming multiprocessors of the device."""
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), _COMPUTE_UNITS, self.device)
        return value.value

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """Plain device memory; its address."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def pinned(self, size: int) -> int:
        """Page-locked host memory; its address."""
        pointer = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), _PORTABLE)
        return pointer.value or 0

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        made = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(made), _NON_BLOCKING)
        return made

    def to_device(self, pointer: int, host: int, size: int, stream: Any) -> None:
        """Copy host to device, asynchronously."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(pointer),
            ctypes.c_void_p(host),
            ctypes.c_size_t(size),
            stream,
        )

    def to_host(self, host: int, pointer: int, size: int, stream: Any) -> None:
        """Copy device to host, asynchronously."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host),
            ctypes.c_uint64(pointer),
            ctypes.c_size_t(size),
            stream,
        )

    def other_context(self, device: int) -> Any:
        """The primary context of another device, not made current."""
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._handle(device))
        return context

    def allocate_in(self, context: Any, size: int) -> int:
        """Device memory in another context."""
        self._call("cuCtxSetCurrent", context)
        try:
            return self.allocate(size)
        finally:
            self._call("cuCtxSetCurrent", self.context)

    def between(self, to: int, to_context: Any, pointer: int, size: int, stream: Any) -> None:
        """Copy from this device to another one, asynchronously."""
        self._call(
            "cuMemcpyPeerAsync",
            ctypes.c_uint64(to),
            to_context,
            ctypes.c_uint64(pointer),
            self.context,
            ctypes.c_size_t(size),
            stream,
        )

    def wait(self, stream: Any) -> None:
        """Until everything in the stream is done."""
        self._call("cuStreamSynchronize", stream)

    def kernel(self, ptx: bytes, name: bytes) -> Any:
        """Compile PTX and look a kernel up in it."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx.lstrip() + b"\0"))
        self._call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name))
        return function

    def launch(self, kernel: Any, blocks: int, threads: int, stream: Any, *numbers: int) -> None:
        """Launch with 64-bit arguments."""
        held = [ctypes.c_uint64(number) for number in numbers]
        arguments = (ctypes.c_void_p * len(held))(*(ctypes.addressof(number) for number in held))
        self._call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, stream, arguments, None)

    def _enter(self, device: int) -> None:
        self.context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self._call("cuCtxSetCurrent", self.context)

    def _handle(self, number: int) -> int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        return device.value

    def _find(self, uuid: str) -> int:
        if not uuid:
            return self._handle(0)
        for number in range(self.devices()):
            device = self._handle(number)
            made = (ctypes.c_ubyte * 16)()
            self._call("cuDeviceGetUuid", made, device)
            if bytes(made).hex() == uuid.removeprefix("GPU-").replace("-", ""):
                return device
        raise CudaError(f"the CUDA driver does not show the device {uuid}")

    def _call(self, name: str, *arguments: Any) -> None:
        result = int(getattr(self._lib, name)(*arguments))
        if result:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorName(result, ctypes.byref(text))
            said = text.value.decode("ascii", "replace") if text.value else str(result)
            raise CudaError(result, f"{name}: {said}")
