"""From a batch to what the predictor works with: physical quantities that mean the same in every engine."""

from __future__ import annotations

from typing import NamedTuple

from prismtop.model import Batch, Mode, Origin, Workload

MAX_DURATION_NS = 3_600 * 10**9
MAX_SIZE = 65_536
MAX_TOKENS = 16_777_216
MAX_CONTEXT = 2**33

DECODE_FEATURES = ("batch size", "padded batch size", "KV read")
MIXED_FEATURES = ("prefill tokens", "prefill attention", "new requests", "cached tokens", *DECODE_FEATURES)


class Features(NamedTuple):
    """One batch's work.

    Attributes:
        regime: what is modelled apart; batches of one regime share a model and a detector.
        size: requests that decode (requests of the batch where it carries no prefill); None when unknown.
        context: tokens whose keys and values are read; None when unknown.
        prefill: prompt tokens computed; None when the batch carries some but not how many is known.
        attention: prefill tokens times the tokens that they attend to, the quadratic part of prefill.
        new: requests new in this batch.
        cached: prompt tokens served from the prefix cache.
        carries_prefill: whether the regime is one of mixed and prefill batches.
    """

    regime: str
    size: int | None
    context: int | None
    prefill: int | None = 0
    attention: float = 0.0
    new: int = 0
    cached: int = 0
    carries_prefill: bool = False


class Unusable(NamedTuple):
    """Why a batch cannot be judged; empty for one that had nothing to do (a no-op is not worth a word)."""

    reason: str


def features_of(batch: Batch) -> Features | Unusable:
    """The batch's features, or why it has none. A value that the engine does not expose is not made up.

    A batch without what its mode's model needs gets a regime of its own (`decode without context`), so that
    a model never sees a feature that is sometimes there.
    """
    if batch.origin is Origin.SAMPLED:
        return Unusable("sampled batches are means of many and are not judged")
    work = batch.workload
    mode = batch.mode
    if mode is Mode.IDLE or work.tokens == 0:
        return Unusable("")
    size, context, prefill, decode = (
        work.batch_size,
        work.context_tokens,
        work.prefill_tokens,
        work.decode_tokens,
    )
    if (
        (size is not None and not 0 <= size <= MAX_SIZE)
        or (context is not None and not 0 <= context <= MAX_CONTEXT)
        or (prefill is not None and not 0 <= prefill <= MAX_TOKENS)
        or (decode is not None and not 0 <= decode <= MAX_TOKENS)
    ):
        return Unusable("token counts that no engine can have")
    if mode is Mode.MIXED or mode is Mode.PREFILL or (mode is Mode.UNKNOWN and prefill):
        return _with_prefill(work, size, context, prefill, decode)
    if mode is Mode.UNKNOWN:
        regime = "any"
    elif size and decode is not None and decode > size * 1.05:
        regime = "speculative"
    else:
        regime = "decode"
    if size is None:
        regime, context = regime + " without batch size", None
    elif context is None:
        regime += " without context"
    return Features(regime, size, context)


def _with_prefill(
    work: Workload, size: int | None, context: int | None, prefill: int | None, decode: int | None
) -> Features | Unusable:
    new = work.new_requests or 0
    cached = work.cached_tokens or 0
    if not (0 <= new <= MAX_SIZE and 0 <= cached <= MAX_CONTEXT):
        return Unusable("token counts that no engine can have")
    regime = "mixed"
    attention = 0.0
    if prefill is None:
        regime += " without tokens"
    else:
        # A prompt attends to itself: half of tokens squared; where its context is longer, to all of that.
        longest = min(work.max_context, MAX_CONTEXT) if work.max_context else prefill / max(new, 1)
        attention = float(prefill) * longest
    if context is None:
        regime += " without context"
    decoding = decode if decode is not None else max(0, (size or 0) - new)
    return Features(regime, decoding, context, prefill, attention, new, cached, True)


def missing_features(features: Features) -> tuple[str, ...]:
    """Names of what the engine does not expose for batches of this regime."""
    missing = []
    if features.size is None:
        missing.append("batch size")
    if features.context is None:
        missing.append("KV read")
    if features.prefill is None:
        missing.append("prefill tokens")
    return tuple(missing)
