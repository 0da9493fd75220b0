"""`Counter`: one reading of the host, a GPU or an interconnect, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.model.construct import from_fields


@dataclass(frozen=True)
class Counter:
    """One reading.

    Attributes:
        name: stable, with its unit as suffix (`host_cpu_busy_ratio`, `gpu_sm_clock_mhz`); the same in JSON,
            traces and Prometheus.
        device: `host`, `pid 4242`, `gpu 0`, `mlx5_0`, ...
        unit: `ratio`, `bytes`, `bytes_per_s`, `mhz`, `celsius`, `watts`, `seconds`, `count`, `per_s`, ...
        time_ns: CLOCK_MONOTONIC of the reading.
        value: None when it could not be read.
        reason: why it could not; empty when it could.
        source: where it comes from (`procfs`, `nvml`, `gpm`, `sysfs`, ...).
        period_ns: how often it is read; older than two periods is not current.
        text: a reading that is words (clock limit reasons); empty otherwise.
    """

    name: str
    device: str
    unit: str
    time_ns: int
    value: float | None = None
    reason: str = ""
    source: str = ""
    period_ns: int = 1_000_000_000
    text: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """(name, device): what makes it one series."""
        return self.name, self.device


new_counter = from_fields(Counter)
