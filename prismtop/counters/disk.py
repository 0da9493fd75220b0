"""Whole disks (Documentation/admin-guide/iostats.rst)."""

from __future__ import annotations

from prismtop.counters.files import KeptFile, entries
from prismtop.counters.sheet import Sheet
from prismtop.safe_text import safe_text

MAX_DISKS = 32
_SECTOR = 512  # of /proc/diskstats, whatever the disk's own is
_MADE_UP = ("loop", "ram", "zram", "dm-", "md")  # what lies on other disks, or on none


class DiskReader:
    """Counters of `host.disk`, without partitions and disks that were never used."""

    name = "disk"

    def __init__(self, proc: str = "/proc", sys: str = "/sys") -> None:
        self._file = KeptFile(f"{proc}/diskstats", single=False)
        self._sys = sys
        self._disks: frozenset[str] = frozenset()

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        if slow or not self._disks:
            names = [name for name in entries(f"{self._sys}/block") if not name.startswith(_MADE_UP)]
            self._disks = frozenset(names[:MAX_DISKS])
        try:
            lines = self._file.read().splitlines()
        except OSError as error:
            sheet.gap("disk_busy_ratio", "host", f"/proc/diskstats: {error.strerror}")
            return
        for line in lines:
            fields = line.split()
            if len(fields) < 14:
                continue
            name = fields[2].decode("utf-8", "replace")
            if name in self._disks and (fields[3] != b"0" or fields[7] != b"0"):
                self._one(sheet, safe_text(name, 32), [int(field) for field in fields[3:14]])

    def _one(self, sheet: Sheet, device: str, fields: list[int]) -> None:
        reads, _, read_sectors, read_ms, writes, _, written, write_ms, _, busy_ms, _ = fields
        sheet.rate("disk_read_bytes_per_s", device, read_sectors, _SECTOR)
        sheet.rate("disk_write_bytes_per_s", device, written, _SECTOR)
        sheet.rate("disk_busy_ratio", device, busy_ms, 1e-3)
        # Two totals under one name: requests are remembered under a device name that no disk has.
        waited = sheet.delta("disk_wait_seconds", device, read_ms + write_ms)
        done = sheet.delta("disk_wait_seconds", f"{device}/requests", reads + writes)
        if waited is not None and done is not None and done[0]:
            sheet.value("disk_wait_seconds", device, waited[0] / 1e3 / done[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
