"""RDMA ports (InfiniBand and RoCE): /sys/class/infiniband/DEVICE/ports/PORT."""

from __future__ import annotations

from prismtop.counters.files import entries, read_int, read_text
from prismtop.counters.sheet import Sheet
from prismtop.safe_text import safe_text

MAX_PORTS = 32
_WORD = 4  # port_*_data count words of four bytes (InfiniBand specification, PortCounters)
_TRAFFIC = {
    "rdma_receive_bytes_per_s": (("counters/port_rcv_data", _WORD), ("hw_counters/rx_bytes", 1)),
    "rdma_transmit_bytes_per_s": (("counters/port_xmit_data", _WORD), ("hw_counters/tx_bytes", 1)),
    "rdma_transmit_wait_per_s": (("counters/port_xmit_wait", 1),),
}
"""Files of a port, best first: EFA has none of the InfiniBand specification's, but bytes (efa_verbs.c)."""
_ERRORS = (
    "symbol_error",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "port_xmit_discards",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
)
_RETRANSMITS = (
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "rnr_nak_retry_err",
    "roce_adp_retrans",
    "retrans_pkts",
)
_CONGESTION = ("np_cnp_sent", "rp_cnp_handled")


class RdmaReader:
    """Counters of `rdma`, one series a port."""

    name = "rdma"

    def __init__(self, sys: str = "/sys") -> None:
        self._where = f"{sys}/class/infiniband"
        self._ports: list[tuple[str, str]] | None = None

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        if slow or self._ports is None:
            self._ports = self._found()
        if not self._ports:
            sheet.gap("rdma_receive_bytes_per_s", "host", "no RDMA device in /sys/class/infiniband")
        for device, path in self._ports:
            self._traffic(sheet, device, path)
            if slow:
                self._health(sheet, device, path)

    def _found(self) -> list[tuple[str, str]]:
        made = [
            (f"{safe_text(name, 32)} port {safe_text(port, 8)}", f"{self._where}/{name}/ports/{port}")
            for name in entries(self._where)
            for port in entries(f"{self._where}/{name}/ports")
        ]
        return made[:MAX_PORTS]

    def _traffic(self, sheet: Sheet, device: str, path: str) -> None:
        for name, sources in _TRAFFIC.items():
            for file, scale in sources:
                total = read_int(f"{path}/{file}")
                if total is not None:
                    sheet.rate(name, device, total, scale)
                    break
            else:
                sheet.gap(name, device, f"this port has no counter {sources[0][0].rpartition('/')[2]}")
        for name, files in (
            ("rdma_congestion_per_s", _CONGESTION),
            ("rdma_retransmits_per_s", _RETRANSMITS),
        ):
            sum_ = _sum(f"{path}/hw_counters", files)
            if sum_ is None:
                sheet.gap(name, device, f"the driver has none of {', '.join(files)}")
            else:
                sheet.rate(name, device, sum_)

    def _health(self, sheet: Sheet, device: str, path: str) -> None:
        errors = _sum(f"{path}/counters", _ERRORS)
        if errors is None:
            sheet.gap("rdma_errors_total", device, "this port has no error counters")
        else:
            sheet.value("rdma_errors_total", device, errors)
        downs = read_int(f"{path}/counters/link_downed")
        if downs is None:
            sheet.gap("rdma_link_downs_total", device, "this port has no counter link_downed")
        else:
            sheet.value("rdma_link_downs_total", device, downs)
        state = read_text(f"{path}/state") or ""  # `4: ACTIVE`
        rate = (read_text(f"{path}/rate") or "").split()  # `400 Gb/sec (4X NDR)`
        if not state or len(rate) < 2:
            sheet.gap("rdma_link_bytes_per_s", device, "this port shows neither state nor rate")
            return
        speed = float(rate[0]) * 1e9 / 8 if state.startswith("4") else 0.0
        words = safe_text(f"{state.partition(':')[2].strip()} {' '.join(rate)}", 80)
        sheet.value("rdma_link_bytes_per_s", device, speed, text=words)

    def close(self) -> None:
        """Nothing is kept open."""


def _sum(path: str, files: tuple[str, ...]) -> int | None:
    """Of those counters that exist; None when none does."""
    values = [value for file in files if (value := read_int(f"{path}/{file}")) is not None]
    return sum(values) if values else None
