"""What the probe does at the end of a batch beyond its record."""

from __future__ import annotations

import time
from typing import Any

from prismtop.probe.calibration import SAMPLES
from prismtop.probe.layout import *

SAMPLE = 61  # one in so many batches is measured, every hook of it: a prime, so that nothing falls into step
SAMPLE_EARLY = 7  # the same for the first figures
PATIENCE = 32  # more batches than any engine opens before it ends the first of them


def lookers(ag: Any) -> Any:
    """(look, stand_in): mailbox and lease, and whether the next batch is measured, at the end of a batch; and
    the same where a batch opens, once no end has come for so many of them: its hook did not resolve, or the
    engine does not come by it. Closures: attributes of the agent are far apart."""
    q, odd, spent, clock, lease = ag.q, ag.odd, ag.spent, time.monotonic_ns, ag.lease
    left, early, opened = SAMPLE_EARLY, 2 * SAMPLES, 0

    def look(now: Any) -> Any:
        nonlocal left, early, opened
        opened = 0
        t = clock() if odd else 0
        if q[W_COMMAND] != ag.done or now - q[W_HEARTBEAT] > lease:
            ag.service(now)
        left -= 1
        if t and ag.state == RUNNING and ag.built:
            odd.clear()
            early -= 1
            left = SAMPLE_EARLY if early > 0 else SAMPLE
            spent(BOUNDARY, clock() - t)
        elif left <= 0 and not odd and ag.built:
            odd.append(1)

    def stand_in(now: Any) -> Any:
        nonlocal opened
        opened += 1
        if opened > PATIENCE:
            look(now)
            opened = PATIENCE

    return look, stand_in
