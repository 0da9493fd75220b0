"""Frames become Chrome events and come back as they were."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismtop.export import jsonl
from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Counter,
    FirstToken,
    Frame,
    Mode,
    Request,
    Stage,
    Workload,
)
from prismtop.trace.decode import CUT, Decoding, decode
from prismtop.trace.events import Encoder
from prismtop.trace.metadata import redacted
from prismtop.trace.own import BEFORE_NS, Dropped, GroundTruth, LostSoFar, Said, SessionInfo, StateChange
from prismtop.trace.tracks import MACHINE_PID
from tests.factories import MS, make_batch, make_frame, make_group, make_target
from tests.unit.trace_frames import (
    START,
    an_alert,
    decoded,
    encoded,
    full_batch,
    full_frame,
    nested_batch,
    overlapping_batches,
    stage,
)


def of_type(kind: type, texts: list[str]) -> list[Any]:
    return [noun for noun in decoded(texts) if isinstance(noun, kind)]


def slices(texts: list[str]) -> dict[tuple[int, int], list[tuple[int, int, str]]]:
    """Slices per track: start and end in nanoseconds and name, in the order of the file."""
    tracks: dict[tuple[int, int], list[tuple[int, int, str]]] = defaultdict(list)
    for event in map(json.loads, texts):
        if event["ph"] == "X":
            start = round(event["ts"] * 1000)
            end = start + round(event["dur"] * 1000)
            tracks[event["pid"], event["tid"]].append((start, end, event["name"]))
    return tracks


def assert_nested(texts: list[str]) -> None:
    """Every track holds slices that lie inside or beside one another, parents first."""
    for track, found in slices(texts).items():
        ends: list[int] = []
        for start, end, name in sorted(found, key=lambda each: each[0]):  # stable, as the viewers sort
            while ends and ends[-1] <= start:
                ends.pop()
            assert not ends or end <= ends[-1], (track, name)
            ends.append(end)


def test_every_field_of_a_batch_survives() -> None:
    frame = full_frame()
    assert tuple(of_type(Batch, encoded(frame))) == frame.new_batches


def test_requests_and_first_tokens_survive() -> None:
    frame = full_frame()
    texts = encoded(frame)
    assert tuple(of_type(Request, texts)) == frame.requests
    assert tuple(of_type(FirstToken, texts)) == frame.first_tokens


def test_counters_survive_with_and_without_a_value() -> None:
    frame = full_frame()
    assert tuple(of_type(Counter, encoded(frame))) == frame.new_counters


def test_alerts_survive_with_their_causes() -> None:
    frame = full_frame()
    assert tuple(of_type(Alert, encoded(frame))) == frame.changed_alerts


def test_the_session_survives() -> None:
    frame = full_frame()
    found = of_type(SessionInfo, encoded(frame))[0]
    for name in ("group", "clock", "state", "note", "hooks", "costs", "lost", "target_states", "time_ns"):
        assert getattr(found, name) == getattr(frame, name)


def test_changes_of_state_losses_and_warnings_survive() -> None:
    frame = full_frame()
    texts = encoded(frame)
    change = of_type(StateChange, texts)[0]
    assert (change.time_ns, change.hooks, change.costs) == (frame.time_ns, frame.hooks, frame.costs)
    assert of_type(LostSoFar, texts) == [LostSoFar(frame.time_ns, frame.lost)]
    assert of_type(Said, texts) == [Said(frame.time_ns, "the ring is small")]


def test_a_state_is_written_when_it_changes_and_not_again() -> None:
    encoder = Encoder(make_frame(0))
    gone = make_frame(0, state=AttachState.GONE, note="the process ended")
    assert sum('"state: gone"' in text for text in encoder.events_of(gone)) == 1
    assert encoder.events_of(gone) == []


def test_the_json_lines_of_watch_are_the_same_after_a_recording() -> None:
    frame = full_frame()
    texts = encoded(frame)
    batches, requests = of_type(Batch, texts), of_type(Request, texts)
    clock = of_type(SessionInfo, texts)[0].clock
    assert [jsonl.batch_line(b, clock) for b in batches] == [
        jsonl.batch_line(b, frame.clock) for b in frame.new_batches
    ]
    assert [jsonl.request_line(r, clock) for r in requests] == [
        jsonl.request_line(r, frame.clock) for r in frame.requests
    ]


def test_a_fault_that_was_injected_survives() -> None:
    encoder = Encoder(make_frame(0))
    label = GroundTruth("cpu_swap", START, 5 * MS + 1, 4242, {"seed": 7, "rollback": "ok"})
    texts = encoder.header() + encoder.ground_truth(label)
    assert of_type(GroundTruth, texts) == [label]


def test_two_faults_at_once_are_on_two_tracks() -> None:
    encoder = Encoder(make_frame(0))
    texts = encoder.header()
    for start in (START, START + 2 * MS):
        texts += encoder.ground_truth(GroundTruth("a fault", start, 5 * MS, 4242))
    assert_nested(texts)
    assert len(slices(texts)) == 2


def test_a_mark_says_how_many_events_were_dropped() -> None:
    encoder = Encoder(make_frame(0))
    texts = encoder.header() + encoder.dropped(START, 42)
    assert of_type(Dropped, texts) == [Dropped(START, 42)]


def test_the_last_event_counts_what_was_written_and_what_is_missing() -> None:
    assert json.loads(Encoder(make_frame(0)).end(10, 2))["args"] == {"events": 10, "dropped": 2}


def test_every_text_is_one_object_on_one_line() -> None:
    for text in encoded(full_frame()):
        assert "\n" not in text
        assert isinstance(json.loads(text), dict)


def test_every_event_has_a_phase_a_process_a_thread_and_a_time() -> None:
    for event in map(json.loads, encoded(full_frame())):
        assert {"ph", "pid", "tid", "ts"} <= event.keys(), event
        assert type(event["pid"]) is type(event["tid"]) is int


def test_no_number_is_infinite_or_not_a_number() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    for text in encoded(full_frame()):
        json.loads(text, parse_constant=refuse)


def test_a_counter_has_one_finite_number_and_nothing_else() -> None:
    counters = [event for event in map(json.loads, encoded(full_frame())) if event["ph"] == "C"]
    assert len(counters) == 4
    for event in counters:
        assert list(event["args"]) == ["value"]
        assert math.isfinite(event["args"]["value"])


def test_a_reading_with_words_is_drawn_too_and_read_once() -> None:
    limits = Counter(
        "gpu_clock_limits_bitmask", "gpu 0", "bitmask", START + 3, 4.0, text="software power cap"
    )
    texts = encoded(make_frame(0, time_ns=START, new_counters=(limits,)))
    drawn = [event for event in map(json.loads, texts) if event["ph"] == "C"]
    assert [(event["name"], event["args"]) for event in drawn] == [
        ("gpu_clock_limits_bitmask gpu 0", {"value": 4.0})
    ]
    assert of_type(Counter, texts) == [limits]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_workload_value_that_is_no_number_is_not_recorded(value: float) -> None:
    batch = make_batch(0, START, workload=Workload(4, kv_usage=value))
    (found,) = of_type(Batch, encoded(make_frame(0, time_ns=START, new_batches=(batch,))))
    assert found.workload == Workload(4)


def test_times_are_microseconds_with_three_decimals_from_a_base() -> None:
    texts = [text for text in encoded(full_frame()) if '"cat":"batch"' in text]
    assert f'"ts":{(START - (START + 100 * MS) + BEFORE_NS) // 1000}.' in texts[0]
    assert '"dur":4199.999,' in texts[0]


def test_stages_end_with_their_batch_to_the_nanosecond() -> None:
    texts = encoded(make_frame(0, time_ns=START, new_batches=(nested_batch(0, START),)))
    assert_nested(texts)
    (track,) = slices(texts).values()
    assert {name for _, end, name in track if end == track[0][1]} == {"decode", "wait"}


def test_batches_in_flight_at_once_get_lanes_and_everything_nests() -> None:
    batches = overlapping_batches(20, START)
    texts = encoded(make_frame(0, time_ns=START, new_batches=batches))
    assert_nested(texts)
    assert len(slices(texts)) == 2
    assert tuple(of_type(Batch, texts)) == batches


def test_stages_that_overlap_within_a_batch_get_lanes_of_their_own() -> None:
    stages = (stage("launch", START, 5 * MS), stage("wait", START + 3 * MS, 4 * MS))
    batch = make_batch(0, START, stages=stages)
    texts = encoded(make_frame(0, time_ns=START, new_batches=(batch,)))
    assert_nested(texts)
    assert of_type(Batch, texts) == [batch]


def test_a_stage_outside_its_batch_gets_a_lane_of_its_own() -> None:
    stages = (stage("launch", START, MS), stage("post", START + 7 * MS, 4 * MS))
    batch = make_batch(0, START, stages=stages)
    texts = encoded(make_frame(0, time_ns=START, new_batches=(batch,)))
    assert_nested(texts)
    assert of_type(Batch, texts) == [batch]


def test_stages_of_other_ranks_are_in_the_group_of_their_process() -> None:
    texts = encoded(full_frame())
    assert_nested(texts)
    other = [event for event in map(json.loads, texts) if event["ph"] == "X" and event["pid"] == 4243]
    assert [event["name"] for event in other] == ["launch", "wait"]


def test_processes_and_tracks_are_named_before_their_first_event() -> None:
    processes: set[int] = set()
    threads: set[tuple[int, int]] = set()
    for event in map(json.loads, encoded(full_frame())):
        if event["name"] == "process_name":
            processes.add(event["pid"])
        elif event["name"] == "thread_name":
            threads.add((event["pid"], event["tid"]))
        elif event["ph"] != "M":
            assert event["pid"] in processes
            assert event["ph"] == "C" or (event["pid"], event["tid"]) in threads
    assert processes == {4242, 4243, MACHINE_PID}


def test_a_header_names_everything_that_was_seen_so_far() -> None:
    encoder = Encoder(make_frame(0))
    encoder.events_of(full_frame())
    later = make_frame(
        0, time_ns=START, new_batches=(full_batch(9, START),), new_counters=full_frame().new_counters
    )
    texts = encoder.header(segment=3) + encoder.events_of(later)
    assert of_type(Batch, texts) == [full_batch(9, START)]
    assert tuple(of_type(Counter, texts)) == later.new_counters
    assert of_type(SessionInfo, texts)[0].segment == 3


def test_a_request_is_an_async_slice_with_its_phases() -> None:
    request = Request(START, 5 * MS, MS, 4, 12)
    texts = encoded(make_frame(0, time_ns=START, requests=(request,)))
    phases = [
        (event["ph"], event["name"], round(event["ts"] * 1000) - BEFORE_NS)
        for event in map(json.loads, texts)
        if event.get("cat") == "request"
    ]
    assert phases == [
        ("b", "request", -8 * MS),
        ("b", "time to first token", -8 * MS),
        ("e", "time to first token", -3 * MS),
        ("b", "decode", -3 * MS),
        ("e", "decode", 0),
        ("e", "request", 0),
    ]


def test_two_requests_never_share_an_id() -> None:
    texts = encoded(full_frame())
    begun = [e["id2"]["local"] for e in map(json.loads, texts) if e["ph"] == "b" and e["name"] == "request"]
    assert len(set(begun)) == len(begun) == 3


def test_an_alert_is_an_instant_where_it_opened_where_it_changed_and_where_it_closed() -> None:
    encoder = Encoder(make_frame(0, time_ns=START))
    alert = an_alert()
    frames = (
        make_frame(0, time_ns=START + 50 * MS, changed_alerts=(alert,)),
        make_frame(0, time_ns=START + 60 * MS, changed_alerts=(replace(alert, batches=9),)),
        make_frame(0, time_ns=START + 70 * MS, changed_alerts=(replace(alert, closed_ns=START + 65 * MS),)),
    )
    events = [json.loads(text) for frame in frames for text in encoder.events_of(frame) if "anomaly" in text]
    assert [event["args"]["phase"] for event in events] == ["open", "update", "closed"]
    at = [round(event["ts"] * 1000) - BEFORE_NS for event in events]
    assert at == [30 * MS + 1, 60 * MS, 65 * MS]
    assert {event["ph"] for event in events} == {"i"}


def test_text_from_outside_cannot_break_a_file() -> None:
    nasty = '\x1b[2J"\\\n\udc80\u202e</script>'
    frame = make_frame(0, group=make_group(make_target(title=nasty, model=nasty)), warnings=(nasty,))
    frame = replace(frame, new_batches=(make_batch(0, frame.time_ns, suspect=nasty, engine=nasty),))
    for text in encoded(frame):
        assert text.isascii()
        assert not any(0xD800 <= ord(c) < 0xE000 for c in json.dumps(json.loads(text), ensure_ascii=False))


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("serve --api-key sk-123 --port 1", "serve --api-key *** --port 1"),
        ("env HF_TOKEN=hf_x serve", "env HF_TOKEN=*** serve"),
        ("serve --password=a", "serve --password=***"),
        ("serve --max-model-len 4096", "serve --max-model-len 4096"),
        ("VLLM::EngineCore", "VLLM::EngineCore"),
    ],
)
def test_secrets_on_a_command_line_are_not_recorded(title: str, shown: str) -> None:
    assert redacted(title) == shown
    texts = encoded(make_frame(0, group=make_group(make_target(title=title))))
    assert of_type(SessionInfo, texts)[0].group.members[0].title == shown


def test_a_batch_that_the_recording_cuts_is_marked() -> None:
    texts = [text for text in encoded(full_frame()) if '"name":"wait"' not in text]
    (first, second) = of_type(Batch, texts)
    assert first.suspect == CUT
    assert [each.name for each in first.stages] == ["schedule", "launch", "sample"]
    assert second.suspect == "a stage was lost"


def test_a_time_before_the_base_is_cut_to_it() -> None:
    frame = make_frame(0, time_ns=2 * BEFORE_NS)
    early = Request(2 * BEFORE_NS, 2 * BEFORE_NS, 1, 2)
    encoder = Encoder(frame)
    events = [json.loads(text) for text in encoder.events_of(replace(frame, requests=(early,)))]
    assert min(event["ts"] for event in events if event["ph"] == "b") == 0


def test_no_damage_to_an_event_raises() -> None:
    events = [json.loads(text) for text in encoded(full_frame())]
    state = Decoding()
    decode(events[0], state)
    for event in events:
        for key in event:
            for value in (None, "x", [], {}, -1, 1e999):
                decode({**event, key: value}, state)
        for key in event.get("args", {}):
            for value in (None, "x", [], {}, [1], 1e999):
                decode({**event, "args": {**event["args"], key: value}}, state)
            decode({**event, "args": {k: v for k, v in event["args"].items() if k != key}}, state)


times = st.integers(0, 40 * 24 * 3600 * 10**9)
lengths = st.integers(0, 10**11)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    start = draw(times) + START
    stages = tuple(
        Stage(
            draw(st.sampled_from(("schedule", "launch", "wait"))),
            draw(st.text(max_size=5).filter(str.isprintable)),
            start + draw(st.integers(0, 10**8)),
            draw(lengths),
            draw(st.sampled_from((4242, 4243))),
            draw(st.integers(0, 2**32 - 1)),
            draw(st.sampled_from((None, 0, 1))),
            draw(lengths),
        )
        for _ in range(draw(st.integers(0, 6)))
    )
    return make_batch(
        draw(st.integers(0, 2**40)),
        start,
        duration_ns=draw(lengths),
        period_ns=draw(st.none() | lengths),
        mode=draw(st.sampled_from(Mode)),
        stages=stages,
        workload=Workload(draw(st.none() | lengths), kv_usage=draw(st.none() | st.floats(0, 1))),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(batches(), max_size=5, unique_by=lambda batch: batch.seq))
def test_any_batches_survive_and_nest(made: list[Batch]) -> None:
    texts = encoded(make_frame(0, time_ns=START, new_batches=tuple(made)))
    assert sorted(of_type(Batch, texts), key=lambda b: b.seq) == sorted(made, key=lambda b: b.seq)
    assert_nested(texts)


def test_events_come_in_bursts_of_one_batch_with_its_stages_behind_it() -> None:
    frame: Frame = make_frame(5)
    found = [(e["cat"], e["args"]["seq"]) for e in map(json.loads, encoded(frame)) if e["ph"] == "X"]
    assert all(before[1] == after[1] or after[0] == "batch" for before, after in pairwise(found))
