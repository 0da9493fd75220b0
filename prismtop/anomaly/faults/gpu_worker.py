"""A GPU load, as a program: KIND UUID SECONDS INTENSITY RAMP SEED [READY]; READY is a file to make."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prismtop.anomaly.faults.cuda import Cuda, CudaError
from prismtop.anomaly.faults.gpu_kernel import PTX

_PERIOD_S = 0.02
_THREADS = 256
_BLOCKS_PER_UNIT = 8
_COPY_BYTES = 256 << 20
_SPARE_BYTES = 256 << 20
"""Device memory that is left free: the target must slow down, not die."""
_LARGEST = 256 << 20

Turn = Callable[[float], None]
"""Work for about that many seconds."""


def preempt(cuda: Cuda, rng: random.Random) -> Turn:
    """Every SM busy with multiply-adds."""
    kernel, stream = cuda.kernel(PTX, b"burn"), cuda.stream()
    out, blocks = cuda.allocate(4), _BLOCKS_PER_UNIT * cuda.units()

    def turn(seconds: float) -> None:
        cuda.launch(kernel, blocks, _THREADS, stream, out, int(seconds * 1e9))
        cuda.wait(stream)

    return turn


def pcie(cuda: Cuda, rng: random.Random) -> Turn:
    """Pinned host memory to the device and back."""
    there, back = cuda.stream(), cuda.stream()
    host, device = cuda.pinned(2 * _COPY_BYTES), cuda.allocate(2 * _COPY_BYTES)

    def turn(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            cuda.to_device(device, host, _COPY_BYTES, there)
            cuda.to_host(host + _COPY_BYTES, device + _COPY_BYTES, _COPY_BYTES, back)
            cuda.wait(there)
            cuda.wait(back)

    return turn


def nvlink(cuda: Cuda, rng: random.Random) -> Turn:
    """Device memory to another GPU."""
    if cuda.devices() < 2:
        raise CudaError("there is one GPU only")
    stream, here = cuda.stream(), cuda.allocate(_COPY_BYTES)
    other = cuda.other_context(0 if cuda.device != 0 else 1)
    there = cuda.allocate_in(other, _COPY_BYTES)

    def turn(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            cuda.between(there, other, here, _COPY_BYTES, stream)
            cuda.wait(stream)

    return turn


def swap(cuda: Cuda, rng: random.Random) -> Turn:
    """Blocks allocated and freed at random, some memory always left free."""
    held: list[int] = []

    def turn(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            size = rng.randrange(1 << 20, _LARGEST)
            free, _ = cuda.memory()
            if held and (rng.random() < 0.5 or free - size < _SPARE_BYTES):
                cuda.free(held.pop(rng.randrange(len(held))))
            elif free - size >= _SPARE_BYTES:
                held.append(cuda.allocate(size))

    return turn


KINDS: dict[str, Callable[[Cuda, random.Random], Turn]] = {
    "preempt": preempt,
    "pcie": pcie,
    "nvlink": nvlink,
    "swap": swap,
}


def main(argv: Sequence[str], library: object = None) -> int:
    """Work until the time is over; 3 when the driver refuses. Makes the file READY when it begins."""
    kind, uuid = argv[0], argv[1]
    seconds, intensity, ramp, seed = map(float, argv[2:6])
    try:
        turn = KINDS[kind](Cuda(uuid, library), random.Random(int(seed)))
        if len(argv) > 6:
            Path(argv[6]).touch()
        start = time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            level = intensity * min(1.0, (now - start) / ramp) if ramp > 0 else intensity
            busy = _PERIOD_S * min(1.0, level)
            if busy > 0:
                turn(busy)
            time.sleep(max(0.0, now + _PERIOD_S - time.monotonic()))
    except OSError as error:
        print(f"gpu_worker: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
