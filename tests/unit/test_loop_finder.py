"""Candidates for an unknown engine's loop, from stack samples; which of them it is, from their records."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from prismtop.probe import agent
from prismtop.sources.loop_finder import CALLEE_SHARE, Found, find
from prismtop.sources.stacks import Stack, StackFrame
from prismtop.sources.ticks import Choice, LoopChooser, TickAssembler

MS = 1_000_000
LIB = "/usr/lib/python3.12/threading.py"
MAIN, LOOP = ("<module>", "/app/run.py"), ("Engine.loop", "/app/engine.py")
STEP = ("Engine.step", "/app/engine.py")


def stack(count: int, *frames: tuple[str, str] | tuple[str, str, int], thread: str = "1") -> Stack:
    made = tuple(StackFrame(f[0], f[1], f[2] if len(f) > 2 else 10) for f in frames)
    return Stack(thread, made, count)


def names(found: Found) -> list[str]:
    return [candidate.name for candidate in found.candidates]


def engine_stacks(thread: str = "1") -> list[Stack]:
    """A loop that calls a step, which calls two things."""
    return [
        stack(20, MAIN, LOOP, STEP, ("forward", "/app/model.py"), thread=thread),
        stack(15, MAIN, LOOP, STEP, ("sample", "/app/model.py"), thread=thread),
        stack(5, MAIN, LOOP, STEP, thread=thread),
    ]


def test_what_is_in_all_samples_is_a_candidate_outermost_first() -> None:
    assert names(find(engine_stacks(), {}, callees=False)) == ["<module>", "Engine.loop", "Engine.step"]


def test_a_wrong_sample_among_many_changes_nothing() -> None:
    torn = stack(1, MAIN, ("sample", "/app/model.py"))
    assert names(find([*engine_stacks(), torn], {}, callees=False)) == names(
        find(engine_stacks(), {}, callees=False)
    )


def test_of_few_samples_one_may_be_wrong() -> None:
    few = [stack(3, MAIN, LOOP, STEP), stack(1, MAIN)]
    assert names(find(few, {"1": 500 * MS}, callees=False)) == ["<module>", "Engine.loop", "Engine.step"]


def test_callees_of_the_innermost_are_added_where_the_loop_cannot_tick() -> None:
    rare = stack(1, MAIN, LOOP, STEP, ("log", "/app/model.py"))
    assert CALLEE_SHARE > 1 / 41
    assert names(find([*engine_stacks(), rare], {}, callees=True))[3:] == ["forward", "sample"]


def test_the_caller_of_a_candidate_is_kept() -> None:
    step = find(engine_stacks(), {}, callees=False).candidates[2]
    assert step.caller == StackFrame(*LOOP, 10)


def test_functions_of_the_standard_library_are_no_candidates() -> None:
    run = ("Thread.run", LIB)
    stacks = [stack(9, run, LOOP, STEP), stack(9, run, LOOP, ("other", "/app/engine.py"))]
    assert names(find(stacks, {}, callees=False)) == ["Engine.loop"]


def test_site_packages_are_not_the_standard_library() -> None:
    vllm = ("EngineCore.loop", "/usr/lib/python3.12/site-packages/vllm/core.py")
    stacks = [stack(9, vllm, STEP), stack(9, vllm, ("other", "/app/engine.py"))]
    assert names(find(stacks, {}, callees=False)) == ["EngineCore.loop"]


def test_a_thread_that_waits_is_left_out_beside_a_busy_one() -> None:
    waiting = stack(40, ("worker", "/app/io.py"), ("Queue.get", LIB), thread="2")
    found = find([waiting, *engine_stacks()], {}, callees=False)
    assert (names(found), found.busy) == (["<module>", "Engine.loop", "Engine.step"], True)


def test_samples_in_a_wait_do_not_hide_what_works_at_other_times() -> None:
    waiting = stack(60, MAIN, LOOP, ("Queue.get", LIB), ("Condition.wait", LIB))
    assert "Engine.step" in names(find([waiting, *engine_stacks()], {}, callees=False))


def test_the_thread_with_most_cpu_time_comes_first() -> None:
    other = [
        stack(9, ("feed", "/app/feed.py", 1), thread="2"),
        stack(9, ("feed", "/app/feed.py", 2), thread="2"),
    ]
    assert names(find([*engine_stacks(), *other], {"1": 10 * MS, "2": 900 * MS}, callees=False))[0] == "feed"


def test_cpu_time_makes_a_thread_busy_that_was_always_seen_at_one_line() -> None:
    found = find([stack(40, MAIN, LOOP, STEP)], {"1": 500 * MS}, callees=False)
    assert (found.busy, names(found)) == (True, ["<module>", "Engine.loop", "Engine.step"])


def test_an_idle_process_has_candidates_too_but_is_not_busy() -> None:
    found = find([stack(40, MAIN, LOOP, ("Queue.get", LIB))], {}, callees=False)
    assert (found.busy, names(found)) == (False, ["<module>", "Engine.loop"])


def test_without_python_of_its_own_there_is_no_candidate() -> None:
    assert find([stack(40, ("Queue.get", LIB))], {}, callees=True) == Found((), False, 0)


# -- which candidate it is


def tick(
    fid: int,
    end: int,
    *,
    length: int = 8 * MS,
    cpu: int | None = None,
    starts: int = 0,
    call: bool = False,
    thread: int = 7,
) -> tuple[int, ...]:
    """A record of a loop hook, at line 64: times in ns."""
    values = (agent.MISSING, length if cpu is None else cpu, starts, int(call), 64, 1)
    return (1, end - length, end, fid, thread, *values, *(agent.MISSING,) * 5, 1)


def ticks(fid: int, count: int, **more: int | bool) -> list[tuple[int, ...]]:
    return [tick(fid, 10**9 + n * 100 * MS, **more) for n in range(count)]  # type: ignore[arg-type]


def chooser(*records: Sequence[tuple[int, ...]], loops: bool = True) -> LoopChooser:
    made = LoopChooser({0: loops, 1: loops, 2: loops})
    for several in records:
        made.feed(several)
    return made


def test_a_function_that_turns_and_is_never_called_is_the_loop() -> None:
    inner = [tick(2, 10**9 + n * 50 * MS, starts=n // 2) for n in range(20)]
    assert chooser(ticks(1, 10), inner).decide() == Choice(1, False, 64)


def test_too_few_turns_decide_nothing() -> None:
    assert chooser(ticks(1, 2)).decide() is None


def test_turns_that_all_came_at_once_decide_nothing() -> None:
    assert chooser([tick(1, 10**9 + n * MS) for n in range(20)]).decide() is None


def test_a_loop_that_is_entered_seldom_is_still_one() -> None:
    assert chooser(ticks(1, 60, starts=2)).decide() == Choice(1, False, 64)


def test_without_a_loop_the_outermost_function_that_is_called_is_the_turn() -> None:
    calls = [ticks(fid, 9, starts=9, call=True) for fid in (2, 1)]
    assert chooser(*calls).decide() == Choice(1, True, 0)


def test_short_calls_are_no_turns() -> None:
    assert chooser(ticks(0, 30, length=1000), ticks(1, 30), loops=False).decide() == Choice(1, True, 0)


def test_a_hook_that_was_taken_out_is_not_chosen() -> None:
    made = chooser(ticks(0, 30), ticks(1, 30))
    made.drop({0})
    assert made.decide() == Choice(1, False, 64)


def test_the_hooks_around_the_loop_are_kept_those_inside_are_not() -> None:
    assert chooser(ticks(1, 30)).keep(Choice(1, False, 64)) == 0b011


# -- its turns as batches


@pytest.fixture
def assembler() -> TickAssembler:
    made = TickAssembler(42, "unknown")
    made.follow(Choice(1, False, 64), loop=True)
    return made


def consecutive(count: int, length: int = 8 * MS) -> list[tuple[int, ...]]:
    return [tick(1, 10**9 + n * length, length=length) for n in range(count)]


def test_a_turn_is_a_batch_from_tick_to_tick(assembler: TickAssembler) -> None:
    first, second = assembler.feed(consecutive(2))
    assert (second.start_ns, second.duration_ns, second.period_ns) == (first.end_ns, 8 * MS, 8 * MS)
    assert (first.period_ns, second.seq, second.pid) == (None, 1, 42)


def test_records_of_other_hooks_and_calls_are_no_batches(assembler: TickAssembler) -> None:
    assert assembler.feed([tick(2, 10**9), tick(1, 10**9, call=True)]) == []


def test_turns_too_short_for_a_batch_are_idle_time(assembler: TickAssembler) -> None:
    late = tick(1, 10**9 + 500 * MS)
    batch = assembler.feed([*consecutive(1), late])[-1]
    assert (batch.idle_ns, batch.period_ns, batch.duration_ns) == (492 * MS, None, 8 * MS)


def test_a_long_turn_in_which_the_thread_slept_is_split_by_its_cpu_time(assembler: TickAssembler) -> None:
    turns = consecutive(20)
    long = tick(1, turns[-1][2] + 3000 * MS, length=3000 * MS, cpu=6 * MS)
    batch = assembler.feed([*turns, long])[-1]
    assert (batch.duration_ns, batch.idle_ns, batch.period_ns) == (6 * MS, 2994 * MS, None)
    assert batch.suspect.startswith("waited 2.99 s")


def test_a_long_turn_in_which_the_thread_worked_stays_one(assembler: TickAssembler) -> None:
    turns = consecutive(20)
    long = tick(1, turns[-1][2] + 3000 * MS, length=3000 * MS, cpu=2500 * MS)
    batch = assembler.feed([*turns, long])[-1]
    assert (batch.duration_ns, batch.idle_ns, batch.suspect) == (3000 * MS, 0, "")


def test_two_threads_in_one_loop_have_periods_of_their_own(assembler: TickAssembler) -> None:
    mixed = [tick(1, 10**9 + n * 4 * MS, thread=n % 2) for n in range(4)]
    assert [batch.period_ns for batch in assembler.feed(mixed)] == [None, None, 8 * MS, 8 * MS]


def test_after_lost_records_the_period_is_not_known(assembler: TickAssembler) -> None:
    turns = consecutive(2)
    assembler.feed(turns[:1])
    assembler.gap()
    assert assembler.feed(turns[1:])[0].period_ns is None


def test_calls_have_other_work_between_them_which_is_not_idle() -> None:
    made = TickAssembler(42, "unknown")
    made.follow(Choice(1, True, 0), loop=False)
    calls = [tick(1, 10**9 + n * 10 * MS, length=8 * MS) for n in range(20)]
    late = tick(1, calls[-1][2] + 400 * MS, length=8 * MS)
    batches = made.feed([*calls, late])
    assert (batches[-2].idle_ns, batches[-2].period_ns, batches[-2].duration_ns) == (0, 10 * MS, 8 * MS)
    assert (batches[-1].idle_ns, batches[-1].period_ns) == (392 * MS, None)
