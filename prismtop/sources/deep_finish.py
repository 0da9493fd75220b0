"""Ends the window of a deep capture from outside, in an engine that has become idle: no batch will come to
end it there.

PyTorch's profiler must be stopped on the thread that started it. Code can be brought to run on the main
thread only (a pending call), so this is for engines whose main thread runs the model. With every other the
window stays open until the next batch, which ends it.
"""

from __future__ import annotations

import secrets

from prismtop.attach.handshake import Handshake
from prismtop.attach.ladder import free_scratch, inject, withdraw
from prismtop.attach.payload import safe_template
from prismtop.attach.process import thread_syscall
from prismtop.attach.ptrace_inject import mark_read
from prismtop.errors import PrismtopError
from prismtop.sources.payload import finish_body
from prismtop.sources.probe_link import ProbeLink

TIMEOUT_S = 0.3
_FUTEX = 202
"""System call on x86-64."""


def finish_idle(link: ProbeLink, thread: int) -> bool:
    """Have the model thread end the window that is over. In any thread; takes some tenths of a second.

    A batch that runs after all is not disturbed: the code looks at the stack that it interrupts, and does
    nothing inside of one.

    Args:
        thread: native id of the model thread, as the process itself sees it.

    Returns:
        Whether it ran; what it came to shows in the capture's status.
    """
    target = link.target
    if thread not in (target.ns_pid or link.pid, link.pid) or not _would_run(link.pid):
        return False
    ring, nonce = link.ring, secrets.token_hex(8)
    if ring is None:
        return False
    called = ring.guest_called
    try:
        done = inject(
            link.pid,
            target.id.start_time,
            safe_template(finish_body(link.nonce), nonce),
            started=Handshake.of(nonce),
            timeout_s=TIMEOUT_S,
        )
        # What is so short has often ended before its handshake was looked for.
        if not done.started and ring.guest_called == called:
            withdraw(target.id.start_time, done)
            return False
        if done.scratch is not None:
            mark_read(link.pid, done.scratch)
            free_scratch(link.pid, target.id.start_time, done.scratch)
    except (PrismtopError, ValueError):  # the latter: the session has closed the ring
        return False
    return True


def _would_run(pid: int) -> bool:
    """Whether the main thread would run a pending call soon: it runs, or it waits for a lock, which can be
    ended. Out of another wait nothing brings it, and the queued call would stay behind.
    """
    waits = thread_syscall(pid, pid)
    return waits is None or waits[0] == _FUTEX
