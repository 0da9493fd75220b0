"""A scene with Intel GPUs that are not there: Level Zero's loader is the stub of `zes_stub.c`.

Runs in a process of its own, started by `test_counters_sysman`: a library is loaded once a process.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os

from prismtop.counters import intel
from prismtop.counters.device import Absent, Where
from prismtop.counters.sheet import Sheet
from prismtop.model import Counter, ProcessId, Target

_INTS = [
    "ndev",
    "tiles",
    "misuse",
    "inits",
    "sysman_env",
    "reasons",
    "temp",
    "mem_temp",
    "fan",
    "has_replays",
    "npids",
]
_TOTALS = [
    "now_us", "active_us", "energy_uj", "free_", "size", "read_", "written", "max_bw", "rx", "tx", "replays",
]  # fmt: skip


class Control(ctypes.Structure):
    """`struct ctl` of the stub."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in _INTS),
        ("pids", ctypes.c_uint32 * 8),
        ("gen", ctypes.c_int32),
        ("width", ctypes.c_int32),
        *((name, ctypes.c_uint64) for name in _TOTALS),
        ("mem", ctypes.c_uint64 * 8),
        *((name, ctypes.c_double) for name in ("mhz", "mem_mhz", "max_mhz")),
        ("limit_mw", ctypes.c_int32),
        ("sustained_mw", ctypes.c_int32),
        ("errors", ctypes.c_char * 1024),
    ]


class Scene:
    """One GPU with one tile, at work."""

    def __init__(self, library: str, control: str, root: str) -> None:
        with open(control, "r+b") as file:
            file.truncate(ctypes.sizeof(Control))
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(Control))
        self.c = c = Control.from_buffer(self._map)
        os.environ["ZES_STUB"] = control
        if library:
            # Loaded under its SONAME first, so that CDLL("libze_loader.so.1") finds it.
            ctypes.CDLL(library)
        self.root = root
        c.ndev, c.tiles, c.temp, c.mem_temp, c.fan, c.gen, c.width = 1, 1, 71, 66, 40, 5, 16
        c.mhz, c.mem_mhz, c.max_mhz, c.limit_mw, c.reasons = 1550, 3200, 2050, 300_000, 0x1
        c.size, c.free_, c.max_bw, c.has_replays, c.replays = 48 << 30, 12 << 30, 10**12, 1, 7
        c.rx = c.tx = c.active_us = c.energy_uj = c.now_us = 10**9
        self.sheet = Sheet()
        self.now = 10**12

    def errors(self, **codes: int) -> None:
        """Calls that fail from now on, by name, with their ze_result_t."""
        self.c.errors = "".join(f";{name}={code}" for name, code in codes.items()).encode()

    def open(self, *pids: int) -> None:
        """The reader of the card at 0000:c1:00.0."""
        targets = [Target(ProcessId(pid, 1), "vllm", "worker", True, "worker") for pid in pids]
        found = intel.open_reader(
            Where(tuple(targets), f"{self.root}/proc", f"{self.root}/sys", f"{self.root}/dev")
        )
        assert not isinstance(found, Absent), found
        self.reader = found

    def round(self, *, slow: bool = True, seconds: float = 1.0) -> dict[str, Counter]:
        """One round, seconds after the one before; its readings by `name device`."""
        self.now += int(seconds * 1e9)
        self.sheet.now_ns = self.now
        self.c.now_us += int(seconds * 1e6)
        self.reader.read(self.sheet, slow=slow)
        return {f"{c.name} {c.device}": c for c in self.sheet.take()}


def tell(*rounds: dict[str, Counter], **more: object) -> None:
    """Print what the test will look at."""
    made = [{key: [c.value, c.reason, c.text, c.source] for key, c in one.items()} for one in rounds]
    print(json.dumps({"rounds": made, **more}))
