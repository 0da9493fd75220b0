"""The stages of a batch add up: nothing is counted twice, nothing is lost."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from prismtop.sources.stages import Span, exclusive, union

ANCHOR, WORKER = 1, 2


def span(stage: str, start: int, end: int, *, suspended: int = 0, pid: int = ANCHOR, tid: int = 1) -> Span:
    return Span(stage, f"{stage}-{start}", start, end, suspended, pid, tid)


def durations(spans: list[Span], worker: int | None = None) -> list[tuple[str, int]]:
    return [(stage.name, stage.duration_ns) for stage in exclusive(spans, ANCHOR, worker)]


@st.composite
def nested(draw: st.DrawFn, start: int = 0, end: int = 1000, depth: int = 3, pid: int = ANCHOR) -> list[Span]:
    """Calls of one thread within start to end: any two are nested or apart."""
    made: list[Span] = []
    marks = sorted(draw(st.lists(st.integers(start, end), max_size=6)))
    for first, last in zip(marks[::2], marks[1::2], strict=False):
        stage = draw(st.sampled_from(("schedule", "prepare", "launch", "wait", "post")))
        made.append(span(stage, first, last, pid=pid))
        if depth:
            made += draw(nested(first, last, depth - 1, pid))
    return made


def length(spans: list[Span]) -> int:
    return sum(end - start for start, end in union((s.start_ns, s.end_ns) for s in spans))


@given(nested(), st.randoms())
def test_stages_of_a_thread_add_up_to_the_time_that_it_spent_in_them(
    spans: list[Span], order: random.Random
) -> None:
    order.shuffle(spans)
    assert sum(d for _, d in durations(spans)) == length(spans)


@given(nested(), st.data())
def test_with_suspended_calls_stages_never_exceed_the_time_that_passed(
    spans: list[Span], data: st.DataObject
) -> None:
    spans = [
        s._replace(suspended_ns=data.draw(st.integers(0, s.end_ns - s.start_ns)))
        if data.draw(st.booleans())
        else s
        for s in spans
    ]
    made = durations(spans)
    assert sum(d for _, d in made) <= length(spans)
    assert all(d >= 0 for _, d in made)


@given(nested(), nested(pid=WORKER))
def test_what_blocks_on_a_worker_is_not_counted_with_what_the_worker_did(
    anchor: list[Span], worker: list[Span]
) -> None:
    """Every anchor stage here may block: what is left of it is exactly what the worker does not cover."""
    anchor = [s._replace(stage="wait") for s in anchor]
    made = [stage for stage in exclusive([*anchor, *worker], ANCHOR, WORKER) if stage.pid == ANCHOR]
    assert sum(stage.duration_ns for stage in made) == length([*anchor, *worker]) - length(worker)


def test_a_wait_inside_a_launch_is_reduced_once() -> None:
    spans = [
        span("launch", 0, 100),
        span("wait", 20, 90),
        span("launch", 30, 80, pid=WORKER),
    ]
    assert durations(spans, WORKER) == [("launch", 30), ("wait", 20), ("launch", 50)]


def test_work_of_the_anchor_beside_its_worker_stays() -> None:
    spans = [span("post", 0, 100), span("launch", 30, 80, pid=WORKER)]
    assert durations(spans, WORKER) == [("post", 100), ("launch", 50)]


def test_a_coroutine_counts_while_it_runs() -> None:
    assert durations([span("launch", 0, 100, suspended=60)]) == [("launch", 40)]


def test_a_call_in_a_coroutine_that_hardly_paused_is_part_of_it() -> None:
    spans = [span("launch", 0, 100, suspended=10), span("prepare", 20, 70)]
    assert durations(spans) == [("launch", 50), ("prepare", 50)]


def test_another_rank_beside_the_first_takes_nothing_from_the_anchor() -> None:
    spans = [span("wait", 0, 100), span("launch", 0, 40, pid=WORKER), span("launch", 0, 90, pid=3)]
    assert [d for name, d in durations(spans, WORKER) if name == "wait"] == [60]


def test_no_calls_make_no_stages() -> None:
    assert durations([]) == []
