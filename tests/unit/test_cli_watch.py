"""`prismtop watch`: what is printed, when it ends, and with which exit code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from prismtop.commands import watch
from prismtop.commands.context import Interrupted, closing_session
from prismtop.errors import EXIT_FINDING, EXIT_OK, EXIT_UNAVAILABLE, UnavailableError
from prismtop.model import (
    AttachState,
    Capture,
    CapturePhase,
    CaptureRequest,
    Counter,
    HookStatus,
    Lost,
    Request,
)
from tests.factories import make_batch, make_frame
from tests.unit.doubles import FakeReporter, FakeSession, FakeSignals, make_context


def types(text: str) -> list[str]:
    return [json.loads(line)["type"] for line in text.splitlines()]


def test_the_first_line_is_the_session_and_every_batch_is_a_line() -> None:
    context, out, _ = make_context(json=True)
    watched = watch.stream(context, FakeSession([make_frame(3)]), batches=3)
    assert types(out.getvalue()) == ["session", "batch", "batch", "batch"]
    assert watched == watch.Watched(3, False)


def test_exactly_the_number_asked_for_is_printed_although_more_came_at_once() -> None:
    context, out, _ = make_context(json=True)
    watched = watch.stream(context, FakeSession([make_frame(4), make_frame(20)]), batches=10)
    assert types(out.getvalue()).count("batch") == 10
    assert watched.batches == 10


def test_no_tick_follows_the_last_batch_asked_for() -> None:
    session = FakeSession([make_frame(5), make_frame(5)])
    context, _, _ = make_context(json=True)
    watch.stream(context, session, batches=5)
    assert session.ticks == 1


def test_the_stream_ends_with_its_duration_even_without_a_batch() -> None:
    context, out, report = make_context(json=True)
    idle = make_frame(0, state=AttachState.ARMED, note="armed: starts with the next request")
    watched = watch.stream(context, FakeSession([idle]), duration_s=0.05)
    assert types(out.getvalue()) == ["session"]
    assert watch.conclude(context, watched, None, "vllm 0.33.0") == EXIT_OK
    assert report.said == ["no batch was seen: vllm 0.33.0 had nothing to do"]


def test_a_change_of_state_is_a_line_with_the_hooks_as_they_are_now() -> None:
    armed = make_frame(0, state=AttachState.ARMED)
    live = make_frame(1, hooks=(HookStatus("schedule", "schedule", 4242, "monitoring"),))
    context, out, _ = make_context(json=True)
    watch.stream(context, FakeSession([armed, armed, live]), batches=1)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["type"] for line in lines] == ["session", "state", "batch"]
    assert lines[1]["state"] == "live"
    assert lines[1]["hooks"][0]["mechanism"] == "monitoring"


def test_lost_records_are_counted_since_the_previous_line_and_only_when_there_are_new_ones() -> None:
    frames = [make_frame(1, lost=Lost(records=n)) for n in (2, 2, 5)]
    context, out, _ = make_context(json=True)
    watch.stream(context, FakeSession(frames), batches=3)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["count"] for line in lines if line["type"] == "lost"] == [2, 3]


def test_finished_requests_and_warnings_are_lines() -> None:
    frame = make_frame(1, requests=(Request(10**12, 5_000_000),), warnings=("a hook was dropped",))
    context, out, _ = make_context(json=True)
    watch.stream(context, FakeSession([frame]), batches=1)
    assert types(out.getvalue()) == ["session", "warning", "batch", "request"]


def test_counters_that_are_sampled_for_the_causes_of_alerts_are_no_lines() -> None:
    frame = make_frame(1, new_counters=(Counter("host_running_count", "host", "count", 10**12, 3.0),))
    context, out, _ = make_context(json=True)
    watch.stream(context, FakeSession([frame]), batches=1)
    assert types(out.getvalue()) == ["session", "batch"]


def test_counters_are_lines_and_a_gap_is_told_when_its_reason_changes() -> None:
    def counters(reason: str) -> tuple[Counter, ...]:
        gap = Counter("gpu_fan_ratio", "gpu 0", "ratio", 10**12, reason=reason)
        return (Counter("host_running_count", "host", "count", 10**12, 3.0), gap)

    frames = [make_frame(1, new_counters=counters(reason)) for reason in ("a", "a", "b")]
    context, out, _ = make_context(json=True)
    context = replace(context, settings=replace(context.settings, counters=True))
    watch.stream(context, FakeSession(frames), batches=3)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    made = [(line["name"], line.get("reason")) for line in lines if line["type"] == "counter"]
    assert made == [
        ("host_running_count", None),
        ("gpu_fan_ratio", "a"),
        ("host_running_count", None),
        ("host_running_count", None),
        ("gpu_fan_ratio", "b"),
    ]


def test_a_warning_that_comes_with_every_frame_is_printed_once() -> None:
    frame = make_frame(1, warnings=("the ring is small",))
    context, out, _ = make_context(json=True)
    watch.stream(context, FakeSession([frame, frame, frame]), batches=3)
    assert types(out.getvalue()).count("warning") == 1


def test_the_table_has_its_headings_once_in_a_pipe() -> None:
    context, out, _ = make_context()
    watch.stream(context, FakeSession([make_frame(60), make_frame(60)]), batches=120)
    lines = out.getvalue().splitlines()
    assert len(lines) == 121
    assert sum("mode" in line for line in lines) == 1


def test_the_table_repeats_its_headings_when_the_hooks_change_the_columns() -> None:
    hooks = (HookStatus("schedule", "schedule", 4242, "monitoring"),)
    context, out, _ = make_context()
    watch.stream(context, FakeSession([make_frame(1), make_frame(1, hooks=hooks)]), batches=2)
    assert sum("mode" in line for line in out.getvalue().splitlines()) == 2


def test_what_is_no_batch_goes_to_stderr_when_a_table_is_printed() -> None:
    frame = make_frame(1, note="armed: starts with the next request", lost=Lost(records=4))
    context, out, report = make_context()
    watch.stream(context, FakeSession([frame]), batches=1)
    assert len(out.getvalue().splitlines()) == 2
    assert report.said == [
        "armed: starts with the next request",
        "lost 4 records (0 torn, 0 incomplete batches)",
    ]


def test_a_target_that_ends_after_some_batches_is_no_error_without_a_number() -> None:
    frames = [make_frame(2), make_frame(0, state=AttachState.GONE)]
    context, _, report = make_context()
    watched = watch.stream(context, FakeSession(frames))
    assert watch.conclude(context, watched, None, "vllm") == EXIT_OK
    assert report.said[-1] == "vllm ended after 2 batches"


@pytest.mark.parametrize(("seen", "wanted"), [(0, None), (0, 5), (2, 5)])
def test_a_target_that_ends_too_early_is_not_available(seen: int, wanted: int | None) -> None:
    context, _, _ = make_context()
    with pytest.raises(UnavailableError, match=f"vllm ended after {seen}") as caught:
        watch.conclude(context, watch.Watched(seen, True), wanted, "vllm")
    assert caught.value.exit_code == EXIT_UNAVAILABLE


def test_fewer_batches_than_asked_for_in_the_time_is_a_finding() -> None:
    context, _, report = make_context()
    assert watch.conclude(context, watch.Watched(3, False), 10, "vllm") == EXIT_FINDING
    assert report.said == ["3 of 10 batches were seen in that time"]


def test_a_signal_ends_the_stream_between_two_lines_and_detaches() -> None:
    context, out, _ = make_context(json=True, signals=FakeSignals(interrupt_at=3))
    session = FakeSession([make_frame(5), make_frame(5)])
    with pytest.raises(Interrupted), closing_session(context, session):
        watch.stream(context, session)
    assert session.closed == 1
    assert types(out.getvalue()).count("batch") == 10


def test_what_detaching_leaves_behind_is_said() -> None:
    reporter = FakeReporter()
    context, _, _ = make_context(reporter=reporter)
    with closing_session(context, FakeSession([make_frame(0)], ("modules stay imported",))):
        pass
    assert reporter.said == ["modules stay imported"]


def test_an_error_while_reading_detaches() -> None:
    class Broken(FakeSession):
        def tick(self) -> None:  # type: ignore[override]
            raise UnavailableError("the ring is of another version.")

    session = Broken([])
    context, _, _ = make_context()
    with pytest.raises(UnavailableError), closing_session(context, session):
        watch.stream(context, session)
    assert session.closed == 1


def test_batches_after_the_cut_do_not_leak_into_a_later_line() -> None:
    context, out, _ = make_context(json=True)
    frame = make_frame(0, new_batches=(make_batch(7), make_batch(8)))
    watch.stream(context, FakeSession([replace(frame)]), batches=1)
    assert [json.loads(line).get("seq") for line in out.getvalue().splitlines()] == [None, 7]


def test_watching_from_outside_without_batches_says_what_was_seen() -> None:
    context, _, report = make_context()
    watch.conclude(context, watch.Watched(0, False, note="launch 71 % of samples"), None, "vllm")
    assert report.said == ["no batch can be told from outside: launch 71 % of samples"]


@pytest.mark.parametrize(("json_", "wanted"), [(True, True), (False, False)])
def test_counters_are_not_sampled_for_a_table(json_: bool, wanted: bool) -> None:
    context, _, report = make_context(json=json_)
    asked = replace(context, settings=replace(context.settings, counters=True))
    assert watch.wants_counters(asked) is wanted
    assert report.said == ([] if wanted else ["the table has no counters: use --json, or the screen"])


def test_a_capture_is_a_line_for_each_of_its_phases() -> None:
    capture = Capture(1, CaptureRequest(why="alert 3"), CapturePhase.CAPTURING, 10**12)
    frames = [
        make_frame(1, capture=capture),
        make_frame(1, capture=replace(capture, batches=9)),
        make_frame(1, capture=replace(capture, phase=CapturePhase.DONE, path="/x.json.gz")),
    ]
    context, out, report = make_context(json=True)
    watch.stream(context, FakeSession(frames), batches=3)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    told = [(line["phase"], line["why"]) for line in lines if line["type"] == "capture"]
    assert told == [("capturing", "alert 3"), ("done", "alert 3")]
    context, _, report = make_context()
    watch.stream(context, FakeSession(frames), batches=3)
    assert [said for said in report.said if "DeepDive" in said][-1].endswith("0 batches: /x.json.gz")
