"""Continuous batching with chunked prefill under a token budget.

Follows the design of vLLM V1 (``vllm/v1/core/sched/scheduler.py``): there is no "prefill phase" and no
"decode phase"; each step gives every request some of the tokens that it still has to compute, running
requests first. Continuous batching is iteration-level scheduling of Yu et al., "Orca", OSDI 2022; chunked
prefill is Agrawal et al., "Sarathi-Serve", OSDI 2024.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from prismtop.demo.config import EngineConfig
from prismtop.demo.kv_cache import KVCacheManager
from prismtop.demo.output import CachedRequestData, ModelRunnerOutput, NewRequestData, SchedulerOutput
from prismtop.demo.request import Request, RequestOutput, RequestStatus


class Scheduler:
    """Decides what each step computes. ``running`` and ``waiting`` are in order of arrival."""

    def __init__(self, config: EngineConfig) -> None:
        self.max_num_seqs = config.scheduler.max_num_seqs
        self.max_num_batched_tokens = config.scheduler.max_num_batched_tokens
        self.max_model_len = config.model.max_model_len
        self.kv_cache = KVCacheManager(config.cache)
        self.requests: dict[str, Request] = {}
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preemptions = 0
        self._finished_req_ids: set[str] = set()

    def has_requests(self) -> bool:
        """Whether there is anything to schedule."""
        return bool(self.running or self.waiting)

    def check_request(self, request: Request) -> None:
        """Raise ValueError when a request can never be served; any thread may call this."""
        if request.num_prompt_tokens < 1 or request.max_tokens < 1:
            raise ValueError("a request needs at least one prompt token and max_tokens of at least 1")
        if request.num_prompt_tokens + request.max_tokens > self.max_model_len:
            raise ValueError(
                f"prompt ({request.num_prompt_tokens}) plus max_tokens ({request.max_tokens}) is more than "
                f"max_model_len ({self.max_model_len})"
            )

    def add_request(self, request: Request) -> None:
        """Queue a request. Raises ValueError when it can never be served, or when its id is in use."""
        self.check_request(request)
        if request.request_id in self.requests:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def finish_requests(self, request_ids: Iterable[str]) -> None:
        """Abort requests, for example because the client went away; unknown ids are ignored."""
        for request_id in request_ids:
            request = self.requests.get(request_id)
            if request is None:
                continue
            if request.status is RequestStatus.RUNNING:
                self.running.remove(request)
            else:
                self.waiting.remove(request)
            self._free(request)

    def schedule(self) -> SchedulerOutput:
        """Choose the tokens of the next step and allocate their KV blocks."""
        num_scheduled: dict[str, int] = {}
        new_reqs: list[NewRequestData] = []
        cached_reqs: list[CachedRequestData] = []
        preempted: set[str] = set()
        budget = self._schedule_running(num_scheduled, cached_reqs, preempted)
        if not preempted:
            self._schedule_waiting(budget, num_scheduled, new_reqs, cached_reqs)

        prefill = context = max_context = 0
        for request_id, num_new in num_scheduled.items():
            request = self.requests[request_id]
            if num_new > 1 or request.num_computed_tokens < request.num_prompt_tokens:
                prefill += num_new
            request.num_computed_tokens += num_new
            context += request.num_computed_tokens
            max_context = max(max_context, request.num_computed_tokens)
        total = sum(num_scheduled.values())
        finished, self._finished_req_ids = self._finished_req_ids, set()
        return SchedulerOutput(
            scheduled_new_reqs=new_reqs,
            scheduled_cached_reqs=cached_reqs,
            num_scheduled_tokens=num_scheduled,
            total_num_scheduled_tokens=total,
            num_prefill_tokens=prefill,
            num_decode_tokens=total - prefill,
            num_context_tokens=context,
            max_context_tokens=max_context,
            preempted_req_ids=preempted,
            finished_req_ids=finished,
        )

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_output: ModelRunnerOutput
    ) -> list[RequestOutput]:
        """Append the sampled tokens, finish what is done, and return one output per new token."""
        now_ns = time.monotonic_ns()
        outputs: list[RequestOutput] = []
        any_finished = False
        for request_id in scheduler_output.num_scheduled_tokens:
            token_id = model_output.sampled_token_ids.get(request_id)
            request = self.requests.get(request_id)
            if token_id is None or request is None:
                continue
            request.output_token_ids.append(token_id)
            previous_ns = request.last_token_time_ns
            if request.first_token_time_ns is None:
                request.first_token_time_ns = now_ns
            request.last_token_time_ns = now_ns
            # Random weights know no end-of-sequence token: a request ends at its length.
            finish_reason = "length" if request.num_output_tokens >= request.max_tokens else None
            if finish_reason is not None:
                self._free(request)
                any_finished = True
            assert request.scheduled_time_ns is not None
            outputs.append(
                RequestOutput(
                    request_id=request_id,
                    token_id=token_id,
                    num_prompt_tokens=request.num_prompt_tokens,
                    num_output_tokens=request.num_output_tokens,
                    finish_reason=finish_reason,
                    arrival_time_ns=request.arrival_time_ns,
                    scheduled_time_ns=request.scheduled_time_ns,
                    token_time_ns=now_ns,
                    previous_token_time_ns=previous_ns,
                )
            )
        if any_finished:
            self.running = [request for request in self.running if request.status is RequestStatus.RUNNING]
        return outputs

    def _schedule_running(
        self, num_scheduled: dict[str, int], cached_reqs: list[CachedRequestData], preempted: set[str]
    ) -> int:
        """Running requests first, preempting the latest when blocks run out; returns the budget left."""
        budget = self.max_num_batched_tokens
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            num_new = min(request.num_tokens - request.num_computed_tokens, budget)
            block_ids = self._allocate_or_preempt(request, num_new, preempted)
            if block_ids is None:
                break
            num_scheduled[request.request_id] = num_new
            cached_reqs.append(_cached_data(request, block_ids, resumed=False))
            budget -= num_new
            index += 1
        return budget

    def _allocate_or_preempt(self, request: Request, num_new: int, preempted: set[str]) -> list[int] | None:
        """Blocks for a running request, or ``None`` when it was itself the one to be preempted."""
        while True:
            num_after = request.num_computed_tokens + num_new
            block_ids = self.kv_cache.allocate_slots(request.request_id, num_after)
            if block_ids is not None:
                return block_ids
            victim = self.running.pop()
            self._preempt(victim)
            preempted.add(victim.request_id)
            if victim is request:
                return None

    def _schedule_waiting(
        self,
        budget: int,
        num_scheduled: dict[str, int],
        new_reqs: list[NewRequestData],
        cached_reqs: list[CachedRequestData],
    ) -> None:
        """Admit waiting requests, first come first served, while budget, seats and blocks last."""
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            num_new = min(request.num_tokens - request.num_computed_tokens, budget)
            num_after = request.num_computed_tokens + num_new
            block_ids = self.kv_cache.allocate_slots(request.request_id, num_after)
            if block_ids is None:
                break
            self.waiting.popleft()
            self.running.append(request)
            if request.status is RequestStatus.PREEMPTED:
                cached_reqs.append(_cached_data(request, block_ids, resumed=True))
            else:
                request.scheduled_time_ns = time.monotonic_ns()
                new_reqs.append(
                    NewRequestData(
                        request_id=request.request_id,
                        prompt_token_ids=request.prompt_token_ids,
                        block_ids=block_ids,
                        num_computed_tokens=request.num_computed_tokens,
                        temperature=request.temperature,
                        seed=request.seed,
                    )
                )
            request.status = RequestStatus.RUNNING
            num_scheduled[request.request_id] = num_new
            budget -= num_new

    def _preempt(self, request: Request) -> None:
        """Free a request's blocks and put it first in the queue, to recompute (vLLM V1 does not swap)."""
        self.kv_cache.free(request.request_id)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(request)

    def _free(self, request: Request) -> None:
        request.status = RequestStatus.FINISHED
        self.kv_cache.free(request.request_id)
        del self.requests[request.request_id]
        self._finished_req_ids.add(request.request_id)


def _cached_data(request: Request, block_ids: list[int], *, resumed: bool) -> CachedRequestData:
    return CachedRequestData(
        request_id=request.request_id,
        resumed=resumed,
        new_block_ids=block_ids,
        num_computed_tokens=request.num_computed_tokens,
        num_output_tokens=request.num_output_tokens,
    )
