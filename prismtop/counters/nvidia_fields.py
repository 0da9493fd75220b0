"""NVML field values: many readings in one call that does not block.

`nvmlDeviceGetPcieThroughput` measures for 20 ms inside the call; the byte counters here are read at once.
"""

from __future__ import annotations

import struct
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
_FIELD_VALUE = struct.Struct("=IIqqII8s")
"""nvmlFieldValue_t: field, scope, timestamp, latency, value type, return code, value. Read by hand: an
attribute of the binding's structures costs ten times as much."""
_KINDS = ("<d", "<I", "<Q", "<Q", "<q", "<i", "<H")


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
_NAMES = (
    *RATE_NAMES,
    "gpu_memory_temperature_celsius",
    "gpu_pcie_replays_total",
    "gpu_nvlink_errors_total",
)


@dataclass(frozen=True)
class Fields:
    """What the fields gave: instant power, and the rates that need no other source."""

    power_mw: float | None = None
    given: frozenset[str] = frozenset()


def read_fields(
    sheet: Sheet, calls: Calls, nvml: Any, handle: Any, *, slow: bool, covered: frozenset[str] = frozenset()
) -> Fields:
    """Put traffic, memory temperature and link errors on the sheet.

    Args:
        covered: rates that GPM gives. Those of PCIe are then left to it: NVML says that its byte counters may
            wrap, and not how often.
    """
    wanted = [*_OFTEN, *(_SELDOM if slow else ())]
    values = calls(sheet, _NAMES, nvml.nvmlDeviceGetFieldValues, handle, wanted)
    if values is None:
        return Fields()
    found: dict[int, float] = {}
    errors: dict[int, int] = {}
    for field, _, _, _, kind, code, raw in _FIELD_VALUE.iter_unpack(bytes(values)):
        if code == 0:
            found[field] = _number(kind, raw)
        else:
            errors[field] = code
    given = frozenset(rate.name for rate in _RATES if _rate(sheet, calls, nvml, rate, found, errors, covered))
    device = calls.device
    if MEMORY_TEMP in found:
        sheet.value("gpu_memory_temperature_celsius", device, found[MEMORY_TEMP], source="nvml")
    else:
        _gap(sheet, calls, nvml, "gpu_memory_temperature_celsius", errors.get(MEMORY_TEMP, NOT_SUPPORTED))
    if slow:
        _errors(sheet, calls, nvml, found, errors)
    return Fields(found.get(POWER_INSTANT), given)


def _rate(
    sheet: Sheet,
    calls: Calls,
    nvml: Any,
    rate: _Rate,
    found: Mapping[int, float],
    errors: Mapping[int, int],
    covered: frozenset[str],
) -> bool:
    """Put a rate on the sheet; False when no field has it."""
    if rate.name in covered and "pcie" in rate.name:
        return False
    for (field, _), scale in rate.fields:
        if field in found:
            sheet.rate(rate.name, calls.device, found[field], scale, source="nvml")
            return True
    if rate.name not in covered:
        _gap(sheet, calls, nvml, rate.name, errors.get(rate.fields[0][0][0], NOT_SUPPORTED))
    return False


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


def _number(kind: int, raw: bytes) -> float:
    """The member of the union that `valueType` names (nvmlValueType_t)."""
    return float(struct.unpack_from(_KINDS[kind] if kind < len(_KINDS) else "<Q", raw)[0])
