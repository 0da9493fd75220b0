"""Switches and wake-ups made into slices; the lines of the tools were recorded on Linux 6.18."""

from __future__ import annotations

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.layers.switches import Switch, Wakeup, parse_bpftrace, parse_perf, slices

US, MS = 1000, 10**6
PERF = """\
          :31125 31125 [001] 12691.328234027: sched:sched_switch: prev_comm=python prev_pid=31125 \
prev_prio=120 prev_state=S ==> next_comm=my app ==> x next_pid=31123 next_prio=120
          python 31125 [001] 12691.330526187:    sched:sched_wakeup: comm=python pid=31123 prio=120 \
target_cpu=000
            :1025  1025 [001] 12691.332380299: sched:sched_switch: memfd:sealed-91:1025 [120] R+ ==> \
python:31123 [120]

nonsense
"""
BPFTRACE = """
@s[13428346716491, 1, 16463, 1, 16468, python, my, app]: 1
@s[13429057058243, 1, 11376, 0, 16463, vllm, python]: 1
@s[13428624661159, 0, 16463, 256, 11376, python, vllm]: 1
@w[13428300000000, 1, 16463, 16343, python]: 1
@s[cut
"""


def switch(at: int, tid: int, state: str, next_tid: int, core: int = 1, **names: str) -> Switch:
    name = names.get("name", f"t{tid}")
    return Switch(at, core, tid, name, state, next_tid, names.get("next_name", f"t{next_tid}"))


def made(
    *records: Switch | Wakeup, window: tuple[int, int] = (0, 100 * MS), every_thread: bool = False
) -> list[LayerEvent]:
    """Slices of thread 7 of process 5."""
    return list(slices(records, {7: 5}, window, every_thread=every_thread))


def spans(events: list[LayerEvent], name: str) -> list[tuple[int, int]]:
    return [(event.t0_ns, event.t0_ns + event.dur_ns) for event in events if event.name == name]


def test_both_ways_of_perf_to_write_a_switch_are_read() -> None:
    records, odd = parse_perf(PERF.split("\n"))
    assert records == [
        Switch(12691328234027, 1, 31125, "python", "S", 31123, "my app ==> x"),
        Wakeup(12691330526187, 0, 31123, 31125, "python"),
        Switch(12691332380299, 1, 1025, "memfd:sealed-91", "R+", 31123, "python"),
    ]
    assert odd == 1


def test_what_bpftrace_kept_is_read_in_order_of_time() -> None:
    records, odd = parse_bpftrace(BPFTRACE.split("\n"))
    assert [record.at_ns for record in records] == sorted(record.at_ns for record in records)
    assert records[0] == Wakeup(13428300000000, 1, 16463, 16343, "python")
    assert [record.state for record in records if isinstance(record, Switch)] == ["S", "R", "R"]
    assert odd == 1


def test_a_thread_that_is_woken_waits_until_it_gets_a_core_and_runs_until_it_sleeps() -> None:
    events = made(
        Wakeup(10 * MS, 1, 7, 3, "waker"), switch(12 * MS, 9, "R", 7, name="hog"), switch(20 * MS, 7, "S", 9)
    )
    assert spans(events, "runq") == [(10 * MS, 12 * MS)]
    assert spans(events, "oncpu") == [(12 * MS, 20 * MS)]
    assert events[0].args == {"core": 1, "instead": "hog", "instead_tid": 9, "waker": "waker"}
    assert events[1].args["ended"] == "sleep"
    assert {(event.pid, event.tid) for event in events} == {(5, 7)}


def test_a_thread_that_loses_its_core_waits_from_then_on() -> None:
    events = made(switch(5 * MS, 7, "R+", 9, next_name="hog"), switch(9 * MS, 9, "R", 7, name="hog"))
    assert spans(events, "runq") == [(5 * MS, 9 * MS)]
    waited = next(event for event in events if event.name == "runq")
    assert waited.args["preempted_by"] == "hog"
    # It must have been on its core since tracing began, and is on one when it ends.
    assert spans(events, "oncpu") == [(0, 5 * MS), (9 * MS, 100 * MS)]
    assert events[-1].args["open"] is True


