"""NVML field values: many readings in one call that does not block.

`nvmlDeviceGetPcieThroughput` measures for 20 ms inside the call; the byte counters here are read at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prismtop.counters.nvidia_errors import Calls, explain
from prismtop.counters.sheet import Sheet

MEMORY_TEMP, POWER_INSTANT = 82, 186
PCIE_REPLAYS = 94
_PCIE_TX, _PCIE_RX = 197, 198
_NVLINK_TX_KIB, _NVLINK_RX_KIB = 138, 139
_NVLINK_XMIT_BYTES, _NVLINK_RCV_BYTES = 202, 204
_NVLINK_ERRORS = ((161, 162, 163), (45, 52, 59))  # DL_REPLAY, _RECOVERY, _CRC; before them totals of each
_ALL_LINKS = 0xFFFFFFFF  # scope of 138 and 139: the sum over links

NOT_SUPPORTED = 3


@dataclass(frozen=True)
class _Rate:
    name: str
    fields: tuple[tuple[tuple[int, int], float], ...]  # ((field, scope), bytes per unit), best first


_RATES = (
    _Rate("gpu_pcie_transmit_bytes_per_s", (((_PCIE_TX, 0), 1.0),)),
    _Rate("gpu_pcie_receive_bytes_per_s", (((_PCIE_RX, 0), 1.0),)),
    _Rate(
        "gpu_nvlink_transmit_bytes_per_s",
        (((_NVLINK_TX_KIB, _ALL_LINKS), 1024.0), ((_NVLINK_XMIT_BYTES, _ALL_LINKS), 1.0)),
    ),
    _Rate(
        "gpu_nvlink_receive_bytes_per_s",
        (((_NVLINK_RX_KIB, _ALL_LINKS), 1024.0), ((_NVLINK_RCV_BYTES, _ALL_LINKS), 1.0)),
    ),
)
_OFTEN = ((POWER_INSTANT, 0), (MEMORY_TEMP, 0), *(field for rate in _RATES for field, _ in rate.fields))
_SELDOM = ((PCIE_REPLAYS, 0), *((field, _ALL_LINKS) for group in _NVLINK_ERRORS for field in group))
RATE_NAMES = tuple(rate.name for rate in _RATES)
_NAMES = (*RATE_NAMES, "gpu_power_watts", "gpu_memory_temperature_celsius")


def read_fields(
    sheet: Sheet, calls: Calls, nvml: Any, handle: Any, *, slow: bool, covered: frozenset[str] = frozenset()
) -> Mapping[int, float]:
    """Put traffic, memory temperature and link errors on the sheet.

    Args:
        covered: rates that another source gives when no field does; no gap is made for them.

    Returns:
        The fields that could be read, for the caller: instant power in mW is `POWER_INSTANT`.
    """
    wanted = [*_OFTEN, *(_SELDOM if slow else ())]
    values = calls(sheet, _NAMES, nvml.nvmlDeviceGetFieldValues, handle, wanted)
    if values is None:
        return {}
    found: dict[int, float] = {}
    errors: dict[int, int] = {}
    for value in values:
        if value.nvmlReturn == 0:
            found[value.fieldId] = _number(value)
        else:
            errors[value.fieldId] = value.nvmlReturn
    device = calls.device
    for rate in _RATES:
        for (field, _), scale in rate.fields:
            if field in found:
                sheet.rate(rate.name, device, found[field], scale, source="nvml")
                break
        else:
            if rate.name not in covered:
                _gap(sheet, calls, nvml, rate.name, errors.get(rate.fields[0][0][0], NOT_SUPPORTED))
    if MEMORY_TEMP in found:
        sheet.value("gpu_memory_temperature_celsius", device, found[MEMORY_TEMP], source="nvml")
    else:
        _gap(sheet, calls, nvml, "gpu_memory_temperature_celsius", errors.get(MEMORY_TEMP, NOT_SUPPORTED))
    if slow:
        _errors(sheet, calls, nvml, found, errors)
    return found


def _errors(
    sheet: Sheet, calls: Calls, nvml: Any, found: Mapping[int, float], errors: Mapping[int, int]
) -> None:
    if PCIE_REPLAYS in found:
        sheet.value("gpu_pcie_replays_total", calls.device, found[PCIE_REPLAYS], source="nvml")
    else:
        _gap(sheet, calls, nvml, "gpu_pcie_replays_total", errors.get(PCIE_REPLAYS, NOT_SUPPORTED))
    for group in _NVLINK_ERRORS:
        counted = [found[field] for field in group if field in found]
        if counted:
            sheet.value("gpu_nvlink_errors_total", calls.device, sum(counted), source="nvml")
            return
    _gap(sheet, calls, nvml, "gpu_nvlink_errors_total", errors.get(_NVLINK_ERRORS[1][0], NOT_SUPPORTED))


def _gap(sheet: Sheet, calls: Calls, nvml: Any, name: str, code: int) -> None:
    sheet.gap(name, calls.device, explain(nvml.NVMLError(code)), source="nvml")


def _number(value: Any) -> float:
    """The member of the union that `valueType` names (nvmlValueType_t)."""
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    kind = int(value.valueType)
    return float(getattr(value.value, members[kind] if kind < len(members) else "ullVal"))
