"""Intel GPUs: Level Zero's sysman where installed, sysfs of the xe and i915 drivers, fdinfo for processes."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence

from prismtop.counters.clock_limits import clock_limit_words
from prismtop.counters.device import Absent, Where, missing
from prismtop.counters.drm import Card, ProcessShares, cards
from prismtop.counters.files import entries, read_int
from prismtop.counters.intel_sysman import open_sysman
from prismtop.counters.sheet import Reader, Sheet

_REASONS = {
    "pl1": 0x4,
    "pl2": 0x4,
    "pl4": 0x4,
    "thermal": 0x40,
    "prochot": 0x40,
    "ratl": 0x20,
    "vr_thermalert": 0x20,
    "vr_tdc": 0x200,
}
"""throttle_reason_* (i915) and reason_* (xe) as bits of `gpu_clock_limits_bitmask`."""
_NONE = "the kernel driver does not tell it"
_MISSING = missing(
    (
        "gpu_busy_ratio",
        "gpu_sm_clock_mhz",
        "gpu_sm_clock_max_mhz",
        "gpu_clock_limits_bitmask",
        "gpu_power_watts",
        "gpu_power_limit_watts",
        "gpu_temperature_celsius",
    )
)


def open_reader(where: Where) -> Reader | Absent:
    """A reader of the cards of the xe and i915 drivers."""
    found = cards(where.sys, ("xe", "i915"))
    if not found:
        return Absent("intel", "no GPU with the xe or i915 driver")
    return IntelReader(where, found)


class _Files:
    """Where one card keeps its readings: the two drivers differ."""

    def __init__(self, card: Card, sys: str) -> None:
        if card.driver == "xe":
            gt = f"{card.path}/tile0/gt0"
            self.clock, self.clock_max = f"{gt}/freq0/act_freq", f"{gt}/freq0/max_freq"
            self.idle_ms = f"{gt}/gtidle/idle_residency_ms"
            self.throttle, self.prefix = f"{gt}/freq0/throttle", "reason_"
        else:
            gt = f"{sys}/class/drm/{card.name}/gt/gt0"
            self.clock, self.clock_max = f"{gt}/rps_act_freq_mhz", f"{gt}/rps_max_freq_mhz"
            self.idle_ms = f"{gt}/rc6_residency_ms"
            self.throttle, self.prefix = gt, "throttle_reason_"
        names = entries(f"{card.path}/hwmon")
        self.hwmon = f"{card.path}/hwmon/{names[0] if names else 'none'}"

    def limits(self) -> int | None:
        """Throttle reasons as bits; None when the driver has none."""
        status = read_int(f"{self.throttle}/{self.prefix}status")
        if status is None:
            status = read_int(f"{self.throttle}/status")
        if status is None:
            return None
        bits = 0
        for word, bit in _REASONS.items():
            if read_int(f"{self.throttle}/{self.prefix}{word}"):
                bits |= bit
        return bits or (0x8 if status else 0)


class IntelReader:
    """Counters of all Intel GPUs."""

    name = "intel"

    def __init__(self, where: Where, found: Sequence[Card]) -> None:
        self._cards: Mapping[str, tuple[Card, _Files]] = {
            card.device: (card, _Files(card, where.sys)) for card in found
        }
        self._shares = ProcessShares(where, {card.address: card.device for card in found})
        self._sysman, self._no_sysman = open_sysman([target.id.pid for target in where.targets])

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        for device, (card, files) in self._cards.items():
            told: Mapping[str, str] = {}
            if self._sysman is not None:
                told = self._sysman.read(sheet, device, card.address, slow=slow)
            _Sysfs(sheet, device, told, self._no_sysman).read(files, slow)
        self._shares.read(sheet, slow=slow)

    def close(self) -> None:
        """Nothing is kept open."""


class _Sysfs:
    """One card's round of what sysman did not tell.

    Args:
        told: by name of a counter why sysman did not read it, empty when it did.
        no_sysman: why there is no sysman; empty when there is.
    """

    def __init__(self, sheet: Sheet, device: str, told: Mapping[str, str], no_sysman: str) -> None:
        self._sheet, self._device, self._told, self._no_sysman = sheet, device, told, no_sysman

    def read(self, files: _Files, slow: bool) -> None:
        sheet, device = self._sheet, self._device
        if self._wanted("gpu_busy_ratio"):
            self._awake(files)
        self._simple("gpu_sm_clock_mhz", files.clock)
        if self._wanted("gpu_clock_limits_bitmask"):
            bits = files.limits()
            if bits is None:
                self._gap("gpu_clock_limits_bitmask", "the driver has no throttle reasons")
            else:
                words = clock_limit_words(bits)
                sheet.value("gpu_clock_limits_bitmask", device, bits, source="sysfs", text=words)
        if self._wanted("gpu_power_watts"):
            energy = read_int(f"{files.hwmon}/energy1_input")
            if energy is None:
                self._gap("gpu_power_watts", "the driver has no energy1_input")
            else:
                sheet.rate("gpu_power_watts", device, energy, 1e-6, source="sysfs")
        temperatures = sorted(glob.glob(f"{files.hwmon}/temp*_input"))
        self._simple("gpu_temperature_celsius", (temperatures or [""])[0], 1e-3)
        if slow:
            self._simple("gpu_sm_clock_max_mhz", files.clock_max)
            self._simple("gpu_power_limit_watts", f"{files.hwmon}/power1_max", 1e-6)
            for name in _MISSING:
                if self._wanted(name):
                    self._gap(name, _NONE)

    def _wanted(self, name: str) -> bool:
        return self._told.get(name) != ""

    def _gap(self, name: str, reason: str) -> None:
        if self._no_sysman:
            why = self._no_sysman
        else:
            why = self._told.get(name) or "it does not tell it either"
        self._sheet.gap(name, self._device, f"{reason}; Level Zero: {why}", source="sysfs")

    def _awake(self, files: _Files) -> None:
        sheet, device = self._sheet, self._device
        idle = read_int(files.idle_ms)
        if idle is None:
            self._gap("gpu_busy_ratio", "the driver has no residency counter")
            return
        grown = sheet.delta("gpu_busy_ratio", device, idle)
        if grown is not None:
            awake = max(0.0, 1 - grown[0] / 1e3 / grown[1])
            sheet.value("gpu_busy_ratio", device, awake, source="sysfs", text="awake: busy at most so much")

    def _simple(self, name: str, file: str, scale: float = 1.0) -> None:
        if not self._wanted(name):
            return
        value = read_int(file) if file else None
        if value is None:
            self._gap(name, f"the driver has no {file.rsplit('/', 1)[-1] or 'such sensor'}")
        else:
            self._sheet.value(name, self._device, value * scale, source="sysfs")
