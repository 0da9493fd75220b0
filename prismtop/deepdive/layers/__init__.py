"""The layers that are collected from outside a target: nothing of them runs in it.

| layer | how |
|---|---|
| `scheduler` | every switch by perf or bpftrace, else schedstat at 50 Hz; waits for the GIL at 50 Hz |
| `stacks` | nonblocking py-spy at 20 Hz, where prismtop is not inside the process |
| `uprobes` | `ncclAllReduce`, `cudaGraphLaunch`, `cuStreamSynchronize` by bpftrace, when asked |

Counters need no collector: `Session.fast_counters` has the sampler of every reading at 10 to 20 Hz for as
long as the window lasts, and the merge takes them from the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prismtop.deepdive.layer import Collector
    from prismtop.model import CaptureRequest


def collectors(pids: Sequence[int], hot: Mapping[int, int], request: CaptureRequest) -> list[Collector]:
    """One collector for each layer (and process) that is collected from outside.

    Args:
        pids: the captured processes.
        hot: native id of the model thread, by pid, where it is known.
        request: what was asked.

    A collector with an attribute `running` begins some tenths of a second after `start`, when its tool has: a
    window that shall be covered wholly begins once that is True. All end by themselves some seconds after
    `request.max_s`.
    """
    from prismtop.deepdive.layers.scheduler import SchedulerCollector
    from prismtop.deepdive.layers.stacks import StacksCollector
    from prismtop.deepdive.layers.uprobes import UprobesCollector
    from prismtop.sources.ring import find_ring

    made: list[Collector] = [SchedulerCollector(pids, hot, request.max_s)]
    if request.python != "off":
        for pid in pids:
            # py-spy takes a tenth of a core for a process with forty threads.
            inside = find_ring(pid) is not None
            why_not = "not needed: the probe in the process sees more, and costs less" if inside else ""
            made.append(StacksCollector(pid, request.max_s, why_not))
    if request.uprobes:
        made.append(UprobesCollector(pids, request.max_s))
    return made
