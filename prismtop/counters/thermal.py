"""Temperatures of the host: thermal zones and hwmon sensors."""

from __future__ import annotations

import re

from prismtop.counters.files import entries, read_int, read_text
from prismtop.counters.sheet import Sheet
from prismtop.safe_text import safe_text

MAX_SENSORS = 24
_INPUT = re.compile(r"temp(\d+)_input$")
_GPU_CHIPS = ("amdgpu", "xe", "i915", "nouveau")  # read with their devices


class ThermalReader:
    """Counters of `host.thermal`: packages and boards; single cores of a package are left out."""

    name = "thermal"

    def __init__(self, sys: str = "/sys") -> None:
        self._sys = sys
        self._sensors: list[tuple[str, str]] | None = None

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        if not slow:
            return
        if self._sensors is None:
            self._sensors = [*self._zones(), *self._chips()][:MAX_SENSORS]
        if not self._sensors:
            reason = "no sensor in /sys/class/thermal or /sys/class/hwmon (usual in a virtual machine)"
            sheet.gap("temperature_celsius", "host", reason)
        for device, path in self._sensors:
            milli = read_int(path)
            if milli is None:
                sheet.gap("temperature_celsius", device, f"{path} cannot be read")
            else:
                sheet.value("temperature_celsius", device, milli / 1000)

    def _zones(self) -> list[tuple[str, str]]:
        where = f"{self._sys}/class/thermal"
        made = []
        for name in entries(where):
            if name.startswith("thermal_zone"):
                kind = safe_text(read_text(f"{where}/{name}/type") or name, 24)
                made.append((f"{name} {kind}", f"{where}/{name}/temp"))
        return made

    def _chips(self) -> list[tuple[str, str]]:
        where = f"{self._sys}/class/hwmon"
        made = []
        for chip in entries(where):
            kind = safe_text(read_text(f"{where}/{chip}/name") or chip, 24)
            if kind in _GPU_CHIPS:
                continue
            for name in entries(f"{where}/{chip}"):
                found = _INPUT.match(name)
                if not found:
                    continue
                label = safe_text(read_text(f"{where}/{chip}/temp{found[1]}_label") or f"temp{found[1]}", 24)
                if not label.startswith("Core "):
                    made.append((f"{chip} {kind} {label}", f"{where}/{chip}/{name}"))
        return made

    def close(self) -> None:
        """Nothing is kept open."""
