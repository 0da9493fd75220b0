"""Faults inside the target's interpreter: a thread of ours, sent by the same way in as the probe.

What it does there is in `target_code`. It looks every 20 ms whether the injector lives, and ends by itself
where it does not; the rollback asks it to end and waits until it has.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from prismtop.anomaly.faults.target_code import HEAP, LONGEST_DELAY_S, STEP_S
from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, TTL_GRACE_S, Availability, Inject, Request
from prismtop.errors import EXIT_PERMISSION, PrismtopError, UnavailableError
from prismtop.targets.procfs import read_stat

_SOURCE = Path(__file__).with_name("target_code.py")
_ENDS = f"the thread ends by itself {1000 * STEP_S:.0f} ms after the injector is gone"


def check(pid: int | None) -> Availability:
    """Whether code can be sent into the target, and would see there that the injector has died."""
    if pid is None:
        return AVAILABLE
    from prismtop.attach.preflight import preflight

    try:
        if os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid"):
            return Availability(False, "it is in another PID namespace: it would not see the injector die")
        refusal: PrismtopError | None = preflight(pid).refusal()
    except PrismtopError as error:
        refusal = error
    except OSError as error:
        return Availability(False, f"its namespace cannot be read: {error.strerror}", permission=True)
    if refusal is None:
        return AVAILABLE
    permission = refusal.exit_code == EXIT_PERMISSION
    return Availability(False, refusal.message.rstrip("."), refusal.fix, permission=permission)


def collections_steps(request: Request) -> tuple[str, ...]:
    """Garbage collections."""
    return (
        f"start a thread in process {request.pid} that makes {HEAP:,} lists and collects garbage for "
        f"{100 * request.intensity:.0f} % of the time",
        _ENDS,
    )


def hog_steps(request: Request) -> tuple[str, ...]:
    """The interpreter lock."""
    return (
        f"start a thread in process {request.pid} that runs a Python loop for "
        f"{100 * request.intensity:.0f} % of the time",
        _ENDS,
    )


def tokenizer_steps(request: Request) -> tuple[str, ...]:
    """Wrapped methods."""
    return (
        f"wrap the methods with which process {request.pid} tokenises: each call runs Python for "
        f"{1000 * LONGEST_DELAY_S * request.intensity:.0f} ms first",
        f"put the methods back; {_ENDS}",
    )


def fault(name: str) -> Inject:
    """The `inject` of one of `target_code.FAULTS`."""

    def inject(request: Request, guard: Guard) -> Iterator[float]:
        yield from _inject(name, request, guard)

    return inject


def _inject(name: str, request: Request, guard: Guard) -> Iterator[float]:
    from prismtop.attach.handshake import Handshake, look
    from prismtop.attach.ladder import confirm_started, inject, withdraw
    from prismtop.attach.payload import safe_template

    # Of this experiment: the injector of a campaign lives on after it, its watchdog does not.
    keepers = [(pid, stat.start_time) for pid in (os.getpid(), guard.watchdog) if (stat := read_stat(pid))]
    if len(keepers) < 2:
        raise UnavailableError("the watchdog of this experiment ended.")
    nonce = secrets.token_hex(8)
    signs = Handshake.of(nonce)
    order = {
        "fault": name,
        "memfd": signs.memfd,
        "intensity": request.intensity,
        "ramp_s": request.ramp_s,
        "duration_s": request.duration_s + TTL_GRACE_S,
        "keepers": keepers,
    }
    source = safe_template(_SOURCE.read_text(encoding="utf-8"), nonce, json.dumps(order))
    guard.record("in_target", pid=request.pid, start=request.start_time, memfd=signs.memfd)
    made = inject(request.pid, request.start_time, source, started=signs, give_back=True)
    if made.armed:
        made = confirm_started(request.start_time, made, signs)
    if made.armed:
        withdraw(request.start_time, made)
        raise UnavailableError(f"process {request.pid} did not run what was sent to it in time.")
    while True:
        yield 0.2
        if not look(request.pid, signs).started:
            raise UnavailableError("the thread in the target ended before its time.")
