"""Search and filter: texts, expressions, units, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismtop.errors import UsageError
from prismtop.model import Batch, Mode, Prediction, Verdict, Workload
from prismtop.tui.filter import MAX_LENGTH, compile_filter
from prismtop.tui.panels.help import FILTERS
from tests.factories import MS, make_batch, make_stages

START = 10**12


def passes(text: str, batch: Batch) -> bool:
    found = compile_filter(text)
    assert found is not None
    return found.matches(batch)


def slow(**changes: Any) -> Batch:
    return make_batch(prediction=Prediction(5 * MS, 4 * MS, 6 * MS, verdict=Verdict.SLOW), **changes)


@pytest.mark.parametrize(
    "text",
    [
        "dur>7 & mode==decode", "dur > 7 and mode == 'decode'", "ms>7ms", "ms < 1s", "ms>=7900us",
        "dur>20 | bs==16",
        "!(dur>20)", "not dur > 20", "ctx>5k", "kv<22%", "kv = 21", "mode=decode", "mode==dec",
        "mode != prefill",
        "decode == mode", "7 < ms < 9", "wait_ms > 0.5*ms", "launch_ms + wait_ms > 6", "-ms < 0", "wait==0",
        "origin==exact", "batch_size==16", "5353", "DECODE", "launch", "pid 4242",
    ],
)  # fmt: skip
def test_these_match_a_decode_batch_of_8_ms(text: str) -> None:
    assert passes(text, make_batch(5353))


@pytest.mark.parametrize(
    "text",
    ["dur>20", "mode==prefill", "mode==pre", "dur>20 & mode==decode", "prefill", "skew>0", "rank==0",
     "rank!=0",
     "over>0", "expect>0", "maxctx<5", "ms/0 > 1", "stream_ms>=0", "slow"],
)  # fmt: skip
def test_these_do_not_because_of_the_value_or_because_there_is_none(text: str) -> None:
    assert not passes(text, make_batch(rank=None))


def test_slow_and_over_are_about_the_prediction() -> None:
    assert passes("slow", slow())
    assert passes("slow & over > 50%", slow())
    assert not passes("!slow", slow())


@pytest.mark.parametrize("text", [example for example, _ in FILTERS])
def test_every_example_of_the_help_page_matches_what_it_says(text: str) -> None:
    work = Workload(context_tokens=20_000, kv_usage=0.9, waiting=3)
    stages = make_stages(START, prepare_inputs=1.0, wait=24.0)
    odd = slow(duration_ns=25 * MS, start_ns=START, workload=work, stages=stages, suspect="lost records")
    assert passes(text, odd)
    assert not passes(text, make_batch())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("slow | suspect", True),
        ("slow and suspect", False),
        ("(slow)", True),
        ("!suspect", True),
        ("not slow or suspect", False),
        ("slow batch", False),
        ("not", False),
    ],
)
def test_what_is_true_or_false_needs_no_comparison(text: str, found: bool) -> None:
    assert passes(text, slow()) is found


def test_a_batch_without_a_value_passes_the_negation_only() -> None:
    batch = make_batch(workload=Workload())
    assert not passes("bs>0", batch)
    assert not passes("bs<=0", batch)
    assert passes("!(bs>0)", batch)


def test_a_blank_filter_is_none() -> None:
    assert compile_filter("  ") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("durr>20", "did you mean dur?"),
        ("dur>", "is no expression"),
        ("mode==fast", "mode is never fast"),
        ("mode>3", "compared with a word"),
        ("__import__('os')==1", "Call is not allowed"),
        ("ms.real>1", "Attribute is not allowed"),
        ("[ms][0]>1", "Subscript is not allowed"),
        ("(lambda: 1)==1", "Lambda is not allowed"),
        ("ms**9**9>1", "Pow is not allowed"),
        ("ms in (1,2) == 1", "not allowed"),
        ("~bs>1", "Invert is not allowed"),
        ("x" * MAX_LENGTH + ">1", "longer than"),
    ],
)
def test_what_is_refused_says_why(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_filter(text)
    assert says in str(caught.value)


@given(st.text(alphabet="dur mode=<>!&|()'\"0123456789.-+*/%kmsslowbs\n\\", max_size=60))
def test_no_text_does_anything_but_filter_or_be_refused(text: str) -> None:
    try:
        found = compile_filter(text)
    except UsageError:
        return
    if found is not None:
        assert found.matches(make_batch(mode=Mode.MIXED)) in (True, False)
