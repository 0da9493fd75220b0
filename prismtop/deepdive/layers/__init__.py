"""The layers that are collected from outside a target: nothing of them runs in it.

| layer | how |
|---|---|
| `scheduler` | every switch by perf or bpftrace, else schedstat at 50 Hz; waits for the GIL at 50 Hz |
| `stacks` | nonblocking py-spy at 20 Hz, where nothing inside the process shows its Python functions |
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
    """
    from prismtop.deepdive.layers.scheduler import SchedulerCollector

    return [SchedulerCollector(pids, hot, request.max_s)]
