"""What tracing the kernel needs, and whether it is there: tools, capabilities, tracefs, pid namespace."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from prismtop.counters.files import read_int, read_text

CAP_SYS_ADMIN = 21  # include/uapi/linux/capability.h
CAP_PERFMON = 38
CAP_BPF = 39
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


@dataclass(frozen=True)
class Missing:
    """Why a tool cannot be used: half a sentence, and the exact fix as a sentence."""

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}. {self.fix}"


def has_capability(number: int) -> bool:
    """Whether we have it now."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", read_text("/proc/self/status") or "", re.M)
    return found is not None and bool(int(found[1], 16) >> number & 1)


def in_first_pid_namespace() -> bool:
    """Whether pids mean to us what they mean to the kernel's tracing."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def tracefs_mounted() -> bool:
    """Whether the host has tracefs mounted and we may read it."""
    return any(os.access(f"{place}/events/sched/sched_switch/id", os.R_OK) for place in _PLACES)


def perf_version(perf: str) -> tuple[int, int] | None:
    """(major, minor) of the perf tool; None when it does not run."""
    found = re.search(r"version (\d+)\.(\d+)", _version(perf))
    return (int(found[1]), int(found[2])) if found else None


def bpftrace_version(bpftrace: str) -> tuple[int, int] | None:
    """(major, minor) of bpftrace; None when it does not run."""
    found = re.search(r"v(\d+)\.(\d+)", _version(bpftrace))
    return (int(found[1]), int(found[2])) if found else None


@functools.lru_cache(maxsize=8)
def _version(program: str) -> str:
    try:
        run = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout


def why_no_perf() -> Missing | None:
    """Why perf may not trace the scheduler here; None when nothing speaks against it."""
    perf = shutil.which("perf")
    if perf is None:
        return Missing(
            "the perf tool is not installed",
            "Install it (Debian: linux-perf, Ubuntu: linux-tools-$(uname -r), Fedora: perf).",
        )
    common = _why_no_tracing()
    if common is not None:
        return common
    paranoid = read_int("/proc/sys/kernel/perf_event_paranoid")
    if not (has_capability(CAP_PERFMON) or has_capability(CAP_SYS_ADMIN) or (paranoid or 0) < 0):
        return Missing(
            f"perf may not trace the host (kernel.perf_event_paranoid is {paranoid}, no CAP_PERFMON)",
            "Run prismtop as root, or give it CAP_PERFMON.",
        )
    version = perf_version(perf)
    if version is None:
        return Missing("the perf tool does not run", "Install the one of this kernel's version.")
    if version < (5, 10):
        return Missing(f"perf {version[0]}.{version[1]} is older than 5.10", "Install a newer one.")
    return None


def why_no_bpftrace() -> Missing | None:
    """Why bpftrace may not be used here; None when nothing speaks against it."""
    bpftrace = shutil.which("bpftrace")
    if bpftrace is None:
        return Missing("bpftrace is not installed", "Install it (the package is called bpftrace).")
    common = _why_no_tracing()
    if common is not None:
        return common
    if os.geteuid() != 0 or not has_capability(CAP_SYS_ADMIN):
        return Missing("bpftrace needs root with CAP_SYS_ADMIN", "Run prismtop as root on the host.")
    if bpftrace_version(bpftrace) is None:
        return Missing("bpftrace does not run", "Try `bpftrace --version`.")
    return None


def _why_no_tracing() -> Missing | None:
    if not in_first_pid_namespace():
        return Missing(
            "prismtop is in a pid namespace of its own, where the kernel's thread ids mean nothing",
            "Run it on the host, or in a container with `--pid=host`.",
        )
    if tracefs_mounted():
        return None
    if "tracefs" not in (read_text("/proc/filesystems") or ""):
        return Missing("the kernel has no tracefs", "Use a kernel with CONFIG_FTRACE.")
    if not has_capability(CAP_SYS_ADMIN):
        return Missing(
            "tracefs is not mounted, or may not be read",
            "Run prismtop as root, or have root do `mount -t tracefs tracefs /sys/kernel/tracing`.",
        )
    return None
