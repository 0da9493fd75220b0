"""What the scheduler tells the model runner, and what the model runner answers.

The fields follow ``vllm/v1/core/sched/output.py`` and ``vllm/v1/outputs.py``: full data goes out once per
request, after that only what changed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NewRequestData:
    """A request that the model runner has not seen before."""

    request_id: str
    prompt_token_ids: list[int]
    block_ids: list[int]
    num_computed_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class CachedRequestData:
    """A request that the model runner knows; after a preemption (``resumed``) the blocks are all it has."""

    request_id: str
    resumed: bool
    new_block_ids: list[int]
    num_computed_tokens: int
    num_output_tokens: int


@dataclass(frozen=True)
class SchedulerOutput:
    """The work of one engine step.

    ``num_prefill_tokens`` counts tokens of requests that are computing their prompt, or recomputing after a
    preemption; ``num_decode_tokens`` counts one per request that only extends itself. They add up to
    ``total_num_scheduled_tokens``. ``num_context_tokens`` sums, over the scheduled requests, the tokens
    held in the KV cache when the step ends, ``max_context_tokens`` is the largest of them.
    """

    scheduled_new_reqs: list[NewRequestData]
    scheduled_cached_reqs: list[CachedRequestData]
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    num_prefill_tokens: int
    num_decode_tokens: int
    num_context_tokens: int
    max_context_tokens: int
    preempted_req_ids: set[str]
    finished_req_ids: set[str]


@dataclass(frozen=True)
class ModelRunnerOutput:
    """Sampled tokens by request; a request in the middle of its prefill has none."""

    sampled_token_ids: dict[str, int]
