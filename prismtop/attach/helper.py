"""The short-lived process that does the injection: `python -m prismtop.attach.helper`.

One JSON line on stdin a request, one JSON line on stdout its answer; the end of stdin is its own end. It
exists because a tracer must not be killed or delayed half-way: it has its own session (a Ctrl-C does not
reach it), blocks all signals, asks the OOM killer to spare it, and runs in front of other processes while it
holds a thread. The process that draws the screen never traces.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, NoReturn

from prismtop.attach import memory, pep768, ptrace_inject
from prismtop.attach.errors import AttachPermissionError, HelperError, InjectionError, TargetStateError
from prismtop.attach.handshake import Handshake, Seen, last_line, look
from prismtop.attach.placement import keep_off
from prismtop.attach.process import check_identity, read_status
from prismtop.attach.ptrace import overdue
from prismtop.attach.rehearsal import end_rehearsal, rehearse
from prismtop.attach.tracing import ptrace_blocked_here
from prismtop.errors import PrismtopError
from prismtop.own_priority import autogroup_nice, set_autogroup_nice

_SPARED = "-900"  # oom_score_adj; lowering it needs CAP_SYS_RESOURCE
_IN_FRONT = -20  # nice value
_WRITTEN_S = 0.02  # from the making of a file in the target to its text


def shield() -> None:
    """Make it unlikely that this process is ended or interrupted; whatever is not permitted is left out."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    gc.disable()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write(_SPARED)


@contextlib.contextmanager
def in_front() -> Iterator[None]:
    """Run in front of other processes, as long as a thread of the target is held.

    Not in a real-time class: the thread that is being traced must get the core that this process just left.
    At all other times it is an ordinary process and leaves the processor to the target.
    """
    nice, session = os.getpriority(os.PRIO_PROCESS, 0), autogroup_nice()
    try:
        # Only where it may come back from there (CAP_SYS_NICE).
        os.setpriority(os.PRIO_PROCESS, 0, min(nice, 0) - 1)
    except OSError:
        yield
        return
    _set_nice(_IN_FRONT, _IN_FRONT)
    try:
        yield
    finally:
        _set_nice(nice, session or 0)


def _set_nice(value: int, session: int) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, value)
    set_autogroup_nice(session)  # sched(7): between sessions, this one is what counts


def main() -> NoReturn:
    """Read requests, do them, answer each. The exit status is 0 when every answer was written."""
    with contextlib.suppress(OSError):
        os.setsid()
    shield()
    for line in sys.stdin:
        answer = _answer_to(json.loads(line))
        sys.stdout.write(json.dumps({**answer, "last": overdue()}) + "\n")
        sys.stdout.flush()
        if overdue():
            os._exit(0)
    with contextlib.suppress(OSError):
        end_rehearsal()
    os._exit(0)  # no finalisation: it would only take time from the target


def _answer_to(request: dict[str, Any]) -> dict[str, Any]:
    try:
        try:
            return {"ok": True, "result": _OPERATIONS[request["op"]](request)}
        except (PrismtopError, OSError):
            # A process that exits meanwhile looks like many things: no maps, no C library, no such file.
            if "start_time" in request:
                check_identity(int(request["pid"]), int(request["start_time"]))
            raise
    except PrismtopError as e:
        return {
            "ok": False,
            "error": type(e).__name__,
            "message": e.message,
            "exit_code": e.exit_code,
            "fix": e.fix,
        }


def _probe(request: dict[str, Any]) -> bool:
    return memory.may_read(int(request["pid"]), int(request["address"]))


def _inject(request: dict[str, Any]) -> dict[str, Any]:
    pid, start_time = int(request["pid"]), int(request["start_time"])
    handshake = Handshake(request["memfd"], request["error_memfd"])
    source, timeout_s, wake = str(request["source"]), float(request["timeout_s"]), bool(request["wake"])
    check_identity(pid, start_time)
    if request["way"] == "pep768":
        may_stop = os.uname().machine == "x86_64" and not ptrace_blocked_here()
        done = pep768.inject(
            pid,
            start_time,
            source,
            handshake,
            timeout_s=timeout_s,
            wake=wake,
            may_stop=may_stop,
            in_front=in_front,
        )
        return _answer(done.seen, pid=pid, thread=pid, thread_kind="main", pause_us=0.0,
                       main_pause_us=done.main_pause_us, script=done.script, notes=done.notes)  # fmt: skip
    if request["way"] == "gdb":
        from prismtop.attach import gdb  # here, because it brings in much that the others do not need

        mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())  # gdb inherits the mask and needs SIGCHLD
        try:
            result = gdb.inject(pid, start_time, source, handshake, timeout_s=timeout_s)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return _answer(result.seen, pid=pid, thread=pid, thread_kind="all", pause_us=result.pause_us,
                       main_pause_us=result.pause_us, scratch=result.scratch)  # fmt: skip
    cpus = frozenset(request["cpus"])
    keep_off(pid, cpus)
    rehearse()
    injector = ptrace_inject.PtraceInjector(pid, start_time, in_front=in_front, cpus=cpus)
    data = base64.b64decode(request.get("data", ""))
    own = injector.inject(source, handshake, data=data, timeout_s=timeout_s, wake=wake)
    if own.seen.error == "":  # seen between the making of the file and the writing of its text
        time.sleep(_WRITTEN_S)
        own = replace(own, seen=look(pid, handshake))
    fields = {k: v for k, v in asdict(own).items() if k != "seen"}
    if own.seen.begun:
        ptrace_inject.mark_read(pid, own.scratch)
    if own.seen.error_fd is not None:
        injector.close_descriptor(own.seen.error_fd)
        injector.unmap(own.scratch)
    elif own.seen.started and request["give_back"]:
        # It runs: that the room stays until the end of the attach is no reason to call it failed.
        with contextlib.suppress(TargetStateError, AttachPermissionError):
            fields["scratch"] = None if injector.unmap(own.scratch) else own.scratch
    return _answer(own.seen, pid=pid, **fields)


def _answer(seen: Seen, **fields: Any) -> dict[str, Any]:
    if seen.error is not None:
        raise InjectionError(
            f"What was run in process {fields['pid']} failed ({last_line(seen.error)}); the process goes on."
        )
    seccomp = read_status(int(fields["pid"])).seccomp == 2
    notes = list(fields.pop("notes", ()))
    if not seen.started and seccomp:
        notes.append("the target's seccomp filter may refuse the memfd that the probe needs")
    return {**fields, "started": seen.started, "notes": notes}


def _free(request: dict[str, Any]) -> bool:
    pid, start_time = int(request["pid"]), int(request["start_time"])
    address, size = (int(x) for x in request["scratch"])
    check_identity(pid, start_time)
    if not ptrace_inject.may_unmap(pid, (address, size)):
        return False
    cpus = frozenset(request["cpus"])
    keep_off(pid, cpus)
    rehearse()
    injector = ptrace_inject.PtraceInjector(pid, start_time, in_front=in_front, cpus=cpus)
    return injector.unmap((address, size))


def _withdraw(request: dict[str, Any]) -> bool:
    pid, start_time = int(request["pid"]), int(request["start_time"])
    if request["script"]:
        return pep768.withdraw(pid, start_time, str(request["script"]))
    check_identity(pid, start_time)
    return ptrace_inject.make_empty(pid, int(request["scratch"][0]))


_OPERATIONS = {"inject": _inject, "free": _free, "withdraw": _withdraw, "probe": _probe}

if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, HelperError) as failure:
        sys.stderr.write(f"{type(failure).__name__}: {failure}\n")
        sys.exit(1)
