"""A slow network for a target in a network namespace of its own: a token bucket on one of its devices.

The host's own namespace is never shaped: every connection of the machine would suffer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.errors import UnavailableError

_FASTEST_KBIT = 100_000
_SLOWEST_KBIT = 250
_HANDLE = "7072:"  # "pr": tells ours from others'


def check(pid: int | None) -> Availability:
    """Whether tc is here, and the target in a namespace of its own."""
    for tool in ("tc", "nsenter"):
        if shutil.which(tool) is None:
            return Availability(False, f"{tool} is not installed", "Install iproute2 and util-linux.")
    if os.geteuid() != 0:
        return Availability(False, "shaping needs CAP_NET_ADMIN", "Run it as root.", permission=True)
    if pid is not None and namespace(pid) == namespace(os.getpid()):
        return Availability(
            False,
            "the process shares the network of this machine, which is never shaped",
            "Start it in a namespace or container of its own.",
        )
    return AVAILABLE


def namespace(pid: int) -> str:
    """Name of a process's network namespace; empty when it cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def rate_kbit(level: float) -> int:
    """From 100 Mbit/s at 0 to 250 kbit/s at 1, evenly in powers."""
    share = min(1.0, max(0.0, level))
    return round(_FASTEST_KBIT * float((_SLOWEST_KBIT / _FASTEST_KBIT) ** share))


def steps(request: Request) -> tuple[str, ...]:
    """The command that is run."""
    return (
        f"in the network namespace of {request.pid}: tc qdisc add dev {_device(request.pid) or 'DEV'} root "
        f"tbf rate {rate_kbit(request.intensity)}kbit",
    )


def inject(request: Request, guard: Guard) -> Iterator[float]:
    """Shape; the guard removes it.

    Raises:
        UnavailableError: the device has a queueing discipline that somebody chose, or tc refuses.
    """
    device = _device(request.pid)
    shown = _tc(request.pid, "show", "dev", device)
    if " root " not in f" {shown} " or not any(word in shown for word in ("noqueue", " 0: ")):
        raise UnavailableError(f"{device} has a queueing discipline already: {shown.strip()[:80]}.")
    guard.record(
        "qdisc", pid=request.pid, namespace=namespace(request.pid), device=device, qdisc="tbf", handle=_HANDLE
    )
    rate = rate_kbit(request.level(0.0))
    limits = ("burst", "16kb", "latency", "400ms")
    _tc(request.pid, "add", "dev", device, "root", "handle", _HANDLE, "tbf", "rate", f"{rate}kbit", *limits)
    elapsed = 0.0
    while True:
        yield 0.2
        elapsed += 0.2
        now = rate_kbit(request.level(elapsed))
        if now != rate:
            rate = now
            _tc(
                request.pid,
                "change",
                "dev",
                device,
                "root",
                "handle",
                _HANDLE,
                "tbf",
                "rate",
                f"{rate}kbit",
                *limits,
            )


def _device(pid: int) -> str:
    """The device with the default route, else the loopback device."""
    try:
        with open(f"/proc/{pid}/net/route", encoding="ascii") as file:
            rows = [line.split() for line in file.read().splitlines()[1:]]
    except OSError:
        return "lo"
    return next((row[0] for row in rows if len(row) > 1 and row[1] == "00000000"), "lo")


def _tc(pid: int, *words: str) -> str:
    argv = ["nsenter", "-t", str(pid), "-n", "tc", "qdisc", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=5)
    if done.returncode:
        raise UnavailableError(f"tc refused: {done.stderr.strip()[:200]}.")
    return done.stdout
