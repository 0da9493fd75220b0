"""Made-up /proc and /sys for readers of counters, and rounds of reading without waiting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prismtop.counters.sheet import Reader, Sheet
from prismtop.model import Counter

Readings = dict[tuple[str, str], Counter]


def plant(root: Path, files: Mapping[str, str | int]) -> str:
    """Write files below `root`, parents included; returns `root` as text."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n" if isinstance(content, int) else content)
    return str(root)


class Rounds:
    """Reads a reader once a second of a clock of its own."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.sheet = Sheet()
        self.sheet.now_ns = 10**12

    def round(self, *, slow: bool = True, seconds: float = 1.0) -> Readings:
        """One round; its readings by (name, device)."""
        self.sheet.now_ns += int(seconds * 1e9)
        self.reader.read(self.sheet, slow=slow)
        return {counter.key: counter for counter in self.sheet.take()}


def value(readings: Readings, name: str, device: str = "host") -> float:
    """The value of a reading; fails with its reason when it has none."""
    counter = readings[name, device]
    assert counter.value is not None, counter.reason
    return counter.value


def reason(readings: Readings, name: str, device: str = "host") -> str:
    """Why a reading has no value; fails when it has one."""
    counter = readings[name, device]
    assert counter.value is None
    return counter.reason
