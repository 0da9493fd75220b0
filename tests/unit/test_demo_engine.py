"""The demo engine's scheduling, and that no scheduling decision changes what is generated."""

from __future__ import annotations

import random
import threading

import pytest

from prismtop.demo.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from prismtop.demo.engine import EngineCore
from prismtop.demo.kv_cache import KVCacheManager
from prismtop.demo.output import ModelRunnerOutput, SchedulerOutput
from prismtop.demo.request import Request, RequestOutput
from prismtop.demo.scheduler import Scheduler

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    vocab_size=509,
    max_model_len=192,
)


def config(num_blocks: int = 96, max_num_seqs: int = 8, max_num_batched_tokens: int = 32) -> EngineConfig:
    return EngineConfig(
        MODEL, CacheConfig(num_blocks=num_blocks), SchedulerConfig(max_num_seqs, max_num_batched_tokens)
    )


def request(name: str, prompt_len: int, max_tokens: int, temperature: float = 0.0) -> Request:
    rng = random.Random(name)
    prompt = [rng.randrange(MODEL.vocab_size) for _ in range(prompt_len)]
    return Request(name, prompt, max_tokens, arrival_time_ns=0, temperature=temperature, seed=prompt_len)


def generate(engine_config: EngineConfig, *requests: Request) -> dict[str, list[int]]:
    """Serve requests to the end; tokens by request id."""
    engine = EngineCore(engine_config, output_sink=lambda outputs: None)
    for one in requests:
        engine.scheduler.add_request(one)
    tokens: dict[str, list[int]] = {one.request_id: [] for one in requests}
    while engine.scheduler.has_requests():
        for output in engine.step():
            tokens[output.request_id].append(output.token_id)
    assert engine.scheduler.kv_cache.usage == 0.0
    return tokens


def settle(scheduler: Scheduler, output: SchedulerOutput) -> list[RequestOutput]:
    """Answer a step as a model would: a token for each request that has computed all it has."""
    due = (scheduler.requests[name] for name in output.num_scheduled_tokens)
    sampled = {one.request_id: 7 for one in due if one.num_computed_tokens == one.num_tokens}
    return scheduler.update_from_output(output, ModelRunnerOutput(sampled))


def batch_of_requests() -> list[Request]:
    return [request(f"r{index}", prompt_len, 40) for index, prompt_len in enumerate((3, 90, 17, 33, 64, 16))]


def test_a_request_generates_the_same_tokens_alone_and_in_a_batch() -> None:
    together = generate(config(), *batch_of_requests())
    alone = {one.request_id: generate(config(), one)[one.request_id] for one in batch_of_requests()}
    assert together == alone
    assert all(len(set(tokens)) > 5 for tokens in together.values())


def test_preempted_requests_recompute_and_generate_the_same_tokens() -> None:
    requests = batch_of_requests()
    squeezed = generate(config(num_blocks=13), *requests)
    assert sum(one.num_preemptions for one in requests) > 2
    assert squeezed == generate(config(), *batch_of_requests())


def test_the_token_budget_does_not_change_what_is_generated() -> None:
    narrow = generate(config(max_num_batched_tokens=5), *batch_of_requests())
    assert narrow == generate(config(max_num_batched_tokens=512), *batch_of_requests())


def test_sampled_tokens_survive_preemption_and_company() -> None:
    def sampled() -> list[Request]:
        return [request(f"r{index}", 20 + index, 40, temperature=1.0) for index in range(5)]

    assert generate(config(num_blocks=12), *sampled()) == generate(config(), *sampled())


def test_a_prompt_longer_than_the_budget_is_prefilled_in_chunks() -> None:
    scheduler = Scheduler(config())
    scheduler.add_request(request("long", 70, 2))
    steps = []
    while scheduler.has_requests():
        output = scheduler.schedule()
        tokens = len(settle(scheduler, output))
        steps.append((output.num_prefill_tokens, output.num_decode_tokens, output.num_context_tokens, tokens))
    assert steps == [(32, 0, 32, 0), (32, 0, 64, 0), (6, 0, 70, 1), (0, 1, 71, 1)]


def test_decoding_requests_share_a_step_with_a_prefill_chunk_within_the_budget() -> None:
    scheduler = Scheduler(config())
    scheduler.add_request(request("short", 8, 10))
    settle(scheduler, scheduler.schedule())
    scheduler.add_request(request("long", 100, 10))
    output = scheduler.schedule()
    assert output.num_scheduled_tokens == {"short": 1, "long": 31}
    assert (output.num_prefill_tokens, output.num_decode_tokens) == (31, 1)
    assert (output.num_context_tokens, output.max_context_tokens) == (9 + 31, 31)
    assert [new.request_id for new in output.scheduled_new_reqs] == ["long"]
    assert [old.request_id for old in output.scheduled_cached_reqs] == ["short"]


