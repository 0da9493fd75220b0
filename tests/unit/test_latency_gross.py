"""Batches with prefill that are slow beyond anything their model could be wrong by."""

from __future__ import annotations

import pytest

from prismtop.latency.features import Features
from prismtop.latency.gross import GROSS, GROSS_MOST, GROSS_NS, GROSS_ROWS, GrossWatch

PROMPT = Features("mixed", 4, 1000, prefill=256, carries_prefill=True)


@pytest.fixture
def watch() -> GrossWatch:
    made = GrossWatch()
    made.learn(PROMPT)
    return made


def note(watch: GrossWatch, times: int = 1, features: Features = PROMPT, rows: int = GROSS_ROWS) -> int:
    for _ in range(times):
        watch.note(GROSS, GROSS_NS, features, rows)
    return watch.count


def test_they_are_counted_in_a_row(watch: GrossWatch) -> None:
    assert note(watch, 3) == 3


def test_one_that_is_not_ends_the_row(watch: GrossWatch) -> None:
    note(watch, 3)
    watch.note(0.1, GROSS_NS, PROMPT, GROSS_ROWS)
    assert watch.count == 0


def test_a_prompt_that_is_longer_than_any_before_is_none(watch: GrossWatch) -> None:
    assert note(watch, features=PROMPT._replace(prefill=512)) == 0


def test_a_model_of_few_batches_says_nothing(watch: GrossWatch) -> None:
    assert note(watch, rows=GROSS_ROWS - 1) == 0


def test_so_many_in_a_row_are_normal_from_then_on(watch: GrossWatch) -> None:
    assert note(watch, GROSS_MOST) == GROSS_MOST
    assert [note(watch) for _ in range(100)] == [0] * 100