def test_with_all_switches_known_the_one_that_had_the_core_longest_is_named() -> None:
    events = made(
        switch(1 * MS, 7, "R", 9, next_name="hog"),
        switch(8 * MS, 9, "R", 11, name="hog", next_name="kworker"),
        switch(9 * MS, 11, "S", 7, name="kworker"),
        every_thread=True,
    )
    waited = next(event for event in events if event.name == "runq")
    assert (waited.args["instead"], waited.args["instead_ns"], waited.args["also"]) == (
        "hog",
        7 * MS,
        "kworker",
    )


def test_a_wait_that_has_not_ended_names_who_has_the_core() -> None:
    events = made(
        Wakeup(10 * MS, 1, 7, 3, "a"), switch(20 * MS, 8, "S", 9, name="left first", next_name="hog"),
        every_thread=True,
    )  # fmt: skip
    waited = next(event for event in events if event.name == "runq")
    assert waited.args["open"] is True
    assert (waited.args["instead"], waited.args["instead_ns"]) == ("hog", 80 * MS)
    assert waited.args["also"] == "left first"


def test_a_wait_behind_an_idle_core_blames_nobody() -> None:
    events = made(
        Wakeup(10 * MS, 1, 7, 0, "swapper/1"), switch(10 * MS + 30 * US, 0, "R", 7, name="swapper/1")
    )
    waited = next(event for event in events if event.name == "runq")
    assert waited.args == {"core": 1}


def test_a_wait_for_a_disk_is_told_apart_from_sleep() -> None:
    events = made(
        switch(2 * MS, 7, "D", 0), Wakeup(6 * MS, 1, 7, 0, "swapper/1"), switch(7 * MS, 0, "R", 7),
        switch(8 * MS, 7, "S", 0),
    )  # fmt: skip
    assert spans(events, "blocked") == [(2 * MS, 6 * MS)]
    assert spans(events, "runq") == [(6 * MS, 7 * MS)]


def test_names_of_other_programs_cannot_write_to_the_terminal() -> None:
    events = made(
        switch(5 * MS, 7, "R", 9, next_name="\x1b[31mhog"), switch(9 * MS, 9, "R", 7, name="\x1b[31mhog")
    )
    assert "\x1b" not in repr([dict(event.args) for event in events])


def test_a_second_wake_up_does_not_begin_the_wait_anew() -> None:
    events = made(
        Wakeup(10 * MS, 1, 7, 3, "a"), Wakeup(11 * MS, 1, 7, 3, "a"), switch(12 * MS, 0, "R", 7),
        switch(13 * MS, 7, "S", 0),
    )  # fmt: skip
    assert spans(events, "runq") == [(10 * MS, 12 * MS)]


def test_a_thread_on_an_idle_core_runs_from_its_wake_up_when_no_switch_from_idle_is_told() -> None:
    events = made(Wakeup(10 * MS, 1, 7, 0, "swapper/1"), switch(14 * MS, 7, "S", 0))
    assert spans(events, "oncpu") == [(10 * MS, 14 * MS)]
    assert spans(events, "runq") == []
    assert events[0].args["began"] == "when it was woken: the core was idle"


def test_who_was_switched_to_from_idle_untold_is_named_by_those_who_wait_for_it() -> None:
    events = made(
        switch(MS, 9, "S", 0, name="the hog"),
        Wakeup(10 * MS, 1, 7, 0, "swapper/1"),
        switch(30 * MS, 9, "R", 7, name="the hog"),
        every_thread=True,
    )
    (wait,) = (event for event in events if event.name == "runq")
    assert (wait.args["instead"], wait.args["instead_ns"]) == ("the hog", 20 * MS)


def test_threads_of_others_make_no_slices() -> None:
    assert made(switch(5 * MS, 8, "R", 9), Wakeup(6 * MS, 1, 8, 3, "a")) == []
