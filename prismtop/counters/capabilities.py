"""What can be read on this machine: one line a signal, for `prismtop doctor`.

Every counter is really read, twice, because rates need two readings. A signal is `ok` when each of its
counters has a value somewhere, `partial` when some have, `none` when no one has; with the reasons that the
readers gave, and what would help.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prismtop.counters.catalogue import CATALOGUE
from prismtop.counters.device import VENDORS, Absent, Where, open_vendors, why_no_device
from prismtop.counters.sampler import host_readers
from prismtop.counters.sheet import Reader, Sheet
from prismtop.counters.speed import SpeedReader
from prismtop.model import Counter, Group, ProcessId, Target
from prismtop.safe_text import safe_text
from prismtop.targets.doctor import NONE, OK, PARTIAL, Check
from prismtop.targets.procfs import read_stat

BETWEEN_S = 0.25
"""Time between the two readings; GPM needs a tenth of a second."""
_GPU = "Needs a GPU that has it, and its driver; for an Intel GPU Level Zero (libze1, libze-intel-gpu1) too."
FIXES = {
    "host.cpu": "Mount /proc of the host.",
    "host.frequency": "In a virtual machine the host hides it; elsewhere load a cpufreq driver.",
    "host.speed": "Let prismtop run for 15 seconds: full speed is what it saw.",
    "host.memory": "Mount /proc of the host.",
    "host.pressure": "Boot with psi=1, on a kernel with CONFIG_PSI.",
    "host.network": "Mount /proc of the host.",
    "host.disk": "Mount /proc and /sys of the host.",
    "host.thermal": "Load the sensors' drivers (coretemp, k10temp); a virtual machine has none.",
    "process": "Run prismtop as root, or as the engine's user.",
    "process.threads": "Use a kernel with CONFIG_SCHED_INFO.",
    "cgroup": "Run prismtop on the host, or in the engine's container; limits appear where some are set.",
    "rdma": "Mount /sys of the host; there is none without an RDMA adapter.",
    "gpu.use": _GPU,
    "gpu.clocks": _GPU,
    "gpu.power": _GPU,
    "gpu.errors": _GPU,
    "gpu.pcie": "Needs a driver of 535 or later, or a GPU with GPM.",
    "gpu.nvlink": "Needs GPUs that are connected by NVLink.",
    "gpu.profiling": "Needs a Hopper or later GPU.",
    "gpu.process": "Run prismtop in the pid namespace of the driver (on the host, or with --pid=host).",
    "sampler": "",
}
"""What would help, by signal."""
_QUIET = ("no CPU limit is set", "no memory limit is set", "version 1 of control groups")
"""Reasons that are the state of the machine and nothing that is missing."""


@dataclass
class Seen:
    """What two rounds of readings showed.

    Attributes:
        values: names that had a value, with the devices that had one.
        reasons: why names had none, by name.
        absent: vendors without a device here.
        vendors: vendors whose devices were read.
    """

    values: dict[str, set[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    absent: list[Absent] = field(default_factory=list)
    vendors: list[str] = field(default_factory=list)

    def take(self, readings: Iterable[Counter]) -> None:
        """Add readings."""
        for counter in readings:
            if counter.value is not None:
                self.values.setdefault(counter.name, set()).add(counter.device)
            else:
                self.reasons[counter.name] = counter.reason


def look(group: Group | None = None, where: Where | None = None) -> Seen:
    """Read everything twice. Without a group prismtop itself stands for the target."""
    group = group or _ourselves()
    where = where or Where(targets=group.members)
    seen = Seen()
    sheet = Sheet()
    vendors, seen.absent = open_vendors(where, VENDORS)
    seen.vendors = [reader.name for reader in vendors]
    speed = SpeedReader(sys=where.sys)
    speed.learn_at_once()
    readers: Sequence[Reader] = (
        *host_readers(group, where.proc, where.sys),
        speed,
        *vendors,
    )
    try:
        for round_ in range(2):
            if round_:
                time.sleep(BETWEEN_S)
            for reader in readers:
                sheet.now_ns = time.monotonic_ns()
                try:
                    reader.read(sheet, slow=True)
                except Exception as error:
                    text = f"{reader.name}: {type(error).__name__}: {error}"
                    sheet.value("sampler_failures_total", reader.name, 1, text=safe_text(text, 200))
            seen.take(sheet.take())
    finally:
        for reader in readers:
            reader.close()
    return seen


def capability_checks(seen: Seen) -> Iterator[Check]:
    """A check for each vendor (`counters.nvidia`, ...) and for each signal (`counters.host.cpu`, ...)."""
    for vendor in seen.vendors:
        devices = sorted(
            {device for name, found in seen.values.items() if name.startswith("gpu_") for device in found}
        )
        physical = [device for device in devices if " pid " not in device]
        yield Check(f"counters.{vendor}", OK, f"read: {safe_text(', '.join(physical), 120) or 'no device'}")
    for absent in seen.absent:
        if absent.hardware or absent.fix:
            reason = safe_text(absent.reason, 200)
            yield Check(f"counters.{absent.vendor}", NONE, reason, absent.fix or "See the driver's manual.")
    for signal in dict.fromkeys(spec.signal for spec in CATALOGUE.values()):
        if signal != "sampler":
            yield _signal(signal, seen)


def counter_rows(seen: Seen) -> Iterator[dict[str, object]]:
    """Every counter: what it is, and on which devices it was read here or why it was not."""
    for name, spec in CATALOGUE.items():
        devices = sorted(safe_text(device, 80) for device in seen.values.get(name, ()))
        row: dict[str, object] = {"name": name, "unit": spec.unit, "signal": spec.signal}
        row.update(source=spec.source, period_s=spec.period_s, devices=devices)
        reason = seen.reasons.get(name, "")
        if not devices and not reason:
            reason = _of_signal(spec.signal, seen)
        if reason:
            row["reason"] = safe_text(reason, 200)
        yield row


def _of_signal(signal: str, seen: Seen) -> str:
    """Why a counter that said nothing of its own was not read."""
    if signal.startswith("gpu.") and not seen.vendors:
        return why_no_device(seen.absent)
    names = [name for name, spec in CATALOGUE.items() if spec.signal == signal]
    if any(name in seen.values for name in names):
        return "there was nothing to tell in these two readings"
    return next((seen.reasons[name] for name in names if name in seen.reasons), "nothing could be read")


def _signal(signal: str, seen: Seen) -> Check:
    names = [name for name, spec in CATALOGUE.items() if spec.signal == signal]
    there = [name for name in names if name in seen.values]
    missing = [name for name in names if name not in seen.values]
    id_ = f"counters.{signal}"
    why = {name: seen.reasons[name] for name in missing if name in seen.reasons}
    wanting = {name: reason for name, reason in why.items() if not reason.startswith(_QUIET)}
    sources = ", ".join(dict.fromkeys(CATALOGUE[name].source for name in names))
    if there and not wanting:
        # What has neither value nor reason had nothing to tell in these two readings (no request, no thread).
        return Check(id_, OK, f"{len(there)} of {len(names)} counters ({sources}){_quiet(why)}")
    fix = FIXES[signal]
    if there:
        return Check(id_, PARTIAL, f"{len(there)} of {len(names)} counters; {_told(wanting)}", fix)
    if signal.startswith("gpu.") and not seen.vendors:
        broken = any(absent.hardware for absent in seen.absent)
        return Check(id_, NONE, why_no_device(seen.absent), fix if broken else "")
    if not why:
        return Check(id_, NONE, "nothing could be read", fix)
    return Check(id_, NONE, _told(why), fix)


def _told(reasons: dict[str, str]) -> str:
    """Names by reason: `gpu_fan_ratio: not supported by this device`."""
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return safe_text("; ".join(f"{', '.join(names)}: {reason}" for reason, names in grouped.items()), 400)


def _quiet(reasons: dict[str, str]) -> str:
    return f"; {safe_text('; '.join(dict.fromkeys(reasons.values())), 200)}" if reasons else ""


def _ourselves() -> Group:
    stat = read_stat(os.getpid())
    start = stat.start_time if stat else 0
    me = Target(ProcessId(os.getpid(), start), "prismtop", "doctor", False, "prismtop doctor")
    return Group("prismtop", None, (me,))
