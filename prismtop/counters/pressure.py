"""Pressure stall information of the host (Documentation/accounting/psi.rst)."""

from __future__ import annotations

from prismtop.counters.files import KeptFile
from prismtop.counters.sheet import Sheet

_WANTED = (("cpu", "some"), ("memory", "some"), ("memory", "full"), ("io", "some"), ("io", "full"))


class PressureReader:
    """Counters of `host.pressure`: the growth of `total`, so they cover one period and not the last 10 s."""

    name = "pressure"

    def __init__(self, proc: str = "/proc") -> None:
        self._files = {kind: KeptFile(f"{proc}/pressure/{kind}") for kind in ("cpu", "memory", "io")}

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        totals: dict[tuple[str, str], int] = {}
        reasons: dict[str, str] = {}
        for kind, file in self._files.items():
            try:
                totals.update({(kind, line): total for line, total in stall_totals(file.read()).items()})
            except OSError as error:
                reasons[kind] = f"the kernel has no pressure information here ({error.strerror})"
        for kind, line in _WANTED:
            name = f"host_pressure_{kind}_{line}_ratio"
            if (kind, line) in totals:
                sheet.rate(name, "host", totals[kind, line], 1e-6)
            else:
                sheet.gap(name, "host", reasons.get(kind, f"no line `{line}` in /proc/pressure/{kind}"))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def stall_totals(data: bytes) -> dict[str, int]:
    """Microseconds stalled since boot by line: {"some": ..., "full": ...}."""
    made = {}
    for line in data.splitlines():
        kind, _, rest = line.partition(b" ")
        total = rest.rpartition(b"total=")[2]
        if total.strip().isdigit():
            made[kind.decode("ascii", "replace")] = int(total)
    return made
