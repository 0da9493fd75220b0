"""GPM, the profiling metrics of NVML on Hopper and later.

They need no perfmon lock, so they work beside DCGM, Nsight and CUPTI. A metric is computed from two samples
of the device that are at least 100 ms apart.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any

from prismtop.counters.nvidia_errors import Calls, explain
from prismtop.counters.sheet import Sheet

SHORTEST_NS = 100_000_000
_PERCENT, _MIB = 0.01, float(1 << 20)
METRICS = {
    2: ("gpu_sm_active_ratio", _PERCENT),
    3: ("gpu_sm_occupancy_ratio", _PERCENT),
    5: ("gpu_tensor_active_ratio", _PERCENT),
    10: ("gpu_dram_active_ratio", _PERCENT),
    20: ("gpu_pcie_transmit_bytes_per_s", _MIB),
    21: ("gpu_pcie_receive_bytes_per_s", _MIB),
    60: ("gpu_nvlink_receive_bytes_per_s", _MIB),
    61: ("gpu_nvlink_transmit_bytes_per_s", _MIB),
}
"""NVML_GPM_METRIC_*: our name, and the factor to its unit."""
METRIC_NAMES = tuple(name for name, _ in METRICS.values())
PROFILING = tuple(name for name, scale in METRICS.values() if scale == _PERCENT)
_METRIC = struct.Struct("=IId24x")
"""nvmlGpmMetric_t: id, return code, value, and three pointers that are not used."""
_METRICS_AT = 24  # after version, number and the two samples of nvmlGpmMetricsGet_t
PCIE = frozenset(name for name, _ in METRICS.values() if "_pcie_" in name)


@dataclass
class _Pair:
    older: Any
    newer: Any
    older_ns: int = 0


class Gpm:
    """Metrics of one device, or of one MIG instance of it.

    Args:
        nvml: the binding.
        calls: of the device that the readings are for.
        handle: the physical device.
        instance: GPU instance id under MIG; None for the whole device.
    """

    def __init__(self, nvml: Any, calls: Calls, handle: Any, instance: int | None = None) -> None:
        self._nvml = nvml
        self._calls = calls
        self._handle = handle
        self._instance = instance
        self._pair: _Pair | None = None
        self._request: Any = None
        self._supported: bool | None = None
        self.works: frozenset[str] = frozenset()
        """Names of the last round that had a value."""

    def read(self, sheet: Sheet, without: frozenset[str] = frozenset()) -> None:
        """Take a sample and put metrics on the sheet, without those that another source gives."""
        if not self._ready(sheet):
            return
        pair = self._pair
        assert pair is not None
        if pair.older_ns and sheet.now_ns - pair.older_ns < SHORTEST_NS:
            return
        if not self._sample(sheet, pair.newer):
            pair.older_ns = 0
            self.works = frozenset()
            return
        if pair.older_ns:
            self._metrics(sheet, pair, without)
        pair.older, pair.newer, pair.older_ns = pair.newer, pair.older, sheet.now_ns

    def _ready(self, sheet: Sheet) -> bool:
        if self._supported is False or self._pair is not None:
            return self._pair is not None
        nvml, calls = self._nvml, self._calls
        support = calls(sheet, PROFILING, nvml.nvmlGpmQueryDeviceSupport, self._handle)
        if support is None:
            return False
        self._supported = bool(support.isSupportedDevice)
        if not self._supported:
            for name in PROFILING:
                sheet.gap(name, calls.device, "needs a Hopper or later GPU (GPM)", source="gpm")
            return False
        older = calls(sheet, PROFILING, nvml.nvmlGpmSampleAlloc)
        newer = calls(sheet, PROFILING, nvml.nvmlGpmSampleAlloc) if older is not None else None
        if newer is None:
            if older is not None:
                nvml.nvmlGpmSampleFree(older)
            return False
        self._pair = _Pair(older, newer)
        return True

    def _sample(self, sheet: Sheet, sample: Any) -> bool:
        nvml = self._nvml
        if self._instance is None:
            made = self._calls(sheet, PROFILING, nvml.nvmlGpmSampleGet, self._handle, sample)
        else:
            made = self._calls(
                sheet, PROFILING, nvml.nvmlGpmMigSampleGet, self._handle, self._instance, sample
            )
        return made is not None

    def _metrics(self, sheet: Sheet, pair: _Pair, without: frozenset[str]) -> None:
        nvml, device = self._nvml, self._calls.device
        if self._request is None:
            self._request = nvml.c_nvmlGpmMetricsGet_t()
            self._request.version = nvml.NVML_GPM_METRICS_GET_VERSION
            self._request.numMetrics = len(METRICS)
            for at, metric in enumerate(METRICS):
                self._request.metrics[at].metricId = metric
        request = self._request
        request.sample1, request.sample2 = pair.older, pair.newer
        if self._calls(sheet, PROFILING, nvml.nvmlGpmMetricsGet, request) is None:
            self.works = frozenset()
            return
        works = set()
        # Not all of it: there is room for hundreds of metrics.
        size = _METRICS_AT + len(METRICS) * _METRIC.size
        results = _METRIC.iter_unpack(ctypes.string_at(ctypes.addressof(request), size)[_METRICS_AT:])
        for (name, scale), (_, code, value) in zip(METRICS.values(), results, strict=True):
            if code == 0:
                works.add(name)
                if name not in without:
                    sheet.value(name, device, value * scale, source="gpm")
            elif name in PROFILING:
                sheet.gap(name, device, explain(nvml.NVMLError(code)), source="gpm")
        self.works = frozenset(works)

    def close(self) -> None:
        """Free the samples, before NVML is shut down."""
        if self._pair is not None:
            for sample in (self._pair.older, self._pair.newer):
                self._nvml.nvmlGpmSampleFree(sample)
            self._pair = None
