"""cpu_frequency_reduction: a lower ceiling for the clock of the target's CPUs, through cpufreq's sysfs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prismtop.anomaly.faults.burners import target_cpus
from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request

ROOT = "/sys/devices/system/cpu"


def ceiling(cpu: int, root: str = ROOT) -> Path:
    """The file with the highest frequency that a CPU may take, in kHz."""
    return Path(root) / f"cpu{cpu}" / "cpufreq" / "scaling_max_freq"


def check(pid: int | None, root: str = ROOT) -> Availability:
    """Whether there is cpufreq, and the right to write to it."""
    files = [ceiling(cpu, root) for cpu in range(os.cpu_count() or 1) if ceiling(cpu, root).exists()]
    if not files:
        return Availability(
            False, "no cpufreq in sysfs: this machine (most virtual ones) does not let its clock be set"
        )
    if not os.access(files[0], os.W_OK):
        return Availability(False, f"{files[0]} may not be written to", "Run it as root.", permission=True)
    return AVAILABLE


def steps(request: Request) -> tuple[str, ...]:
    """One file per CPU."""
    return tuple(
        f"write {frequency} to {ceiling(cpu)} (now {now})"
        for cpu, now, frequency in _changes(request, request.intensity, ROOT)
    )


def exclusive(request: Request, root: str = ROOT) -> tuple[str, ...]:
    """The ceilings: what a second experiment found would be what the first one wrote. CPUs may share one."""
    files = (ceiling(cpu, root) for cpu in target_cpus(request))
    return tuple(sorted({os.path.realpath(file) for file in files if file.exists()}))


def inject(request: Request, guard: Guard, root: str = ROOT) -> Iterator[float]:
    """Lower the ceilings; the guard writes the old ones back."""
    for cpu, now, _ in _changes(request, 0.0, root):
        guard.record("value", path=str(ceiling(cpu, root)), old=str(now))
    before = {cpu: now for cpu, now, _ in _changes(request, 0.0, root)}
    elapsed = 0.0
    while True:
        if elapsed <= request.ramp_s + 0.1:
            for cpu, now in before.items():
                low = _lowest(cpu, root)
                wanted = round(now - (now - low) * min(1.0, request.level(elapsed)))
                ceiling(cpu, root).write_text(str(wanted), encoding="ascii")
        yield 0.1
        elapsed += 0.1


def _changes(request: Request, level: float, root: str) -> list[tuple[int, int, int]]:
    """(cpu, present ceiling, new ceiling) in kHz."""
    found = []
    for cpu in target_cpus(request):
        file = ceiling(cpu, root)
        if file.exists():
            now = int(file.read_text(encoding="ascii"))
            found.append((cpu, now, round(now - (now - _lowest(cpu, root)) * min(1.0, level))))
    return found


def _lowest(cpu: int, root: str) -> int:
    return int((ceiling(cpu, root).parent / "cpuinfo_min_freq").read_text(encoding="ascii"))
