"""Network interfaces, and TCP retransmissions."""

from __future__ import annotations

from prismtop.counters.files import KeptFile
from prismtop.counters.sheet import Sheet
from prismtop.safe_text import safe_text

MAX_INTERFACES = 32


class NetworkReader:
    """Counters of `host.network`. Interfaces that never carried a byte are left out."""

    name = "network"

    def __init__(self, proc: str = "/proc") -> None:
        self._dev = KeptFile(f"{proc}/net/dev", single=False)
        self._snmp = KeptFile(f"{proc}/net/snmp", single=False)

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        try:
            lines = self._dev.read().splitlines()[2:]
        except OSError as error:
            sheet.gap("net_receive_bytes_per_s", "host", f"/proc/net/dev: {error.strerror}")
            lines = []
        shown = 0
        for line in lines:
            name, _, rest = line.partition(b":")
            fields = rest.split()
            if len(fields) < 16 or (fields[0] == b"0" and fields[8] == b"0") or shown >= MAX_INTERFACES:
                continue
            shown += 1
            device = safe_text(name.strip().decode("utf-8", "replace"), 32)
            sheet.rate("net_receive_bytes_per_s", device, int(fields[0]))
            sheet.rate("net_transmit_bytes_per_s", device, int(fields[8]))
            sheet.rate("net_errors_per_s", device, int(fields[2]) + int(fields[10]))
            sheet.rate("net_drops_per_s", device, int(fields[3]) + int(fields[11]))
        self._retransmits(sheet)

    def _retransmits(self, sheet: Sheet) -> None:
        try:
            rows = [line.split() for line in self._snmp.read().splitlines() if line.startswith(b"Tcp:")]
            fields = dict(zip(rows[0], rows[1], strict=True))
            sheet.rate("tcp_retransmits_per_s", "host", int(fields[b"RetransSegs"]))
        except (OSError, IndexError, KeyError, ValueError):
            sheet.gap("tcp_retransmits_per_s", "host", "/proc/net/snmp has no RetransSegs")

    def close(self) -> None:
        """Close the files."""
        self._dev.close()
        self._snmp.close()
