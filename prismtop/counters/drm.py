"""DRM devices: the cards, and each process's share by fdinfo (drm-usage-stats.rst), as nvtop does.

This is how GPUs are read whose driver has nothing else; `amd` and `intel` use its parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prismtop.counters.device import Absent, Where, missing
from prismtop.counters.files import entries, read_bytes, read_text
from prismtop.counters.sheet import Reader, Sheet
from prismtop.safe_text import safe_text

MAX_FILES = 64
_CARD = re.compile(r"card\d+$")
_OTHERS = ("amdgpu", "i915", "xe", "nvidia", "nvidia-drm")
_SCREENS = (
    "ast",
    "mgag200",
    "bochs-drm",
    "bochs",
    "virtio_gpu",
    "vkms",
    "simpledrm",
    "hibmc-drm",
    "cirrus",
    "udl",
)
"""Drivers that only draw."""
_MISSING = missing(())
_KIB = {b"": 1, b"KiB": 1 << 10, b"MiB": 1 << 20, b"GiB": 1 << 30}


@dataclass(frozen=True)
class Card:
    """One card: its name (`card0`), its device directory in sysfs, its driver and its PCI address."""

    name: str
    path: str
    driver: str
    address: str

    @property
    def device(self) -> str:
        """The name of its readings."""
        return f"gpu {self.name}"


def cards(sys: str, drivers: Sequence[str] | None = None) -> list[Card]:
    """Cards with one of these drivers; all cards without a list."""
    made = []
    for name in entries(f"{sys}/class/drm"):
        if not _CARD.match(name):
            continue
        path = f"{sys}/class/drm/{name}/device"
        try:
            driver = os.path.basename(os.readlink(f"{path}/driver"))
        except OSError:
            continue
        if drivers is None or driver in drivers:
            found = re.search(r"PCI_SLOT_NAME=(\S+)", read_text(f"{path}/uevent") or "")
            made.append(Card(name, path, driver, found[1] if found else ""))
    return made


def open_reader(where: Where) -> Reader | Absent:
    """A reader of all cards whose driver no other module reads."""
    found = [card for card in cards(where.sys) if card.driver not in (*_OTHERS, *_SCREENS)]
    if not found:
        return Absent("drm", "no other DRM device that computes")
    return DrmReader(where, found)


class DrmReader:
    """Shares of processes; such a driver tells nothing about the device as a whole."""

    name = "drm"

    def __init__(self, where: Where, found: Sequence[Card]) -> None:
        self._cards = found
        self._shares = ProcessShares(where, {card.address: card.device for card in found})

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        for card in self._cards:
            reason = f"the driver {safe_text(card.driver, 24)} tells the use by process only"
            for name in _MISSING:
                sheet.gap(name, card.device, reason, source="fdinfo")
        self._shares.read(sheet, slow=slow)

    def close(self) -> None:
        """Nothing is kept open."""


@dataclass
class Usage:
    """One client of a card, from one fdinfo file.

    Attributes:
        address: PCI address of its card; empty when the driver does not say.
        client: number of the client: several files may belong to one.
        engines_ns: time that each engine worked for it, divided by the number of such engines.
        cycles: (cycles worked, cycles passed) by engine, where the driver counts those (xe).
        memory_bytes: device memory; on a card without any, the system memory it uses.
    """

    address: str = ""
    client: str = ""
    engines_ns: dict[str, float] = field(default_factory=dict)
    cycles: dict[str, tuple[int, int]] = field(default_factory=dict)
    memory_bytes: int | None = None


def parse_fdinfo(data: bytes) -> Usage | None:
    """The drm-* lines of an fdinfo file; None when it has none."""
    lines: dict[str, list[bytes]] = {}
    for line in data.splitlines():
        name, _, rest = line.partition(b":")
        if name.startswith(b"drm-") and rest.strip():
            lines[name.decode("ascii", "replace")[4:]] = rest.split()
    if not lines:
        return None
    made = Usage(
        _word(lines, "pdev"),
        _word(lines, "client-id"),
    )
    for key, words in lines.items():
        if not words[0].isdigit():
            continue
        number = int(words[0])
        if key.startswith("engine-") and not key.startswith("engine-capacity-"):
            capacity = int(_word(lines, f"engine-capacity-{key[7:]}") or 1)
            made.engines_ns[key[7:]] = number / max(1, capacity)
        elif key.startswith("cycles-"):
            passed = _word(lines, f"total-cycles-{key[7:]}")
            if passed.isdigit():
                capacity = int(_word(lines, f"engine-capacity-{key[7:]}") or 1)
                made.cycles[key[7:]] = (number // max(1, capacity), int(passed))
    made.memory_bytes = _memory(lines)
    return made


def _memory(lines: Mapping[str, list[bytes]]) -> int | None:
    """Resident memory of the device's own regions; `drm-memory-` is the older name of `drm-resident-`."""
    regions: dict[str, int] = {}
    for prefix in ("memory-", "resident-"):
        for key, words in lines.items():
            if key.startswith(prefix) and words[0].isdigit():
                unit = _KIB.get(words[1] if len(words) > 1 else b"", 1)
                regions[key[len(prefix) :]] = int(words[0]) * unit
    own = [size for name, size in regions.items() if name.startswith(("vram", "local"))]
    return sum(own or regions.values()) if regions else None


