"""TTFT and TPOT from request events."""

from __future__ import annotations

from prismtop.model import FirstToken, Request
from prismtop.sources.requests import MAX_REQUESTS, RequestEvent, RequestTracker

MS = 1_000_000
WALL = 10**18  # CLOCK_REALTIME minus CLOCK_MONOTONIC


def event(kind: str, at_ms: float, id: int = 1, a: int = 0, b: int = 0) -> RequestEvent:
    return RequestEvent(kind, int(at_ms * MS), id, a, b)


def feed(events: list[RequestEvent]) -> tuple[list[FirstToken], list[Request]]:
    return RequestTracker().feed(events, WALL)


def wall_us(at_ms: float) -> int:
    return (int(at_ms * MS) + WALL) // 1000


def test_ttft_counts_from_the_arrival_at_the_engine() -> None:
    first, _ = feed([event("arrival", 10), event("first_token", 35)])
    assert [token.ttft_ns for token in first] == [25 * MS]


def test_ttft_counts_from_the_frontends_wall_clock_where_it_is_given() -> None:
    first, _ = feed([event("arrival", 10, a=wall_us(4)), event("first_token", 35)])
    assert [token.ttft_ns for token in first] == [31 * MS]


def test_an_arrival_in_the_future_is_not_believed() -> None:
    first, _ = feed([event("arrival", 10, a=wall_us(50)), event("first_token", 35)])
    assert [token.ttft_ns for token in first] == [25 * MS]


def test_a_request_that_was_there_before_us_has_no_ttft() -> None:
    first, finished = feed([event("first_token", 35), event("finish", 55, a=5)])
    assert (first[0].ttft_ns, finished[0].ttft_ns, finished[0].tpot_ns) == (None, None, 5 * MS)


def test_tpot_leaves_the_first_token_out() -> None:
    events = [event("arrival", 0, b=12), event("first_token", 20), event("finish", 50, a=4)]
    _, (request,) = feed(events)
    assert (request.tpot_ns, request.output_tokens, request.prompt_tokens) == (10 * MS, 4, 12)


def test_one_token_has_no_tpot() -> None:
    _, (request,) = feed([event("first_token", 20), event("finish", 20, a=1)])
    assert request.tpot_ns is None


def test_an_unknown_number_of_tokens_is_none() -> None:
    _, (request,) = feed([event("first_token", 20), event("finish", 40, a=-1)])
    assert (request.output_tokens, request.tpot_ns) == (None, None)


def test_a_repeated_first_token_counts_once() -> None:
    first, _ = feed([event("first_token", 20), event("first_token", 30)])
    assert len(first) == 1


def test_requests_that_never_finish_are_forgotten_at_last() -> None:
    tracker = RequestTracker()
    tracker.feed([event("arrival", n, id=n) for n in range(MAX_REQUESTS + 10)], WALL)
    first, _ = tracker.feed([event("first_token", 10**6, id=5)], WALL)
    assert first[0].ttft_ns is None


def test_a_repeated_finish_counts_once() -> None:
    """The batch after a request's last one still holds it, in an overlapped engine."""
    tracker = RequestTracker()
    _, finished = tracker.feed([event("first_token", 20), event("finish", 40, a=3)], WALL)
    first, again = tracker.feed([event("first_token", 50), event("finish", 50, a=3)], WALL)
    assert (len(finished), first, again) == (1, [], [])


def test_a_request_that_arrives_under_an_id_that_finished_is_a_new_one() -> None:
    tracker = RequestTracker()
    tracker.feed([event("first_token", 20), event("finish", 40, a=3)], WALL)
    first, _ = tracker.feed([event("arrival", 60), event("first_token", 75)], WALL)
    assert [token.ttft_ns for token in first] == [15 * MS]


def test_a_finish_of_an_unknown_request_is_one_request_without_times() -> None:
    _, (request,) = feed([event("finish", 40, a=7)])
    assert (request.ttft_ns, request.tpot_ns, request.output_tokens) == (None, None, 7)


def test_a_wall_clock_that_was_set_meanwhile_does_not_change_ttft() -> None:
    set_back = WALL - 3600 * 10**9
    stamp = (4 * MS + set_back) // 1000
    first, _ = RequestTracker().feed([event("arrival", 10, a=stamp), event("first_token", 35)], set_back)
    assert [token.ttft_ns for token in first] == [31 * MS]
