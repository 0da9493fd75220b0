"""NVML field values: many readings in one call that does not block.

`nvmlDeviceGetPcieThroughput` measures for 20 ms inside the call; the byte counters here are read at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prismtop.counters.nvidia_errors import FINAL, RETRY_NS, Calls, explain
from prismtop.counters.sheet import Sheet

MEMORY_TEMP, POWER_INSTANT = 82, 186
PCIE_REPLAYS = 94
_PCIE_TX, _PCIE_RX = 197, 198
_NVLINK_TX_KIB, _NVLINK_RX_KIB = 138, 139
_NVLINK_XMIT_BYTES, _NVLINK_RCV_BYTES = 202, 204
_NVLINK_ERRORS = ((161, 162, 163), (208, 211, 215), (38, 45, 52, 59))
"""DL_REPLAY, _RECOVERY and _CRC; those of Blackwell, which has them no more: COUNT_RCV_ERRORS,
COUNT_LOCAL_LINK_INTEGRITY_ERRORS, COUNT_LINK_RECOVERY_EVENTS; before all of them totals of CRC errors of flow
control and of data, of replays and of recoveries.
"""
_ALL_LINKS = 0xFFFFFFFF  # scope of 138 and 139: the sum over links

NOT_SUPPORTED = 3
_FIELD_VALUE = struct.Struct("=IIqqII8s")
"""nvmlFieldValue_t: field, scope, timestamp, latency, value type, return code, value. Read by hand: an
attribute of the binding's structures costs ten times as much."""
_NUMBERS = tuple(struct.Struct(kind).unpack_from for kind in ("<d", "<I", "<Q", "<Q", "<q", "<i", "<H"))
"""The member of the union that the value type names (nvmlValueType_t)."""


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
_PCIE_NAMES = frozenset(name for name in RATE_NAMES if "_pcie_" in name)
_NAMES = (
    *RATE_NAMES,
    "gpu_memory_temperature_celsius",
    "gpu_pcie_replays_total",
    "gpu_nvlink_errors_total",
)


_NONE: frozenset[str] = frozenset()


class Fields:
    """The fields of one device.

    Which of them are asked for is learnt: not those that the device does not have (they are tried again after
    a minute), not the second best source of a rate while the best one works.
    """

    def __init__(self, nvml: Any, calls: Calls, handle: Any) -> None:
        self._nvml = nvml
        self._calls = calls
        self._handle = handle
        self._refused: dict[int, int] = {}  # field: code
        self._again_ns = 0
        self._spare: frozenset[int] = frozenset()
        self._asked: dict[tuple[bool, bool], list[tuple[int, int]]] = {}
        self.power_mw: float | None = None
        """Instant power, in the last round."""
        self.given: frozenset[str] = frozenset(RATE_NAMES)
        """Rates that the fields gave in the last round; before the first one those that they may give."""

    def read(self, sheet: Sheet, *, slow: bool, covered: frozenset[str] = _NONE) -> None:
        """Put traffic, memory temperature and link errors on the sheet.

        Args:
            covered: rates that GPM gives. Those of PCIe are then left to it: NVML says that its byte counters
                may wrap, and not how often.
        """
        calls, device = self._calls, self._calls.device
        asked = self._wanted(slow, bool(_PCIE_NAMES & covered), sheet.now_ns)
        values = calls(sheet, _NAMES, self._nvml.nvmlDeviceGetFieldValues, self._handle, asked)
        if values is None:
            self.power_mw, self.given = None, _NONE
            return
        found: dict[int, float] = {}
        errors = self._refused.copy()
        for field, _, _, _, kind, code, raw in _FIELD_VALUE.iter_unpack(bytes(values)):
            if code == 0:
                found[field] = _NUMBERS[kind if kind < len(_NUMBERS) else 2](raw)[0]
            else:
                errors[field] = code
        if len(errors) > len(self._refused):
            self._learn(errors)
        self.power_mw = found.get(POWER_INSTANT)
        self._rates(sheet, found, errors, covered)
        if MEMORY_TEMP in found:
            sheet.value("gpu_memory_temperature_celsius", device, found[MEMORY_TEMP], source="nvml")
        else:
            self._gap(sheet, "gpu_memory_temperature_celsius", errors.get(MEMORY_TEMP, NOT_SUPPORTED))
        if slow:
            self._errors(sheet, found, errors)

    def _wanted(self, slow: bool, pcie_covered: bool, now_ns: int) -> list[tuple[int, int]]:
        if now_ns >= self._again_ns:
            self._again_ns = now_ns + RETRY_NS
            self._refused.clear()
            self._spare = frozenset()
            self._asked.clear()
        asked = self._asked.get((slow, pcie_covered))
        if asked is None:
            left_out = {_PCIE_TX, _PCIE_RX} if pcie_covered else set()
            left_out |= self._refused.keys() | self._spare
            every = (*_OFTEN, *(_SELDOM if slow else ()))
            asked = self._asked[slow, pcie_covered] = [one for one in every if one[0] not in left_out]
        return asked

    def _learn(self, errors: Mapping[int, int]) -> None:
        """What failed for good is not asked for again soon; of what failed otherwise the second best is."""
        self._refused = {field: code for field, code in errors.items() if code in FINAL}
        self._spare = frozenset()
        self._asked.clear()

    def _rates(
        self, sheet: Sheet, found: Mapping[int, float], errors: Mapping[int, int], covered: frozenset[str]
    ) -> None:
        given = []
        for rate in _RATES:
            if rate.name in covered and rate.name in _PCIE_NAMES:
                continue
            for at, ((field, _), scale) in enumerate(rate.fields):
                if field in found:
                    given.append(rate.name)
                    sheet.rate(rate.name, self._calls.device, found[field], scale, source="nvml")
                    self._enough({spare for (spare, _), _ in rate.fields[at + 1 :]})
                    break
            else:
                if rate.name not in covered:
                    self._gap(sheet, rate.name, errors.get(rate.fields[0][0][0], NOT_SUPPORTED))
        if len(given) != len(self.given) or not self.given.issuperset(given):
            self.given = frozenset(given)

    def _enough(self, spare: set[int]) -> None:
        if not spare <= self._spare:
            self._spare |= spare
            self._asked.clear()

    def _errors(self, sheet: Sheet, found: Mapping[int, float], errors: Mapping[int, int]) -> None:
        device = self._calls.device
        if PCIE_REPLAYS in found:
            sheet.value("gpu_pcie_replays_total", device, found[PCIE_REPLAYS], source="nvml")
        else:
            self._gap(sheet, "gpu_pcie_replays_total", errors.get(PCIE_REPLAYS, NOT_SUPPORTED))
        for group in _NVLINK_ERRORS:
            counted = [found[field] for field in group if field in found]
            if counted:
                sheet.value("gpu_nvlink_errors_total", device, sum(counted), source="nvml")
                return
        self._gap(sheet, "gpu_nvlink_errors_total", errors.get(_NVLINK_ERRORS[-1][0], NOT_SUPPORTED))

    def _gap(self, sheet: Sheet, name: str, code: int) -> None:
        sheet.gap(name, self._calls.device, explain(self._nvml.NVMLError(code)), source="nvml")