def _word(lines: Mapping[str, list[bytes]], key: str) -> str:
    return lines[key][0].decode("ascii", "replace") if key in lines else ""


class ProcessShares:
    """`gpu_process_*` of the targets, by fdinfo. Files are looked for in slow rounds and read in every one.

    Args:
        where: the targets.
        devices: name of the device by PCI address.
    """

    def __init__(self, where: Where, devices: Mapping[str, str]) -> None:
        self._proc = where.proc
        self._dri = f"{where.dev}/dri/"
        self._pids = [target.id.pid for target in where.targets]
        self._devices = devices
        self._files: dict[int, list[str]] = {}
        self._before: dict[tuple[int, str, str], tuple[float, int]] = {}

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        met: set[tuple[int, str]] = set()
        for pid in self._pids:
            if slow or pid not in self._files:
                self._files[pid] = self._find(sheet, pid)
            clients: dict[tuple[str, str], Usage] = {}
            for path in self._files[pid]:
                usage = parse_fdinfo(read_bytes(path) or b"")
                if usage is not None:
                    clients[usage.address, usage.client] = usage
                    met.add((pid, usage.address + usage.client))
            by_device: dict[str, list[Usage]] = {}
            for usage in clients.values():
                device = self._devices.get(usage.address)
                if device is not None:
                    by_device.setdefault(device, []).append(usage)
            for device, usages in by_device.items():
                self._put(sheet, device, pid, usages, slow)
        if slow:
            self._before = {key: worked for key, worked in self._before.items() if key[:2] in met}

    def _find(self, sheet: Sheet, pid: int) -> list[str]:
        where = f"{self._proc}/{pid}"
        try:
            names = os.listdir(f"{where}/fd")
        except PermissionError:
            for device in self._devices.values():
                reason = "its fdinfo may not be read: run prismtop as root, or as the engine's user"
                sheet.gap("gpu_process_busy_ratio", f"{device} pid {pid}", reason, source="fdinfo")
            return []
        except OSError:
            return []
        made = []
        for name in names:
            try:
                target = os.readlink(f"{where}/fd/{name}")
            except OSError:
                continue
            if target.startswith(self._dri):
                made.append(f"{where}/fdinfo/{name}")
        return made[:MAX_FILES]

    def _put(self, sheet: Sheet, device: str, pid: int, usages: Sequence[Usage], slow: bool) -> None:
        name, series = "gpu_process_busy_ratio", f"{device} pid {pid}"
        shares = self._grown(pid, usages, sheet.now_ns)
        if shares:
            # Engines work side by side: the busiest one is what the process waits for.
            sheet.value(name, series, min(1.0, max(shares)), source="fdinfo")
        memory = [usage.memory_bytes for usage in usages if usage.memory_bytes is not None]
        if memory and slow:
            sheet.value("gpu_process_memory_bytes", series, sum(memory), source="fdinfo")

    def _grown(self, pid: int, usages: Sequence[Usage], now_ns: int) -> list[float]:
        """Shares of the engines. Client by client: one that is new here has worked before it was found."""
        shares: dict[str, float] = {}
        for usage in usages:
            worked = {engine: (ns, now_ns) for engine, ns in usage.engines_ns.items()}
            for engine, (done, passed) in {**usage.cycles, **worked}.items():
                key = (pid, usage.address + usage.client, engine)
                before = self._before.get(key)
                self._before[key] = (done, passed)
                if before is not None and passed > before[1] and done >= before[0]:
                    share = (done - before[0]) / (passed - before[1])
                    shares[engine] = shares.get(engine, 0.0) + share
        return list(shares.values())
