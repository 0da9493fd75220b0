"""From the values that hooks read to a batch's `Workload` and forward mode."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prismtop.model import Mode, Workload
from prismtop.model.batch import new_workload
from prismtop.probe import agent
from prismtop.sources.hook_code import FRACTION

_NOTHING: frozenset[str] = frozenset()


def work_of(
    values: Mapping[str, int], capped: Collection[str], modes: Mapping[int, str]
) -> tuple[Workload, Mode]:
    """What the batch had to do; what no hook read is None.

    Args:
        values: value name -> number, as in the ring.
        capped: values for which the probe looked at `agent.CAP` items only. They are named in
            `Workload.sampled`; in a batch that is larger than that, sums over its requests are scaled to it.
        modes: the engine's mode names, as `tag` makes them -> prefill, decode, mixed, idle.
    """
    get = values.get
    size = get("batch_size")
    sampled = set(capped)
    if capped and size is not None and size > agent.CAP:
        get = {**values, **{name: values[name] * size // agent.CAP for name in capped if name in values}}.get
    tokens, prefill, decode = get("tokens"), get("prefill_tokens"), get("decode_tokens")
    if tokens is not None and prefill is not None and decode is None:
        prefill = min(prefill, tokens)
        decode = tokens - prefill
        sampled |= {"decode_tokens"} if "prefill_tokens" in capped else set()
    elif tokens is not None and decode is not None and prefill is None:
        decode = min(decode, tokens)
        prefill = tokens - decode
        sampled |= {"prefill_tokens"} if "decode_tokens" in capped else set()
    usage = values.get("kv_usage")
    workload = new_workload(
        batch_size=size,
        prefill_tokens=prefill,
        decode_tokens=decode,
        context_tokens=get("context_tokens"),
        max_context=values.get("max_context"),
        cached_tokens=get("cached_tokens"),
        new_requests=get("new_requests"),
        running=values.get("running"),
        waiting=values.get("waiting"),
        kv_usage=None if usage is None else usage / FRACTION,
        preempted=values.get("preempted"),
        sampled=frozenset(sampled) if sampled else _NOTHING,
    )
    return workload, _mode(modes.get(values.get("mode", agent.MISSING)), prefill, decode)


def _mode(named: str | None, prefill: int | None, decode: int | None) -> Mode:
    if named is not None:
        return Mode(named)
    if prefill is None and decode is None:
        return Mode.UNKNOWN
    if prefill and decode:
        return Mode.MIXED
    if prefill:
        return Mode.PREFILL
    if decode:
        return Mode.DECODE
    return Mode.IDLE if prefill == 0 and decode == 0 else Mode.UNKNOWN


def tag(text: str) -> int:
    """A short engine string as it travels in a record: its first eight ASCII bytes."""
    return int.from_bytes(text[:8].encode("ascii", "replace"), "little")
