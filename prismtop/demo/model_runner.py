"""Runs the model on what the scheduler chose (the role of ``vllm/v1/worker/gpu_model_runner.py``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prismtop.demo.attention import FloatArray, IntArray, PagedKVCache, SequenceSpan
from prismtop.demo.config import EngineConfig
from prismtop.demo.model import Transformer
from prismtop.demo.output import ModelRunnerOutput, SchedulerOutput
from prismtop.demo.sampler import Sampler


@dataclass(eq=False)
class CachedRequestState:
    """What the runner remembers of a request between steps."""

    token_ids: list[int]
    block_ids: IntArray
    num_blocks: int
    num_computed_tokens: int
    temperature: float
    generator: np.random.Generator


@dataclass(frozen=True)
class ModelInputs:
    """A flattened batch; ``logits_indices`` are the rows to sample, one per ``sampled_req_ids``."""

    token_ids: IntArray
    positions: IntArray
    slots: IntArray
    spans: list[SequenceSpan]
    logits_indices: IntArray
    sampled_req_ids: list[str]


class ModelRunner:
    """Holds the weights, the KV cache and the state of the requests that have been scheduled."""

    def __init__(self, config: EngineConfig) -> None:
        self.block_size = config.cache.block_size
        self.max_blocks_per_req = -(-config.model.max_model_len // self.block_size)
        self.model = Transformer(config.model)
        self.kv_cache = PagedKVCache(config.model, config.cache)
        self.sampler = Sampler()
        self.requests: dict[str, CachedRequestState] = {}

    def warm_up(self) -> None:
        """Run one block of tokens through the model: the first request shall not pay for first use."""
        length = min(self.block_size, self.model.config.max_model_len)
        rows = np.arange(length)
        span = SequenceSpan(0, length, length, np.zeros(1, dtype=np.int64))
        inputs = ModelInputs(np.zeros_like(rows), rows, rows, [span], rows[-1:], [])
        self.sampler.sample(self._forward(inputs), [0.0], [np.random.default_rng(0)])

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Compute one step: update the request states, run the model, sample where a token is due."""
        self._update_states(scheduler_output)
        inputs = self._prepare_inputs(scheduler_output)
        logits = self._forward(inputs)
        states = [self.requests[request_id] for request_id in inputs.sampled_req_ids]
        token_ids = self.sampler.sample(
            logits, [state.temperature for state in states], [state.generator for state in states]
        )
        for state, token_id in zip(states, token_ids, strict=True):
            state.token_ids.append(token_id)
        return ModelRunnerOutput(dict(zip(inputs.sampled_req_ids, token_ids, strict=True)))

    def _update_states(self, scheduler_output: SchedulerOutput) -> None:
        for request_id in scheduler_output.finished_req_ids:
            self.requests.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            state = CachedRequestState(
                token_ids=list(new.prompt_token_ids),
                block_ids=np.zeros(self.max_blocks_per_req, dtype=np.int64),
                num_blocks=0,
                num_computed_tokens=new.num_computed_tokens,
                temperature=new.temperature,
                generator=np.random.default_rng(new.seed),
            )
            _append_blocks(state, new.block_ids)
            self.requests[new.request_id] = state
        for cached in scheduler_output.scheduled_cached_reqs:
            state = self.requests[cached.request_id]
            state.num_computed_tokens = cached.num_computed_tokens
            if cached.resumed:
                state.num_blocks = 0
            _append_blocks(state, cached.new_block_ids)

    def _prepare_inputs(self, scheduler_output: SchedulerOutput) -> ModelInputs:
        total = scheduler_output.total_num_scheduled_tokens
        token_ids = np.empty(total, dtype=np.int64)
        positions = np.empty(total, dtype=np.int64)
        slots = np.empty(total, dtype=np.int64)
        spans: list[SequenceSpan] = []
        last_rows: list[int] = []
        sampled: list[str] = []
        start = 0
        for request_id, num_new in scheduler_output.num_scheduled_tokens.items():
            state = self.requests[request_id]
            first = state.num_computed_tokens
            context_len = first + num_new
            end = start + num_new
            token_ids[start:end] = state.token_ids[first:context_len]
            rows = np.arange(first, context_len)
            positions[start:end] = rows
            blocks = state.block_ids[rows // self.block_size]
            slots[start:end] = blocks * self.block_size + rows % self.block_size
            spans.append(SequenceSpan(start, end, context_len, state.block_ids[: state.num_blocks]))
            if context_len == len(state.token_ids):
                last_rows.append(end - 1)
                sampled.append(request_id)
            start = end
        return ModelInputs(token_ids, positions, slots, spans, np.array(last_rows, dtype=np.int64), sampled)

    def _forward(self, inputs: ModelInputs) -> FloatArray:
        """Logits ``[rows to sample, vocab]``."""
        hidden = self.model.forward(
            inputs.token_ids, inputs.positions, inputs.slots, inputs.spans, self.kv_cache
        )
        return self.model.compute_logits(hidden[inputs.logits_indices])


def _append_blocks(state: CachedRequestState, block_ids: list[int]) -> None:
    end = state.num_blocks + len(block_ids)
    state.block_ids[state.num_blocks : end] = block_ids
    state.num_blocks = end