def test_no_more_requests_run_than_there_are_seats() -> None:
    scheduler = Scheduler(config(max_num_seqs=2))
    for index in range(5):
        scheduler.add_request(request(f"r{index}", 4, 4))
    settle(scheduler, scheduler.schedule())
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 3)


def test_the_latest_arrival_is_preempted_and_goes_first_in_the_queue() -> None:
    scheduler = Scheduler(config(num_blocks=12, max_num_batched_tokens=256))
    scheduler.add_request(request("early", 96, 60))
    scheduler.add_request(request("late", 96, 60))
    scheduler.add_request(request("later", 10, 60))
    settle(scheduler, scheduler.schedule())
    output = scheduler.schedule()
    assert output.preempted_req_ids == {"late"}
    assert output.num_scheduled_tokens == {"early": 1}
    assert [one.request_id for one in scheduler.waiting] == ["late", "later"]
    assert output.num_prefill_tokens == 0


def test_recomputing_after_a_preemption_counts_as_prefill_and_replaces_the_block_table() -> None:
    scheduler = Scheduler(config(num_blocks=12, max_num_batched_tokens=256))
    scheduler.add_request(request("early", 96, 3))
    scheduler.add_request(request("late", 96, 60))
    settle(scheduler, scheduler.schedule())
    settle(scheduler, scheduler.schedule())
    settle(scheduler, scheduler.schedule())
    output = scheduler.schedule()
    (resumed,) = output.scheduled_cached_reqs
    assert resumed.resumed
    assert len(resumed.new_block_ids) == 7
    assert (output.num_prefill_tokens, output.num_decode_tokens) == (97, 0)


def test_aborting_frees_the_blocks_of_running_and_waiting_requests() -> None:
    scheduler = Scheduler(config(max_num_seqs=1))
    scheduler.add_request(request("running", 30, 5))
    scheduler.add_request(request("waiting", 30, 5))
    scheduler.schedule()
    scheduler.finish_requests(["running", "waiting", "unknown"])
    assert not scheduler.has_requests()
    assert scheduler.kv_cache.usage == 0.0
    assert scheduler.schedule().finished_req_ids == {"running", "waiting"}


@pytest.mark.parametrize(("prompt_len", "max_tokens"), [(0, 4), (4, 0), (190, 3)])
def test_a_request_that_can_never_be_served_is_refused(prompt_len: int, max_tokens: int) -> None:
    with pytest.raises(ValueError, match=r"at least one prompt token|max_model_len"):
        Scheduler(config()).add_request(request("impossible", prompt_len, max_tokens))


def test_a_request_as_long_as_the_model_allows_is_served_in_a_cache_just_large_enough() -> None:
    tokens = generate(config(num_blocks=12), request("longest", 100, 92), request("other", 100, 92))
    assert [len(one) for one in tokens.values()] == [92, 92]


def test_a_request_id_in_use_is_refused() -> None:
    scheduler = Scheduler(config())
    scheduler.add_request(request("same", 4, 4))
    with pytest.raises(ValueError, match="in use"):
        scheduler.add_request(request("same", 4, 4))


def test_a_failed_allocation_changes_nothing() -> None:
    cache = KVCacheManager(CacheConfig(block_size=16, num_blocks=4))
    assert cache.allocate_slots("a", 33) == [0, 1, 2]
    assert cache.allocate_slots("b", 17) is None
    assert cache.usage == 0.75
    assert cache.allocate_slots("a", 64) == [3]
    cache.free("a")
    assert cache.usage == 0.0


def test_the_busy_loop_waits_when_idle_and_serves_what_other_threads_add() -> None:
    done = threading.Event()
    tokens: list[int] = []

    def sink(outputs: list[RequestOutput]) -> None:
        tokens.extend(output.token_id for output in outputs)
        if outputs[-1].finished:
            done.set()

    engine = EngineCore(config(), sink)
    threading.Thread(target=engine.run_busy_loop, daemon=True).start()
    engine.abort_requests(["nobody"])
    engine.add_request(request("r", 40, 6))
    assert done.wait(20)
    assert tokens == generate(config(), request("r", 40, 6))["r"]


def test_the_model_runner_forgets_finished_requests() -> None:
    engine = EngineCore(config(), output_sink=lambda outputs: None)
    for index in range(3):
        engine.scheduler.add_request(request(f"r{index}", 4, 2))
        while engine.scheduler.has_requests():
            engine.step()
    assert set(engine.model_runner.requests) == {"r2"}
