"""What a hooked call costs in this process."""

from __future__ import annotations

import itertools
import time
from typing import Any

from prismtop.probe.hook import Hook
from prismtop.probe.layout import *

SAMPLES = 15


def calibrate(ag: Any) -> Any:
    """Cost of one hooked call, in ns: a wrapper around a function that does nothing, 64 calls, whose
    records are thrown away."""
    spec = {"fid": DUMMY, "names": [], "kind": "function", "values": 0}
    hook = Hook(ag, spec)
    hook.positions = {}
    hook.ring = bytearray(HEADER_BYTES + 64 * RECORD.size), itertools.count(1).__next__, 63 * RECORD.size

    def nothing() -> Any:
        return None

    def run(f: Any) -> Any:
        t = time.monotonic_ns()
        for _ in repeat:
            f()
        return time.monotonic_ns() - t

    repeat = range(64)
    run(nothing)
    bare = min(run(nothing), run(nothing))
    if ag.mon is not None:
        hook.by_monitoring(None, nothing, nothing.__code__)
        hook.mechanism = "monitoring"
        wrapped = nothing
    else:
        wrapped = hook.make(nothing)
    full = min(run(wrapped), run(wrapped))
    ag.odd.append(1)
    for _ in range(SAMPLES):
        wrapped()
    ag.odd.clear()
    hook.remove()
    return max(full - bare, len(repeat)) // len(repeat)
