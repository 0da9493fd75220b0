"""AMD GPUs: sysfs of the amdgpu driver, fdinfo for processes, and amdsmi for what sysfs does not have."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prismtop.counters.device import Absent, Where, missing
from prismtop.counters.drm import Card, ProcessShares, cards
from prismtop.counters.files import entries, read_int, read_text
from prismtop.counters.sheet import Reader, Sheet

_GT_S = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""PCIe generation by transfer rate."""
_BLOCKS = "the driver's pcie_bw measures for a second inside the read; needs amdsmi"


_MISSING = missing(
    (
        "gpu_busy_ratio",
        "gpu_memory_busy_ratio",
        "gpu_memory_used_bytes",
        "gpu_memory_total_bytes",
        "gpu_temperature_celsius",
        "gpu_memory_temperature_celsius",
        "gpu_power_watts",
        "gpu_power_limit_watts",
        "gpu_sm_clock_mhz",
        "gpu_sm_clock_max_mhz",
        "gpu_memory_clock_mhz",
        "gpu_clock_limits_bitmask",
        "gpu_fan_ratio",
        "gpu_ecc_corrected_total",
        "gpu_ecc_uncorrected_total",
        "gpu_pcie_replays_total",
        "gpu_pcie_generation_count",
        "gpu_pcie_width_count",
        "gpu_pcie_receive_bytes_per_s",
        "gpu_pcie_transmit_bytes_per_s",
        "gpu_nvlink_receive_bytes_per_s",
        "gpu_nvlink_transmit_bytes_per_s",
    )
)


def open_reader(where: Where) -> Reader | Absent:
    """A reader of the cards of the amdgpu driver."""
    found = cards(where.sys, ("amdgpu",))
    if not found:
        return Absent("amd", "no GPU with the amdgpu driver")
    return AmdReader(where, found)


class AmdReader:
    """Counters of all AMD GPUs."""

    name = "amd"

    def __init__(self, where: Where, found: Sequence[Card]) -> None:
        from prismtop.counters.amd_smi import open_smi

        self._cards = found
        self._hwmon = {card.name: _hwmon(card.path) for card in found}
        self._shares = ProcessShares(where, {card.address: card.device for card in found})
        self._smi, self._smi_reason = open_smi([card.address for card in found])

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        for card in self._cards:
            self._card(sheet, card, slow)
            if self._smi is not None:
                self._smi.read(sheet, card.device, card.address)
            else:
                self._without_smi(sheet, card.device)
        self._shares.read(sheet, slow=slow)

    def close(self) -> None:
        """End amdsmi."""
        if self._smi is not None:
            self._smi.close()

    def _without_smi(self, sheet: Sheet, device: str) -> None:
        for name in ("gpu_pcie_receive_bytes_per_s", "gpu_pcie_transmit_bytes_per_s"):
            sheet.gap(name, device, f"{_BLOCKS}: {self._smi_reason}", source="sysfs")
        for name in (
            "gpu_nvlink_receive_bytes_per_s",
            "gpu_nvlink_transmit_bytes_per_s",
            "gpu_clock_limits_bitmask",
        ):
            sheet.gap(name, device, f"sysfs does not have it: {self._smi_reason}", source="sysfs")

    def _card(self, sheet: Sheet, card: Card, slow: bool) -> None:
        path, hwmon, device = card.path, self._hwmon[card.name], card.device
        for name, file, scale in (
            ("gpu_busy_ratio", f"{path}/gpu_busy_percent", 0.01),
            ("gpu_memory_busy_ratio", f"{path}/mem_busy_percent", 0.01),
            ("gpu_memory_used_bytes", f"{path}/mem_info_vram_used", 1.0),
            ("gpu_memory_total_bytes", f"{path}/mem_info_vram_total", 1.0),
            ("gpu_temperature_celsius", _sensor(hwmon, "temp", ("junction", "edge")), 1e-3),
            ("gpu_memory_temperature_celsius", _sensor(hwmon, "temp", ("mem",)), 1e-3),
        ):
            _number(sheet, name, device, file, scale)
        _first(sheet, "gpu_power_watts", device, (f"{hwmon}/power1_input", f"{hwmon}/power1_average"), 1e-6)
        _first(sheet, "gpu_sm_clock_mhz", device, (f"{hwmon}/freq1_input",), 1e-6, f"{path}/pp_dpm_sclk")
        _first(sheet, "gpu_memory_clock_mhz", device, (f"{hwmon}/freq2_input",), 1e-6, f"{path}/pp_dpm_mclk")
        if slow:
            self._seldom(sheet, card, hwmon)

    def _seldom(self, sheet: Sheet, card: Card, hwmon: str) -> None:
        path, device = card.path, card.device
        _number(sheet, "gpu_power_limit_watts", device, f"{hwmon}/power1_cap", 1e-6)
        _number(sheet, "gpu_fan_ratio", device, f"{hwmon}/pwm1", 1 / 255)
        _number(sheet, "gpu_pcie_replays_total", device, f"{path}/pcie_replay_count", 1.0)
        _number(sheet, "gpu_pcie_width_count", device, f"{path}/current_link_width", 1.0)
        clocks = [mhz for mhz, _ in _levels(f"{path}/pp_dpm_sclk")]
        if clocks:
            sheet.value("gpu_sm_clock_max_mhz", device, max(clocks), source="sysfs")
        else:
            sheet.gap("gpu_sm_clock_max_mhz", device, "the driver has no pp_dpm_sclk", source="sysfs")
        speed = read_text(f"{path}/current_link_speed") or ""  # `32.0 GT/s PCIe`, or `Unknown`
        number = re.match(r"\d+(?:\.\d+)?", speed)
        generation = _GT_S.get(float(number[0])) if number else None
        if generation is not None:
            sheet.value("gpu_pcie_generation_count", device, generation, source="sysfs")
        else:
            reason = (
                "the driver does not know current_link_speed" if speed else "sysfs has no current_link_speed"
            )
            sheet.gap("gpu_pcie_generation_count", device, reason, source="sysfs")
        errors = re.findall(r"(ue|ce): (\d+)", read_text(f"{path}/ras/umc_err_count") or "")
        counts = {kind: int(count) for kind, count in errors}
        for name, kind in (("gpu_ecc_corrected_total", "ce"), ("gpu_ecc_uncorrected_total", "ue")):
            if kind in counts:
                sheet.value(name, device, counts[kind], source="sysfs")
            else:
                sheet.gap(name, device, "this GPU has no ras/umc_err_count", source="sysfs")
        for name in _MISSING:
            sheet.gap(name, device, "AMD's driver has no such counter", source="sysfs")


