"""The expressions of the transformers profile that loop only where there is a prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.targets.profile import Hook
from prismtop.targets.profiles import hooks_for, load_profiles

VERSIONS = ("5.10.4", "5.16.1", "5.23.0")
CHUNK = 7
"""Prompt tokens of one request in one batch, at most."""


def hook(name: str, version: str) -> Hook:
    return next(h for h in hooks_for(load_profiles()["transformers"], "engine", version) if h.name == name)


def evaluate(source: str, **names: object) -> Any:
    allowed = {"len": len, "sum": sum, "max": max, "hash": hash, "_cap": lambda items: items}
    return eval(source, {"__builtins__": {}, **allowed}, names)


def request(number: int, offset: int, prompt: int, generated: int) -> SimpleNamespace:
    """One request of a batch, as `FutureRequestState`: so many tokens computed before, in the prompt, and
    generated before the batch."""
    left = max(0, prompt - offset)
    state = SimpleNamespace(
        request_id=f"req_{number}",
        position_offset=offset,
        initial_tokens=[0] * prompt,
        generated_tokens=[0] * generated,
    )
    query = min(left, CHUNK) if left else 1
    return SimpleNamespace(state=state, has_new_token=query >= left, query_length=query)


def batches(seed: int) -> Iterator[list[SimpleNamespace]]:
    """Batches in the orders that both schedulers make: prompts before, behind, on both sides, or nowhere."""
    chance = random.Random(seed)
    for count in range(200):
        decoding = [request(n, 20 + n, 20, n + 1) for n in range(chance.randrange(4))]
        split = [request(10 + n, chance.randrange(1, 9), 9, 0) for n in range(chance.randrange(3))]
        new = [request(20 + n, 0, chance.randrange(1, 12), 0) for n in range(chance.randrange(3))]
        batch = [*decoding, *split, *new] if count % 2 else [*split, *decoding, *new]
        if batch:
            yield batch


@pytest.mark.parametrize("version", VERSIONS)
def test_the_work_of_a_batch_is_what_a_loop_over_its_requests_says(version: str) -> None:
    entry = hook("prepare", version).entry
    for batch in batches(1):
        total = sum(r.query_length for r in batch)
        prompts = [r for r in batch if r.state.position_offset < len(r.state.initial_tokens)]
        for padded in (total, total + 3):
            fast = not prompts and padded > total
            said = {
                name: evaluate(
                    expression.source,
                    requests_in_batch=batch,
                    num_q_tokens=padded,
                    use_decode_fast_path=fast,
                )
                for name, expression in entry.items()
            }
            longest = max(r.state.position_offset + r.query_length for r in batch)
            assert said == {
                "batch_size": len(batch),
                "tokens": total,
                "prefill_tokens": sum(r.query_length for r in prompts),
                "context_tokens": sum(r.state.position_offset + r.query_length for r in batch),
                "max_context": longest if prompts else None,
            }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("double", [False, True], ids=["one buffer", "double buffering"])
def test_first_tokens_are_those_of_the_batch_that_was_settled(version: str, double: bool) -> None:
    (event,) = hook("update", version).events
    for batch in batches(2):
        first = [r.state.request_id for r in batch if r.has_new_token and not r.state.generated_tokens]
        for r in batch:
            if r.has_new_token:
                r.state.generated_tokens.append(0)
        buffers = SimpleNamespace(requests_in_batch=batch)
        other = SimpleNamespace(requests_in_batch=[request(99, 0, 5, 0)])
        if double:
            pairs = [SimpleNamespace(host_io=other), SimpleNamespace(host_io=buffers)]
            buffers = SimpleNamespace(io_pairs=pairs, current_pair=1)
        self = SimpleNamespace(use_async_batching=double, inputs_and_outputs=buffers)
        said = [one[0] for one in evaluate(event.each.source, self=self)]
        assert said == [hash(name) & 4611686018427387903 for name in first]
