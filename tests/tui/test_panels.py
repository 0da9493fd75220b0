"""What the panels say: numbers, bars, missing values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prismtop.model import (
    AttachState,
    Batch,
    Counter,
    EngineMetrics,
    Lost,
    ProbeCost,
    RankTime,
    Throughput,
    Workload,
)
from prismtop.tui.look import ASCII, UNICODE, Line, width_of
from prismtop.tui.numbers import count, milliseconds, percent, seconds
from prismtop.tui.panels import bar, batches, details, header, hooks, picker, stages, summary
from prismtop.tui.view import View
from tests.factories import MS, make_batch, make_frame, make_group, make_stages, make_target


def text_of(*lines: Line) -> str:
    return "\n".join("".join(text for text, _ in line) for line in lines)


def view_of(**changes: object) -> View:
    view = View()
    view.accept(make_frame(**changes))
    return view


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.204, "0.20"),
        (8.126, "8.13"),
        (9.996, "10.0"),
        (41.26, "41.3"),
        (812.4, "812"),
        (12_345.0, "12.3s"),
        (None, "-"),
    ],
)
def test_milliseconds_keep_three_digits(value: float | None, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (5353, 6, "5353"),
        (1_234_567, 6, "1.2M"),
        (123_456, 5, "123k"),
        (None, 5, "-"),
        (0, 5, "0"),
        (99_999_999, 4, "100M"),
    ],
)
def test_counts_fit_their_column(value: float | None, width: int, text: str) -> None:
    assert count(value, width) == text


def test_a_missing_fraction_is_not_zero_percent() -> None:
    assert percent(None) == "n/a"


@pytest.mark.parametrize(("value", "text"), [(4.9, "4 s"), (200, "3 m 20 s"), (7500, "2 h 05 m")])
def test_ages_are_written_in_two_units_at_most(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize("width", [1, 7, 39, 120])
def test_a_bar_has_exactly_its_width(width: int) -> None:
    assert width_of(bar.bar(make_batch(), width, 10.0, UNICODE)) == width


def test_a_bar_is_as_long_as_the_batch_is_of_the_scale() -> None:
    drawn = text_of(bar.bar(make_batch(), 40, 16.0, ASCII))
    assert len(drawn.rstrip()) == 20


def test_a_bar_that_is_too_long_ends_with_the_mark() -> None:
    drawn = text_of(bar.bar(make_batch(duration_ns=80 * MS), 40, 10.0, ASCII))
    assert drawn.endswith(ASCII.over)


def test_time_that_no_hook_covers_is_drawn_as_other() -> None:
    batch = make_batch(duration_ns=10 * MS)
    assert bar.stage_times(batch)["other"] == 2 * MS


def test_stages_of_two_ranks_are_not_added_up() -> None:
    two = (*make_stages(0, 1, launch=4.0), *make_stages(0, 2, launch=5.0))
    assert bar.stage_times(make_batch(stages=two, duration_ns=5 * MS)) == {"launch": 5 * MS}


def test_overlapping_stages_never_make_a_bar_longer_than_its_batch() -> None:
    overlap = (*make_stages(0, 1, wait=8.0), *make_stages(0, 2, launch=8.0))
    assert sum(bar.stage_times(make_batch(stages=overlap, duration_ns=8 * MS)).values()) <= 8 * MS


def test_a_batch_without_stages_says_so_instead_of_an_empty_bar() -> None:
    assert "no stages measured" in text_of(bar.bar(make_batch(stages=()), 30, 10.0, UNICODE))


def test_every_stage_has_its_own_character_in_both_sets() -> None:
    for glyphs in (UNICODE, ASCII):
        assert len(set(glyphs.stages.values())) == len(glyphs.stages)


def test_the_scale_stays_while_it_fits() -> None:
    eight = [make_batch(i) for i in range(20)]
    scale = bar.scale_for(eight, 0.0)
    assert scale == 10.0
    assert bar.scale_for([make_batch(i, duration_ns=7 * MS) for i in range(20)], scale) == scale


def test_the_scale_follows_longer_batches() -> None:
    assert bar.scale_for([make_batch(i, duration_ns=90 * MS) for i in range(20)], 10.0) >= 90


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200])
def test_rows_and_heading_are_as_wide_as_the_screen(width: int) -> None:
    row = batches.row(make_batch(), width, 10.0, UNICODE, at_cursor=False)
    assert width_of(row) <= width
    assert width_of(batches.heading(width, 10.0, "")) == width


def test_values_that_the_engine_does_not_expose_are_dashes_in_a_row() -> None:
    row = text_of(batches.row(make_batch(workload=Workload()), 80, 10.0, UNICODE, at_cursor=False))
    assert row.split()[2:5] == ["-", "-", "-"]


def test_the_list_is_newest_first() -> None:
    view = view_of(batches=20)
    drawn = batches.lines(view, 80, 6, UNICODE)
    assert text_of(drawn[1]).split()[:2] == [">", "19"]


def test_rank_skew_is_slowest_minus_fastest() -> None:
    ranks = (RankTime(0, 1, 3 * MS), RankTime(1, 2, 5 * MS))
    assert batches.rank_skew_ns(make_batch(ranks=ranks)) == 2 * MS


def test_an_empty_list_says_what_it_waits_for() -> None:
    view = view_of(batches=0, state=AttachState.ARMED, note="Armed: starts with the next request.")
    assert "starts with the next request" in text_of(*batches.lines(view, 80, 10, UNICODE))


def test_the_header_names_engine_process_and_state() -> None:
    shown = text_of(*header.lines(view_of(), 80, UNICODE, 0))
    assert "SENTINEL · vllm 0.33.0 · engine_core 4242" in shown


@pytest.mark.parametrize(
    ("state", "word"),
    [(AttachState.ARMED, "ARMED"), (AttachState.EXTERNAL, "EXTERNAL"), (AttachState.GONE, "GONE"),
     (AttachState.DETACHED, "DETACHED"), (AttachState.ATTACHING, "ATTACHING")],
)  # fmt: skip
def test_the_header_says_each_state(state: AttachState, word: str) -> None:
    assert word in text_of(*header.lines(view_of(state=state), 80, UNICODE, 0))


def test_the_attach_stop_is_the_longest_of_all_processes() -> None:
    frame = make_frame(costs=(ProbeCost(1, attach_us=80.0), ProbeCost(2, attach_us=240.0)))
    assert header.attach_stop(frame) == "attach 0.24 ms"


def test_an_attach_without_a_stop_says_so() -> None:
    assert header.attach_stop(make_frame(costs=(ProbeCost(1),))) == "attach no stop"


def test_unknown_costs_are_not_zero() -> None:
    frame = make_frame()
    assert header.attach_stop(frame) == "attach n/a"
    assert header.probe_share(frame) == "probe n/a"


def test_many_workers_are_counted_instead_of_listed() -> None:
    workers = [make_target(100 + i, role="worker", ranks=(("TP", i),)) for i in range(8)]
    group = make_group(*workers)
    assert header.processes(group) == "worker x8 100.."
    assert header.parallelism(group) == "TP8"


def test_the_model_is_shown_by_its_last_part() -> None:
    assert header.model_name(make_group(make_target(model="/models/Qwen/Qwen3-32B/"))) == "Qwen3-32B"


def test_request_latencies_are_na_when_no_request_was_seen() -> None:
    shown = text_of(*summary.lines(view_of(throughput=Throughput(10.0, 118.0)), 80, 2, UNICODE))
    assert "TTFT n/a" in shown
    assert "tok/s n/a" in shown


def test_iterations_that_were_not_counted_lately_are_no_zero() -> None:
    shown = text_of(*summary.lines(view_of(throughput=Throughput(10.0, None)), 80, 2, UNICODE))
    assert shown == " rates n/a: no iteration was counted from outside in the last 10 s"


@pytest.mark.parametrize(
    ("state", "why"),
    [(AttachState.DETACHED, "the probe has left the engine"), (AttachState.GONE, "the engine has ended")],
)
def test_without_a_probe_no_rate_is_shown_as_zero(state: AttachState, why: str) -> None:
    gone = view_of(state=state, throughput=Throughput(10.0, 0.0, requests_per_s=0.0, busy=0.0))
    assert text_of(*summary.lines(gone, 80, 2, UNICODE)) == f" rates n/a: {why}"


def test_lost_records_are_on_the_status_line() -> None:
    assert "lost 12" in text_of(summary.status(view_of(lost=Lost(records=12)), 80, UNICODE))


def test_a_count_that_differs_from_the_engines_own_is_shown_with_both_numbers() -> None:
    metrics = EngineMetrics(url="http://x/metrics", batch_count=2000, batches_seen=1990)
    shown = text_of(summary.status(view_of(metrics=metrics), 80, UNICODE))
    assert "engine counts 2,000, seen 1,990" in shown


def test_a_batch_in_flight_is_no_difference() -> None:
    metrics = EngineMetrics(url="http://x/metrics", batch_count=2000, batches_seen=1998)
    assert "all batches seen" in text_of(summary.status(view_of(metrics=metrics), 80, UNICODE))


def test_the_stage_table_shows_dashes_for_a_mode_without_that_stage() -> None:
    from prismtop.model import Percentiles

    three = Percentiles(5, 1.0, 2.0, 3.0)
    rates = Throughput(10.0, 118.0, stage_ms={("decode", "wait"): three, ("prefill", "launch"): three})
    table = text_of(*stages.table(view_of(throughput=rates), 120, UNICODE))
    wait = next(line for line in table.splitlines() if " wait " in line)
    assert wait.split()[2:] == ["1.00", "2.00", "3.00", "-", "-", "-"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_legend_fits_the_screen(width: int) -> None:
    assert width_of(stages.legend(view_of(), width, UNICODE)) <= width


def details_of(batch: Batch, around: tuple[Batch, ...] = (), width: int = 80) -> str:
    return text_of(*details.lines(batch, around, make_frame(), width, 10.0, UNICODE))


def test_details_name_what_the_engine_does_not_expose() -> None:
    shown = details_of(make_batch(workload=Workload(batch_size=3)))
    assert "batch size 3" in shown
    assert "longest context" in shown[shown.index("n/a") :]


def test_details_mark_the_slowest_rank() -> None:
    ranks = (RankTime(0, 1, 3 * MS), RankTime(1, 2, 5 * MS))
    assert "rank 1 (pid 2) 5.00 slowest" in details_of(make_batch(ranks=ranks))


def test_details_show_three_neighbours_on_each_side() -> None:
    around = tuple(make_batch(seq) for seq in range(30, 10, -1))
    shown = details_of(make_batch(20), around)
    assert [seq for seq in range(10, 31) if f"     {seq} dec" in shown or f">     {seq} dec" in shown] == [
        *range(17, 24)
    ]


def test_details_say_why_a_batch_is_not_trusted() -> None:
    assert "not fully trusted: an exception left a stage open" in details_of(
        make_batch(suspect="an exception left a stage open")
    )


def test_the_probe_page_gives_the_reason_of_a_hook_that_is_missing() -> None:
    from prismtop.model import HookStatus

    view = view_of(hooks=(HookStatus("sample", "sample", 4242, "", "module not loaded"),))
    assert "n/a: module not loaded" in text_of(*hooks.lines(view, 80, UNICODE))


def test_the_picker_shows_why_the_best_way_in_cannot_be_taken() -> None:
    group = make_group(make_target(refusal="Yama forbids it (ptrace_scope 1)."))
    assert "ptrace_scope 1" in text_of(*picker.notes(group, 80))


def test_details_show_the_counters_of_the_batchs_own_second() -> None:
    batch = make_batch(7)
    key = ("host_cpu_busy_ratio", "host")
    now = Counter(*key, "ratio", batch.end_ns + 2_000_000_000, 0.11)
    frame = replace(make_frame(), counters=(now,), counter_history={key: (0.93, 0.93, 0.11)})
    shown = text_of(*details.lines(batch, (), frame, 80, 10.0, UNICODE))
    assert "counters of that second" in shown
    assert "cpu busy 93%" in shown


def test_details_say_that_no_counter_is_kept_of_an_old_batch() -> None:
    batch = make_batch(7)
    key = ("host_cpu_busy_ratio", "host")
    now = Counter(*key, "ratio", batch.end_ns + 900_000_000_000, 0.11)
    frame = replace(make_frame(), counters=(now,), counter_history={key: (0.11,)})
    assert "no reading is kept of that time" in text_of(*details.lines(batch, (), frame, 80, 10.0, UNICODE))
