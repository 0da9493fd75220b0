"""What can be read off a batch by name: columns, sorting and filters all use these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prismtop.model import STAGES, Batch, Mode, Verdict

Value = float | str | bool | None


@dataclass(frozen=True)
class Field:
    """One named value of a batch.

    Attributes:
        name: as the column is titled and as a filter writes it.
        value: number, word or truth; None where the batch does not have it.
        meaning: with its unit, for the help page.
        words: the only texts it can be; empty for numbers.
    """

    name: str
    value: Callable[[Batch], Value]
    meaning: str
    words: tuple[str, ...] = ()


def judged_ns(batch: Batch) -> int | None:
    """What the prediction is about: the batch's duration, or its period under overlapped scheduling."""
    if batch.prediction is not None and batch.prediction.basis == "period":
        return batch.period_ns
    return batch.duration_ns


def is_slow(batch: Batch) -> bool:
    """Whether the batch took longer than its workload should have cost."""
    return batch.prediction is not None and batch.prediction.verdict is Verdict.SLOW


def over_pct(batch: Batch) -> float | None:
    """Percent above (negative: below) the prediction; None without one."""
    judged = judged_ns(batch)
    if batch.prediction is None or judged is None or batch.prediction.expected_ns <= 0:
        return None
    return (judged / batch.prediction.expected_ns - 1) * 100


def rank_skew_ns(batch: Batch) -> int | None:
    """Slowest minus fastest rank before the collective; None without at least two ranks."""
    if len(batch.ranks) < 2:
        return None
    times = [rank.pre_collective_ns for rank in batch.ranks]
    return max(times) - min(times)


def _ms(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _stage(name: str) -> Callable[[Batch], Value]:
    def value(batch: Batch) -> Value:
        return _ms(batch.stage_ns().get(name))

    return value


MODE_WORDS = tuple(mode.value for mode in Mode)
ORIGIN_WORDS = ("exact", "sampled", "trace")

FIELDS: tuple[Field, ...] = (
    Field("seq", lambda b: b.seq, "number of the batch"),
    Field("rank", lambda b: b.rank, "tensor-parallel rank of the process that ran it"),
    Field("pid", lambda b: b.pid, "process that ran it"),
    Field("mode", lambda b: b.mode.value, "decode, prefill, mixed, idle or unknown", MODE_WORDS),
    Field("bs", lambda b: b.workload.batch_size, "batch size: requests in the batch"),
    Field("tok", lambda b: b.workload.tokens, "tokens computed: prefill and decode"),
    Field("pre", lambda b: b.workload.prefill_tokens, "prefill tokens of those"),
    Field("dec", lambda b: b.workload.decode_tokens, "decode tokens of those"),
    Field("cach", lambda b: b.workload.cached_tokens, "prompt tokens from the prefix cache"),
    Field("ctx", lambda b: b.workload.context_tokens, "context tokens read, all requests"),
    Field("maxctx", lambda b: b.workload.max_context, "longest context of a request"),
    Field("run", lambda b: b.workload.running, "requests running"),
    Field("wait", lambda b: b.workload.waiting, "requests waiting in the queue"),
    Field("kv", lambda b: None if b.workload.kv_usage is None else b.workload.kv_usage * 100,
          "KV cache in use, percent"),
    Field("new", lambda b: b.workload.new_requests, "requests scheduled for the first time"),
    Field("pree", lambda b: b.workload.preempted, "requests preempted by this schedule"),
    Field("skew", lambda b: _ms(rank_skew_ns(b)), "ms between slowest and fastest rank"),
    Field("period", lambda b: _ms(b.period_ns), "ms from the previous batch's end to this one's"),
    Field("idle", lambda b: _ms(b.idle_ns), "ms without work before it"),
    Field("expect", lambda b: _ms(b.prediction.expected_ns) if b.prediction else None,
          "ms that this workload should cost, and half the interval around it; p: of the period"),
    Field("over", over_pct, "percent above the expectation"),
    Field("ms", lambda b: b.duration_ns / 1e6, "duration of the batch in ms"),
    Field("slow", is_slow, "true: slower than its workload explains"),
    Field("suspect", lambda b: bool(b.suspect), "true: the record is not fully trusted"),
    Field("origin", lambda b: b.origin.value, "exact, sampled or trace", ORIGIN_WORDS),
    *(Field(f"{name}_ms", _stage(name), f"ms in the stage {name}") for name in STAGES),
)  # fmt: skip

BY_NAME = {field.name: field for field in FIELDS}
ALIASES = {
    "dur": "ms", "duration": "ms", "batch_size": "bs", "tokens": "tok", "prefill_tokens": "pre",
    "decode_tokens": "dec", "cached": "cach", "context": "ctx", "max_context": "maxctx", "running": "run",
    "waiting": "wait", "queue": "wait", "preempted": "pree", "expected": "expect", "exp": "expect",
}  # fmt: skip
"""Other names of fields in filters."""


def field_named(name: str) -> Field | None:
    """A field by its name or an alias."""
    return BY_NAME.get(ALIASES.get(name, name))
