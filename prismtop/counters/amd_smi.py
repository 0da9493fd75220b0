"""What only AMD's own library has: XGMI traffic and the reasons that limit clocks.

`amdsmi` must come from the same ROCm as the driver's library, so it is used when it can be imported and
started, and prismtop does without when it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prismtop.counters.clock_limits import clock_limit_words
from prismtop.counters.sheet import Sheet
from prismtop.safe_text import safe_text

_KIB = 1024.0
_BITS = (
    (range(8), 0x4),
    (range(16, 24), 0x200),
    (range(32, 46), 0x40),
    (range(46, 48), 0x8),
    (range(56, 58), 0x400),
)
"""SMU_THROTTLER_*_BIT (amdgpu_smu.h) as bits of `gpu_clock_limits_bitmask`: power, current, heat, PROCHOT."""
_PCIE = ("gpu_pcie_receive_bytes_per_s", "gpu_pcie_transmit_bytes_per_s")
_XGMI = (
    ("gpu_nvlink_receive_bytes_per_s", "xgmi_read_data_acc"),
    ("gpu_nvlink_transmit_bytes_per_s", "xgmi_write_data_acc"),
)


def open_smi(addresses: Sequence[str]) -> tuple[Smi | None, str]:
    """The library with the handles of these PCI addresses, or why there is none."""
    try:
        import amdsmi
    except Exception as error:  # it loads the driver's library when it is imported, and raises what it likes
        return None, f"amdsmi cannot be imported ({type(error).__name__})"
    try:
        amdsmi.amdsmi_init()
        handles = {
            str(amdsmi.amdsmi_get_gpu_device_bdf(handle)).lower(): handle
            for handle in amdsmi.amdsmi_get_processor_handles()
        }
    except Exception as error:
        return None, f"amdsmi cannot be started ({safe_text(str(error), 80) or type(error).__name__})"
    return Smi(amdsmi, {address: handles.get(address.lower()) for address in addresses}), ""


class Smi:
    """amdsmi, started.

    Args:
        library: the module.
        handles: by PCI address; None where it does not know the card.
    """

    def __init__(self, library: Any, handles: Mapping[str, Any]) -> None:
        self._library = library
        self._handles = handles

    def read(self, sheet: Sheet, device: str, address: str) -> None:
        """Put a card's readings on the sheet."""
        names = (*_PCIE, *(name for name, _ in _XGMI), "gpu_clock_limits_bitmask")
        handle = self._handles.get(address)
        if handle is None:
            self._gaps(sheet, device, names, "amdsmi does not know this card")
            return
        try:
            metrics = self._library.amdsmi_get_gpu_metrics_info(handle)
        except Exception as error:
            self._gaps(sheet, device, names, f"amdsmi: {safe_text(str(error), 80) or type(error).__name__}")
            return
        self._gaps(sheet, device, _PCIE, "amdsmi has only the sum of both directions")
        for name, key in _XGMI:
            links = [value for value in metrics.get(key) or () if _is_number(value)]
            if links:
                sheet.rate(name, device, sum(links), _KIB, source="amdsmi")
            else:
                self._gaps(sheet, device, (name,), "this GPU has no XGMI links")
        status = metrics.get("indep_throttle_status")
        if not _is_number(status):
            self._gaps(sheet, device, ("gpu_clock_limits_bitmask",), "amdsmi does not tell it for this GPU")
            return
        bits = 0
        for range_, bit in _BITS:
            if any(int(status) >> at & 1 for at in range_):
                bits |= bit
        sheet.value("gpu_clock_limits_bitmask", device, bits, source="amdsmi", text=clock_limit_words(bits))

    def close(self) -> None:
        """End the library."""
        self._library.amdsmi_shut_down()

    def _gaps(self, sheet: Sheet, device: str, names: Sequence[str], reason: str) -> None:
        for name in names:
            sheet.gap(name, device, reason, source="amdsmi")


def _is_number(value: Any) -> bool:
    """Whether it is a reading: amdsmi says "N/A" or an all-ones number for what a GPU does not have."""
    return (
        isinstance(value, int) and not isinstance(value, bool) and value not in (0xFFFF, 2**32 - 1, 2**64 - 1)
    )