def _hwmon(path: str) -> str:
    names = entries(f"{path}/hwmon")
    return f"{path}/hwmon/{names[0]}" if names else f"{path}/hwmon/none"


def _sensor(hwmon: str, kind: str, labels: Sequence[str]) -> str:
    """The input file of the first of these labels that the chip has; else that of its first sensor."""
    found = {read_text(f"{hwmon}/{name}"): name for name in entries(hwmon) if name.endswith("_label")}
    for label in labels:
        if label in found:
            return f"{hwmon}/{found[label].replace('_label', '_input')}"
    return f"{hwmon}/{kind}1_input" if "edge" in labels else f"{hwmon}/{kind}_of_{labels[0]}"


def _number(sheet: Sheet, name: str, device: str, file: str, scale: float) -> None:
    value = read_int(file)
    if value is None:
        sheet.gap(name, device, f"the driver has no {file.rsplit('/', 1)[-1]}", source="sysfs")
    else:
        sheet.value(name, device, value * scale, source="sysfs")


def _first(
    sheet: Sheet, name: str, device: str, files: Sequence[str], scale: float, levels: str = ""
) -> None:
    """The first file that can be read; else the level of a pp_dpm file that is marked as the present one."""
    for file in files:
        value = read_int(file)
        if value is not None:
            sheet.value(name, device, value * scale, source="sysfs")
            return
    for mhz, present in _levels(levels):
        if present:
            sheet.value(name, device, mhz, source="sysfs")
            return
    sheet.gap(name, device, f"the driver has no {files[0].rsplit('/', 1)[-1]}", source="sysfs")


def _levels(path: str) -> list[tuple[float, bool]]:
    """(MHz, present) of the lines of a pp_dpm file: `1: 1700Mhz *`."""
    found = re.findall(r"\d+:\s*(\d+)\s*Mhz\s*(\*?)", read_text(path) or "", re.IGNORECASE) if path else []
    return [(float(mhz), bool(star)) for mhz, star in found]
