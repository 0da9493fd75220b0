"""A scene with NVIDIA GPUs that are not there: the real binding over the stub of `nvml_stub.c`.

Runs in a process of its own, started by `nvml_play`: the binding loads its library once a process.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from typing import Any

from prismtop.counters import nvidia_events
from prismtop.counters.device import Absent, Where
from prismtop.counters.nvidia import open_reader
from prismtop.counters.sheet import Sheet
from prismtop.model import Counter, ProcessId, Target

N = 16


class Control(ctypes.Structure):
    """`struct ctl` of the stub."""

    _fields_ = [
        *(
            (name, ctypes.c_uint32)
            for name in [
                "ngpu",
                "lost_mask",
                "gpm",
                "xid",
                "xid_gpu",
                "live_sets",
                "live_samples",
                "misuse",
                "inits",
                "shutdowns",
                "gpm_bad",
                "nfd_calls",
                "rubbish",
                "spare",
            ]
        ),
        *(
            (name, ctypes.c_uint32 * N)
            for name in ["util", "memutil", "sm_mhz", "power_mw", "temp", "fan", "migs", "pid", "other_pid"]
        ),
        *((name, ctypes.c_uint64 * N) for name in ["reasons", "used", "total", "ecc", "nv_kib", "pcie"]),
        *((name, ctypes.c_double * N) for name in ("sm_util", "dram_util")),
        ("now_us", ctypes.c_uint64),
        ("errors", ctypes.c_char * 1024),
    ]


class Scene:
    """Two GPUs at work, to begin with."""

    def __init__(self, library: str, control: str) -> None:
        with open(control, "r+b") as file:
            file.truncate(ctypes.sizeof(Control))
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(Control))
        self.c = Control.from_buffer(self._map)
        os.environ["NVML_STUB"] = control
        nvidia_events._WAIT_MS = 40  # how long `close` waits for the thread at most
        # Loaded under its SONAME first, so the binding's CDLL("libnvidia-ml.so.1") finds it.
        ctypes.CDLL(library)
        self.c.ngpu, self.c.gpm = 2, 1
        for gpu in range(N):
            self.c.util[gpu], self.c.memutil[gpu] = 80 + gpu, 40
            self.c.sm_mhz[gpu], self.c.power_mw[gpu], self.c.temp[gpu] = 1980 - gpu, 650_000, 60
            self.c.total[gpu], self.c.used[gpu] = 141 << 30, 120 << 30
            self.c.sm_util[gpu], self.c.dram_util[gpu] = 71.5, 44.0
            self.c.ecc[gpu] = 2
        self.sheet = Sheet()
        self.now = 10**12
        self.made: dict[str, Counter] = {}

    def errors(self, **codes: int) -> None:
        """Calls that fail from now on, by name, with their NVML error code; `@1` for GPU 1 only."""
        self.c.errors = (
            "".join(f";{name.replace('_at_', '@')}={code}" for name, code in codes.items())
        ).encode()

    def open(self, *targets: Target) -> Any:
        """The reader, or `Absent`."""
        self.reader = open_reader(Where(targets=targets, dev=os.environ.get("FAKE_DEV", "/nowhere")))
        if not isinstance(self.reader, Absent):
            # The scene's clock: rates and GPM's distance between samples then need no waiting.
            import prismtop.counters.nvidia as nvidia

            nvidia._now = lambda: self.now
        return self.reader

    def round(self, *, slow: bool = True, seconds: float = 1.0) -> dict[str, Counter]:
        """One round; the latest readings by `name device`."""
        self.now += int(seconds * 1e9)
        self.sheet.now_ns = self.now
        self.c.now_us = self.now // 1000
        self.reader.read(self.sheet, slow=slow)
        self.made = {f"{c.name} {c.device}": c for c in self.sheet.take()}
        return self.made


def target(pid: int, ns_pid: int | None = None) -> Target:
    """A process of the engine."""
    return Target(ProcessId(pid, 1), "vllm", "worker", True, "worker", ns_pid=ns_pid)


def tell(*rounds: dict[str, Counter], **more: object) -> None:
    """Print what the test will look at."""
    made = [
        {key: [c.value, c.reason, c.text, c.source] for key, c in readings.items()} for readings in rounds
    ]
    print(json.dumps({"rounds": made, **more}))
