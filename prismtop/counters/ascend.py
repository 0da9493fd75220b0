"""Huawei Ascend NPUs: the table of `npu-smi info`. It takes about a second, so it is read in slow rounds."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field

from prismtop.counters.device import Absent, Where, missing
from prismtop.counters.files import entries
from prismtop.counters.sheet import Reader, Sheet

_PROGRAM = "npu-smi"
_TIMEOUT_S = 10.0
_MB = 1 << 20
_NONE = "npu-smi info does not show it"
_MISSING = missing(
    (
        "gpu_busy_ratio",
        "gpu_memory_used_bytes",
        "gpu_memory_total_bytes",
        "gpu_power_watts",
        "gpu_temperature_celsius",
        "gpu_others_count",
        "gpu_others_memory_bytes",
    )
)
_FIRST = re.compile(r"\|\s*(\d+)\s+\S+\s*\|\s*(\S+)\s*\|\s*([\d.]+|-|NA)\s+([\d.]+|-|NA)\s")
_SECOND = re.compile(
    r"\|\s*(\d+)\s[^|]*\|\s*[0-9A-Fa-f:.]+\s*\|\s*(\d+)\s+(\d+)\s*/\s*(\d+)(?:\s+(\d+)\s*/\s*(\d+))?"
)
_PROCESS = re.compile(r"\|\s*(\d+)\s+(\d+)\s*\|\s*(\d+)\s*\|[^|]*\|\s*(\d+)\s*\|")


@dataclass
class Npu:
    """One chip of the table; numbers it does not show are None. Memory in bytes."""

    npu: int
    chip: int
    health: str
    power_watts: float | None
    celsius: float | None
    busy: float
    used: int
    total: int
    processes: dict[int, int] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """`npu 0`; a card with several chips has `npu 0 chip 1` too."""
        return f"npu {self.npu}" + (f" chip {self.chip}" if self.chip else "")


def open_reader(where: Where) -> Reader | Absent:
    """A reader over npu-smi."""
    nodes = [name for name in entries(where.dev) if re.fullmatch(r"davinci\d+", name)]
    program = shutil.which(_PROGRAM)
    if program is None:
        if nodes:
            fix = "Install the Ascend driver's tools, or mount npu-smi into the container."
            return Absent("ascend", "there is an NPU, and no npu-smi", fix, hardware=True)
        return Absent("ascend", "no npu-smi and no /dev/davinci*")
    return AscendReader(where, program)


class AscendReader:
    """Counters of all NPUs, under the names of GPUs."""

    name = "ascend"

    def __init__(self, where: Where, program: str) -> None:
        self._program = program
        self._pids = {target.id.pid for target in where.targets}

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        if not slow:
            return
        try:
            done = subprocess.run(
                [self._program, "info"],
                capture_output=True,
                timeout=_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            sheet.gap("gpu_busy_ratio", "npu", f"npu-smi fails: {type(error).__name__}", source=_PROGRAM)
            return
        found = parse_table(done.stdout.decode("utf-8", "replace"))
        if not found:
            reason = "npu-smi info printed no table that prismtop knows"
            sheet.gap("gpu_busy_ratio", "npu", reason, source=_PROGRAM)
        for npu in found:
            self._put(sheet, npu)

    def close(self) -> None:
        """Nothing is kept open."""

    def _put(self, sheet: Sheet, npu: Npu) -> None:
        device = npu.device
        values = (
            ("gpu_busy_ratio", npu.busy),
            ("gpu_memory_used_bytes", npu.used),
            ("gpu_memory_total_bytes", npu.total),
            ("gpu_power_watts", npu.power_watts),
            ("gpu_temperature_celsius", npu.celsius),
        )
        for name, value in values:
            if value is None:
                sheet.gap(name, device, _NONE, source=_PROGRAM)
            else:
                sheet.value(name, device, value, source=_PROGRAM, seldom=True)
        others = {pid: size for pid, size in npu.processes.items() if pid not in self._pids}
        for pid in npu.processes.keys() & self._pids:
            size = npu.processes[pid]
            sheet.value("gpu_process_memory_bytes", f"{device} pid {pid}", size, source=_PROGRAM)
        sheet.value("gpu_others_count", device, len(others), source=_PROGRAM)
        sheet.value("gpu_others_memory_bytes", device, sum(others.values()), source=_PROGRAM)
        for name in _MISSING:
            sheet.gap(name, device, _NONE, source=_PROGRAM)


def parse_table(text: str) -> list[Npu]:
    """The chips of `npu-smi info` (23.0 to 25.0): two lines each, then a table of processes."""
    made: list[Npu] = []
    first: re.Match[str] | None = None
    for line in text.splitlines():
        process = _PROCESS.match(line)
        if process is not None:
            npu, chip, pid, size = (int(word) for word in process.groups())
            for one in made:
                if (one.npu, one.chip) == (npu, chip):
                    one.processes[pid] = size * _MB
            continue
        second = _SECOND.match(line)
        if second is not None and first is not None:
            # Chips with memory of their own (HBM) show it last; the others share the card's.
            used, total = (second[5], second[6]) if second[6] and int(second[6]) else (second[3], second[4])
            busy = int(second[2]) / 100
            chip_number = sum(one.npu == int(first[1]) for one in made)
            made.append(
                Npu(
                    int(first[1]),
                    chip_number,
                    first[2],
                    _number(first[3]),
                    _number(first[4]),
                    busy,
                    int(used) * _MB,
                    int(total) * _MB,
                )
            )
            first = None
            continue
        first = _FIRST.match(line) or first
    return made


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
