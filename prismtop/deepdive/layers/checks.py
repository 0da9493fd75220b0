"""What a deep capture could collect from outside on this machine, for `prismtop doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from prismtop.deepdive.layers.polling import RATE_HZ
from prismtop.deepdive.layers.tracing import why_no_bpftrace, why_no_perf
from prismtop.sources.stacks import find_py_spy
from prismtop.targets.doctor import NONE, OK, PARTIAL, Check


def layer_checks() -> Iterator[Check]:
    """A check for each layer: `deepdive.scheduler`, `deepdive.stacks`, `deepdive.uprobes`."""
    no_perf, no_bpftrace = why_no_perf(), why_no_bpftrace()
    if no_perf is None or no_bpftrace is None:
        yield Check("deepdive.scheduler", OK, f"every switch, by {'bpftrace' if no_perf else 'perf'}")
    else:
        why = "; ".join(dict.fromkeys((no_perf.reason, no_bpftrace.reason)))
        reason = f"sampled at {RATE_HZ} Hz from schedstat: {why}"
        yield Check("deepdive.scheduler", PARTIAL, reason, no_perf.fix)
    if find_py_spy() is None:
        yield Check("deepdive.stacks", NONE, "py-spy is not installed", "`pip install py-spy`")
    else:
        yield Check("deepdive.stacks", OK, "py-spy, where the process cannot be entered")
    if no_bpftrace is None:
        yield Check("deepdive.uprobes", OK, "bpftrace, when asked for with --uprobes")
    else:
        yield Check("deepdive.uprobes", NONE, no_bpftrace.reason, no_bpftrace.fix)
