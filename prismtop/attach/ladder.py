"""Choose a way in and take it, through the helper process."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from prismtop.attach.errors import AttachError, InjectionError
from prismtop.attach.handshake import Handshake, last_line, look
from prismtop.attach.helper_process import Helper, Meanwhile, nothing
from prismtop.attach.payload import TEMPLATE_HEAD
from prismtop.attach.preflight import WayIn, preflight
from prismtop.attach.process import check_identity
from prismtop.attach.ptrace_inject import mark_read
from prismtop.attach.script_file import ScriptFile

__all__ = ["Handshake", "Injection", "confirm_started", "free_scratch", "inject", "withdraw"]


@dataclass(frozen=True)
class Injection:
    """What was done to a process, and what it cost it.

    Attributes:
        thread: id of the thread that was used; thread_kind `aux-sleeping`, `main`, or `all` (gdb).
        pause_us: how long that thread was stopped, in microseconds (an upper bound); 0 for PEP 768.
        main_pause_us: how long the main thread was stopped, nudges and wakes included.
        total_us: from the call to the answer, all processes included.
        nudged: the main thread had to be made to look at its pending calls (CPython 3.9 to 3.12).
        started: the handshake was seen.
        armed: queued; the payload runs at the next request.
        scratch: (address, bytes) of the mapping that holds the source, for `free_scratch`; None for PEP 768.
        notes: what else a user may want to know, one sentence each.
        script: a PEP 768 script that has not run yet; it removes itself when it does.
    """

    pid: int
    way: WayIn
    thread: int
    thread_kind: str
    pause_us: float
    main_pause_us: float
    total_us: float
    nudged: bool
    started: bool
    armed: bool
    scratch: tuple[int, int] | None
    notes: tuple[str, ...]
    script: ScriptFile | None = None


@dataclass(frozen=True)
class Direct:
    """A template from `payload.direct_template`, and the bytes that it is made for."""

    template: str
    data: bytes


def inject(
    pid: int,
    start_time: int,
    source: str,
    *,
    started: Handshake,
    direct: Direct | None = None,
    allow_gdb: bool = False,
    timeout_s: float = 3.0,
    wake: bool = True,
    force_way: WayIn | None = None,
    give_back: bool = False,
    helper: Helper | None = None,
    meanwhile: Meanwhile = nothing,
) -> Injection:
    """Run `source` once in the main thread of a process.

    Args:
        start_time: clock ticks since boot (field 22 of /proc/PID/stat): a pid alone is no identity.
        source: text from `payload.safe_template`, so that it cannot raise.
        started: what to look for as the sign that it runs.
        direct: the same in a form that is quicker for the target, where the way in can place bytes in it.
        allow_gdb: whether gdb may be used, which stops all threads for 0.2 to 4 s.
        timeout_s: how long to wait for that sign, in seconds; when it passes, the result is `armed`.
        wake: whether the wait of an idle main thread may be ended early (as by a signal without handler).
        force_way: take this way or none.
        give_back: unmap the scratch mapping as soon as the payload has started (ptrace; one more stop of a
            thread), so that nothing is left when this process is killed later.
        helper: the process that does it; None starts one for this injection.
        meanwhile: called several times a second while it is waited for.

    Raises:
        AttachError: one sentence with the cause and the fix; the target is as it was.
        ValueError: `source` is not from `safe_template`.
    """
    if not source.startswith(TEMPLATE_HEAD):
        raise ValueError("the source of an injection must come from payload.safe_template")
    began = time.perf_counter_ns()
    with _pinned(pid, start_time):
        way = _choose(pid, allow_gdb, force_way)
        result = _ask(
            helper,
            {
                "op": "inject",
                "pid": pid,
                "start_time": start_time,
                **_form(source, direct if way is WayIn.PTRACE else None),
                "way": way.value,
                "memfd": started.memfd,
                "error_memfd": started.error_memfd,
                "timeout_s": timeout_s,
                "wake": wake,
                "give_back": give_back,
            },
            timeout_s,
            meanwhile,
        )
    scratch = result.get("scratch")
    return Injection(
        pid=pid,
        way=way,
        thread=int(result["thread"]),
        thread_kind=str(result["thread_kind"]),
        pause_us=float(result["pause_us"]),
        main_pause_us=float(result["main_pause_us"]),
        total_us=(time.perf_counter_ns() - began) / 1e3,
        nudged=bool(result.get("nudged", False)),
        started=bool(result["started"]),
        armed=not result["started"],
        scratch=(int(scratch[0]), int(scratch[1])) if scratch else None,
        notes=tuple(str(n) for n in result["notes"]),
        script=None if result["started"] else _waiting(pid, result.get("script")),
    )


def _waiting(pid: int, path: str | None) -> ScriptFile | None:
    if path is not None:
        with contextlib.suppress(OSError):
            return ScriptFile.of(pid, path)
    return None


def _form(source: str, direct: Direct | None) -> dict[str, str]:
    if direct is None:
        return {"source": source, "data": ""}
    return {"source": direct.template, "data": base64.b64encode(direct.data).decode()}


def free_scratch(pid: int, start_time: int, scratch: tuple[int, int]) -> bool:
    """Give the mapping that held the source back to the target (one more stop of a thread).

    Only when the payload is known to have started, by `inject` or by `confirm_started`: its source has then
    been read (PyRun_SimpleString copies it before it parses, `translate_newlines` in Parser/tokenizer). An
    armed payload still needs it. False, and no harm, when it cannot be done.
    """
    request = {
        "op": "free",
        "pid": pid,
        "start_time": start_time,
        "scratch": list(scratch),
    }
    try:
        return bool(_ask(None, request, 0.0))
    except AttachError:
        return False


def confirm_started(start_time: int, injection: Injection, started: Handshake) -> Injection:
    """Look once whether an armed payload has started meanwhile; stops nothing.

    Returns:
        The injection with `started` and `armed` as they are now.

    Raises:
        InjectionError: it started and failed.
        TargetExitedError: the process is gone.
    """
    check_identity(injection.pid, start_time)
    seen = look(injection.pid, started)
    if seen.error is not None:
        raise InjectionError(
            f"What was run in process {injection.pid} failed ({last_line(seen.error)}); the process goes on."
        )
    if not seen.started or injection.started:
        return injection
    if injection.scratch is not None:
        mark_read(injection.pid, injection.scratch)
    if injection.script is not None:
        injection.script.remove()
    return replace(injection, started=True, armed=False, script=None)


def withdraw(start_time: int, injection: Injection) -> bool:
    """Take back an armed injection, so that nothing runs at the next request; True when it was taken back.

    A scratch mapping stays, empty, because the queued call still points to it. Of a process that has ended
    meanwhile its script is removed.
    """
    if not injection.armed:
        return False
    request = {
        "op": "withdraw",
        "pid": injection.pid,
        "start_time": start_time,
        "scratch": list(injection.scratch or ()),
        "script": injection.script.path if injection.script is not None else None,
    }
    try:
        check_identity(injection.pid, start_time)
        return bool(_ask(None, request, 0.0))
    except AttachError:
        return False
    finally:
        if injection.script is not None:
            injection.script.remove()


def helper_may_attach(pid: int, address: int) -> bool:
    """Whether the helper process, which is nobody's parent, may read `pid` (matters under Yama)."""
    try:
        return bool(_ask(None, {"op": "probe", "pid": pid, "address": address}, 0.0))
    except AttachError:
        return False


@contextlib.contextmanager
def _pinned(pid: int, start_time: int) -> Iterator[None]:
    """Hold the process by a pidfd while its identity is checked and used (pidfd_open(2), Linux 5.3)."""
    fd = -1
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
    try:
        check_identity(pid, start_time)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _choose(pid: int, allow_gdb: bool, force_way: WayIn | None) -> WayIn:
    found = preflight(pid, allow_gdb=allow_gdb or force_way is WayIn.GDB)
    if force_way is not None:
        rung = next(r for r in found.rungs if r.way is force_way)
        if not rung.usable or force_way is WayIn.EXTERNAL:
            raise found.refusal() or AttachError(rung.reason or "Nothing is injected from outside.")
        return force_way
    error = found.refusal()
    if error is not None:
        raise error
    return found.best


def _ask(
    helper: Helper | None, request: dict[str, Any], timeout_s: float, meanwhile: Meanwhile = nothing
) -> Any:
    """The result of one request, by a helper of its own where none is given; errors as of `Helper.ask`."""
    with contextlib.ExitStack() as ended:
        return (helper or ended.enter_context(Helper())).ask(request, timeout_s, meanwhile)
