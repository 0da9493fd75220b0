"""A capture from the question to the file, and every way out of it."""

from __future__ import annotations

import os
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from prismtop.deepdive import run
from prismtop.deepdive.gate import START_STALL_MS, STOP_STALL_MS_PER_BATCH
from prismtop.deepdive.place import scratch
from prismtop.errors import UnavailableError, UsageError
from prismtop.model import AttachState, Capture, CapturePhase, CaptureRequest, LayerState
from prismtop.sources.deep_link import DeepFacts, DeepStatus
from tests.unit.deepdive_doubles import SECOND, World, make_link, script

BEFORE_END = (CapturePhase.PREPARING, CapturePhase.ARMED, CapturePhase.CAPTURING)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.warm_up()
    return made


def state(capture: Capture, name: str) -> LayerState:
    return next(layer.state for layer in capture.layers if layer.name == name)


def reason(capture: Capture, name: str) -> str:
    return next(layer.reason for layer in capture.layers if layer.name == name)


def test_the_phases_come_in_their_order(world: World) -> None:
    phases = [world.start().phase]
    for _ in range(8):
        capture = world.tick()
        assert capture is not None
        if capture.phase is not phases[-1]:
            phases.append(capture.phase)
    assert phases == [
        CapturePhase.PREPARING, CapturePhase.ARMED, CapturePhase.CAPTURING, CapturePhase.EXPORTING,
        CapturePhase.DONE,
    ]  # fmt: skip


def test_a_capture_ends_with_a_trace_and_what_it_cost(world: World) -> None:
    world.start(batches=50)
    capture = world.until_final()
    assert (capture.phase, capture.batches, capture.stall_ms) == (CapturePhase.DONE, 50, 1000.0)
    path = Path(capture.path)
    assert path.exists()
    assert path.name.startswith("deepdive-")
    assert path.name.endswith("-vllm.json.gz")
    assert capture.before_ms == pytest.approx(8.0)
    assert capture.clock_error_ns == 3000
    assert capture.notes == ("it compiles the capture itself",)


def test_layers_after_it_have_their_events(world: World) -> None:
    world.start()
    capture = world.until_final()
    counted = {layer.name: layer.events for layer in capture.layers}
    assert (counted["operators"], counted["scheduler"], counted["batches"]) == (5000, 1, 50)
    assert counted["gpu"] == 0


def test_the_trace_says_of_a_layer_what_is_known_once_it_was_read(world: World) -> None:
    world.start()
    world.until_final()
    assert reason(world.written[0]["capture"], "scheduler").endswith("; read")


def test_the_trace_gets_frames_from_before_and_after_the_window(world: World) -> None:
    world.start()
    started = world.now_ns
    world.until_final()
    times = [frame.time_ns for frame in world.written[0]["frames"]]
    assert times[0] <= started - SECOND / 2
    assert times[-1] > started
    assert times == sorted(set(times))
    assert [fetched.pid for fetched in world.written[0]["fetched"]] == [4242]


def test_temporary_files_are_removed(world: World) -> None:
    world.start()
    world.until_final()
    assert world.folders
    assert not world.folders[0].exists()


def test_counters_are_read_faster_in_the_window_only(world: World) -> None:
    world.start()
    world.until_final()
    assert world.fast_calls == (15.0, 2.0)
    del world.fast_calls
    world.tick()
    assert not hasattr(world, "fast_calls")


def test_a_slowdown_that_stays_is_found(world: World) -> None:
    world.start()
    world.until_final()
    for _ in range(50):
        capture = world.tick(ms=9.0, idle_s=0.3)
    assert capture is not None
    assert (capture.residual, capture.after_ms) == (True, pytest.approx(9.0))


def test_a_slowdown_that_goes_away_has_not_stayed(world: World) -> None:
    world.start()
    world.until_final()
    for _ in range(15):
        world.tick(ms=9.0)
    for _ in range(40):
        capture = world.tick(ms=8.0, idle_s=0.3)
    assert capture is not None
    assert capture.residual is False
    assert capture.after_ms is not None
    assert 8.0 <= capture.after_ms < 8.2  # a mean, which has some of the slow ones in it


def test_an_engine_as_fast_as_before_has_no_slowdown(world: World) -> None:
    world.start()
    world.until_final()
    for _ in range(20):
        capture = world.tick(ms=8.1)
    assert capture is not None
    assert (capture.residual, capture.after_ms) == (False, pytest.approx(8.1))


def test_batches_are_disturbed_only_while_something_runs_in_the_target(world: World) -> None:
    assert world.deepdive.disturbs == ""
    world.start()
    world.tick()
    assert world.deepdive.disturbs
    world.until_final()
    assert world.deepdive.disturbs == ""


def test_an_idle_engine_is_armed_without_collectors_until_its_next_request(world: World) -> None:
    world.script = [DeepStatus("waiting")]
    world.tick(0, idle_s=5.0)
    world.start()
    for _ in range(3):
        capture = world.tick(0, idle_s=5.0)
    assert capture is not None
    assert capture.phase is CapturePhase.ARMED
    assert not [each for each in world.collectors if each.calls]
    world.script = script(world.now_ns)
    assert world.until_final().phase is CapturePhase.DONE
    assert [each.calls for each in world.collectors if each.calls] == [
        ["start", "stop", "after", "events", "after", "after"]
    ]


def test_an_engine_that_becomes_idle_has_its_collectors_stopped(world: World) -> None:
    world.script = [DeepStatus("waiting")]
    world.start()
    world.tick()
    assert world.collectors[-1].calls == ["start"]
    world.tick(0, idle_s=5.0)
    world.tick(0, idle_s=5.0)
    assert world.collectors[-1].calls == ["start", "stop"]


def test_a_probe_that_is_itself_only_armed_is_waited_for(world: World) -> None:
    world.start()
    world.tick(0, state=AttachState.ARMED)
    assert world.dives[-1].calls == ["prepare"]
    world.tick()
    assert "start" in world.dives[-1].calls


def test_an_engine_that_was_idle_for_longer_has_its_minute_to_start_the_profiler(world: World) -> None:
    world.script = [DeepStatus("waiting")]
    world.tick(0, idle_s=5.0)
    world.start()
    world.tick(0)
    world.tick(0, idle_s=run.START_NS / SECOND + 10)
    world.script = [DeepStatus("starting", thread=77)]
    capture = world.tick()
    assert capture is not None
    assert (capture.phase, capture.error) == (CapturePhase.ARMED, "")
    world.script = script(world.now_ns)
    assert world.until_final().phase is CapturePhase.DONE


def test_after_a_long_wait_too_the_collectors_are_there_first(world: World) -> None:
    world.collector_slow = True
    world.tick(0, idle_s=5.0)
    world.start()
    world.tick(0, state=AttachState.ARMED)
    world.tick(0, idle_s=60.0, state=AttachState.ARMED)
    world.tick(state=AttachState.LIVE)
    world.tick()
    assert (world.collectors[-1].calls, world.dives[-1].calls) == (["start"], ["prepare"])
    world.collector_slow = False
    world.tick()
    assert world.dives[-1].calls == ["prepare", "start"]


@pytest.mark.parametrize("idle_s", [0.0, 5.0])
def test_in_a_busy_engine_collectors_begin_while_it_is_prepared(world: World, idle_s: float) -> None:
    world.deepdive._tools = replace(world.deepdive._tools, threads=True)
    world.hold_prepare = threading.Event()
    world.tick(0, idle_s=idle_s)
    world.start()
    capture = world.tick(0)
    assert capture is not None
    assert capture.phase is CapturePhase.PREPARING
    until = time.monotonic() + (5 if not idle_s else 0.1)
    while not any(each.calls for each in world.collectors) and time.monotonic() < until:
        time.sleep(0.001)
    assert [each.calls for each in world.collectors if each.calls] == ([] if idle_s else [["start"]])
    world.hold_prepare.set()
    world.deepdive.close()


def test_collectors_that_do_not_begin_are_not_waited_for_long(world: World) -> None:
    world.collector_slow = True
    world.start()
    world.tick()
    world.tick(1, ms=run.COLLECTING_NS / 1e6)
    assert world.dives[-1].calls == ["prepare"]
    world.tick()
    assert world.dives[-1].calls == ["prepare", "start"]


@pytest.mark.parametrize(
    ("statuses", "limit_ns", "sentence"),
    [
        ([DeepStatus("waiting")], run.ARMED_NS, "no request"),
        ([DeepStatus("starting")], run.START_NS, "did not start"),
    ],
)
def test_every_phase_in_the_target_has_an_end(
    world: World, statuses: list[DeepStatus], limit_ns: int, sentence: str
) -> None:
    world.script = statuses
    world.start(max_s=10.0)
    world.tick()
    world.tick()
    capture = world.tick(0, idle_s=limit_ns / SECOND + 1)
    assert capture is not None
    assert (capture.phase, sentence in capture.error) == (CapturePhase.FAILED, True)
    assert world.dives[-1].calls[-1] == "cancel"


def until_idle(world: World) -> Capture:
    """A capture whose engine has its last batch early in the window: as its time is over."""
    world.script = [DeepStatus("capturing", 20, 77)]
    world.start(max_s=10.0)
    world.tick()
    world.tick()
    capture = world.tick(0, idle_s=10.1)
    assert capture is not None
    assert capture.phase is CapturePhase.CAPTURING
    return capture


def test_a_window_whose_engine_became_idle_is_ended_from_outside(world: World) -> None:
    world.finishes = True
    until_idle(world)
    capture = world.tick(0, idle_s=0.1)
    while capture is not None and not capture.phase.final:
        capture = world.tick(0, idle_s=0.1)
    assert capture is not None
    assert (capture.phase, state(capture, "operators")) == (CapturePhase.DONE, LayerState.ON)
    assert world.dives[-1].calls == ["prepare", "start", "finish", "fetch"]


def test_what_only_the_next_batch_can_end_is_given_up_within_a_second(world: World) -> None:
    until_idle(world)
    capture = world.tick(0, idle_s=0.6)
    capture = world.tick(0, idle_s=0.2)
    assert capture is not None
    assert capture.phase is CapturePhase.DONE
    assert (state(capture, "operators"), state(capture, "scheduler")) == (LayerState.OFF, LayerState.PARTIAL)
    assert "idle" in reason(capture, "operators")
    assert world.dives[-1].calls == ["prepare", "start", "finish", "cancel"]


def test_batches_are_disturbed_until_the_profiler_that_was_given_up_is_stopped(world: World) -> None:
    world.obeys = False
    until_idle(world)
    world.tick(0, idle_s=0.6)
    world.tick(0, idle_s=0.2)
    assert world.deepdive.disturbs
    world.obeys = True
    world.tick(1)
    assert world.deepdive.disturbs  # this batch was
    world.tick(1)
    assert not world.deepdive.disturbs


def test_a_batch_that_is_longer_than_the_window_is_waited_for_a_while(world: World) -> None:
    world.tick(1, ms=60_000)
    world.script = [DeepStatus("capturing", 1, 77)]
    world.start(max_s=10.0)
    world.tick(1)
    world.tick(0, idle_s=10.5)
    capture = world.tick(0, idle_s=9.0)
    assert capture is not None
    assert capture.phase is CapturePhase.CAPTURING
    world.tick(0, idle_s=2.0)
    capture = world.tick(0, idle_s=0.1)
    assert capture is not None
    assert capture.phase is CapturePhase.DONE
    assert "did not come to the end of a batch" in reason(capture, "operators")


def test_a_profile_that_never_comes_leaves_the_other_layers(world: World) -> None:
    world.script = [DeepStatus("exporting", 50)]
    world.start()
    world.tick()
    capture = world.tick(0, idle_s=run.EXPORT_NS / SECOND + 1)
    assert capture is not None
    assert capture.phase is CapturePhase.DONE
    assert state(capture, "operators") is LayerState.OFF
    assert "did not hand out" in reason(capture, "operators")


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 4, 5])
def test_a_cancelled_capture_leaves_nothing(world: World, ticks: int) -> None:
    world.start()
    for _ in range(ticks):
        world.tick(2)
    cancelled = world.deepdive.cancel()
    assert cancelled is not None
    assert cancelled.phase is CapturePhase.CANCELLED
    dive = world.dives[-1]
    assert ("start" in dive.calls) == ("cancel" in dive.calls)
    capture = world.tick()
    assert capture is not None
    assert capture.phase is CapturePhase.CANCELLED
    assert list(world.directory.iterdir()) == []
    assert not any(folder.exists() for folder in world.folders)
    assert all("stop" in each.calls for each in world.collectors if "start" in each.calls)


def test_there_is_nothing_to_cancel_when_none_runs(world: World) -> None:
    assert world.deepdive.cancel() is None
    world.start()
    world.until_final()
    assert world.deepdive.cancel() is None


def test_a_second_start_is_refused_while_one_runs(world: World) -> None:
    world.start()
    with pytest.raises(UsageError, match="capture 1 is running"):
        world.start()


def test_a_start_is_refused_until_the_last_one_has_left(world: World) -> None:
    world.obeys = False
    world.start()
    world.tick()
    world.deepdive.cancel()
    with pytest.raises(UsageError, match="still leaving"):
        world.start()
    world.obeys = True
    world.tick()
    assert world.start().number == 2


def test_the_next_capture_knows_the_model_thread(world: World) -> None:
    world.start()
    world.until_final()
    world.script = script(world.now_ns)
    world.start()
    assert world.hot == {4242: 77}


def test_an_engine_that_ends_ends_the_capture(world: World) -> None:
    world.start()
    world.tick()
    capture = world.tick(0, state=AttachState.GONE)
    assert capture is not None
    assert (capture.phase, "ended" in capture.error) == (CapturePhase.FAILED, True)


def test_a_profiler_that_fails_leaves_the_other_layers(world: World) -> None:
    world.script = [DeepStatus("failed", error="RuntimeError: Kineto is not available")]
    world.start(batches=20)
    capture = world.until_final()
    assert capture.phase is CapturePhase.DONE
    assert reason(capture, "operators") == "RuntimeError: Kineto is not available"
    assert state(capture, "scheduler") is LayerState.PARTIAL
    assert capture.batches == 20


def test_an_error_before_the_start_fails_with_its_sentence(world: World) -> None:
    world.prepare_fails = True
    world.start()
    capture = world.until_final()
    assert (capture.phase, capture.error) == (CapturePhase.FAILED, "no interpreter like its own is at hand.")
    assert world.dives[-1].calls == ["prepare"]


def test_files_that_cannot_be_fetched_leave_the_other_layers(world: World) -> None:
    world.fetch_fails = True
    world.start()
    capture = world.until_final()
    assert capture.phase is CapturePhase.DONE
    assert "the file is gone" in reason(capture, "operators")


def test_a_defect_ends_the_capture_and_not_the_watching(world: World) -> None:
    world.poll_fails = True
    world.start()
    capture = world.until_final()
    assert (capture.phase, "the ring is not there" in capture.error) == (CapturePhase.FAILED, True)
    assert world.tick() == capture


def test_no_room_for_its_files_fails_with_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "scratch", full)
    world.start()
    capture = world.until_final()
    assert (capture.phase, "No space left" in capture.error) == (CapturePhase.FAILED, True)


@pytest.mark.parametrize("step", ["start", "stop", "after", "events"])
def test_a_collector_that_fails_is_a_layer_less(world: World, step: str) -> None:
    world.collector_fails = (step,)
    world.start()
    capture = world.until_final()
    assert capture.phase is CapturePhase.DONE
    assert f"{step} went wrong" in reason(capture, "scheduler")
    assert state(capture, "operators") is LayerState.ON


def test_a_collector_that_missed_the_begin_of_the_window_is_a_partial_layer(world: World) -> None:
    world.start()
    capture = world.until_final()
    assert "after the window" not in reason(capture, "scheduler")
    window = world.script[-1].window_ns
    assert window is not None
    world.collector_begun_ns = window[0] + 40_000_000
    world.start()
    capture = world.until_final()
    assert state(capture, "scheduler") is LayerState.PARTIAL
    assert reason(capture, "scheduler").startswith("it began 40 ms after the window; ")


def test_what_merges_is_begun_when_the_window_is_over(world: World) -> None:
    phase = world.start().phase
    while phase is not CapturePhase.DONE:
        assert world.spares == ([] if phase in BEFORE_END else ["begin"])
        capture = world.tick()
        assert capture is not None
        phase = capture.phase


def test_what_merges_is_ended_when_there_is_nothing_to_merge(world: World) -> None:
    world.start()
    world.tick()
    world.deepdive.cancel()
    assert world.spares == ["end"]


def test_a_trace_that_cannot_be_written_is_a_failure(world: World) -> None:
    world.write_fails = True
    world.start()
    capture = world.until_final()
    assert capture.phase is CapturePhase.FAILED
    assert "No space left on device" in capture.error
    assert not world.folders[0].exists()


def test_all_ranks_are_captured_when_that_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, 100, 101)
    world.warm_up()
    world.start(all_ranks=True)
    capture = world.until_final()
    assert capture.phase is CapturePhase.DONE
    assert [fetched.pid for fetched in world.written[0]["fetched"]] == [100, 101]


def test_otherwise_the_first_rank_is(tmp_path: Path) -> None:
    world = World(tmp_path, 100, 101)
    world.warm_up()
    world.start()
    world.until_final()
    assert [fetched.pid for fetched in world.written[0]["fetched"]] == [100]


def test_ranks_are_captured_together_or_not_at_all(tmp_path: Path) -> None:
    world = World(tmp_path, 100, 101)
    world.warm_up()
    world.statuses = {101: [DeepStatus("failed", error="no memory")]}
    world.start(all_ranks=True)
    capture = world.until_final()
    assert (capture.phase, "process 101" in capture.error) == (CapturePhase.FAILED, True)
    assert next(dive.calls for dive in world.dives if dive.calls) == ["prepare", "start", "cancel"]


def test_the_rank_that_schedules_only_is_not_the_one_captured(tmp_path: Path) -> None:
    links = [make_link(10, ranks=()), make_link(11, ranks=(("TP", 1),)), make_link(12, ranks=(("TP", 0),))]
    world = World(tmp_path, links=links)
    world.warm_up()
    world.start()
    world.tick()
    assert world.dives[-1].link.pid == 12


def test_a_worker_without_a_rank_in_its_title_is_captured_not_its_engine_core(tmp_path: Path) -> None:
    core = make_link(10)
    world = World(tmp_path, links=[core, make_link(11, parent=core.target.id)])
    world.warm_up()
    world.start()
    assert world.dives[-1].link.pid == 11


def test_a_preview_does_nothing_and_says_what_would_be_done(world: World) -> None:
    planned = world.deepdive.preview(CaptureRequest(), world.frame)
    assert planned.expected_stall_ms == START_STALL_MS + 50 * STOP_STALL_MS_PER_BATCH
    assert state(planned, "scheduler") is LayerState.PARTIAL
    assert [dive.calls for dive in world.dives] == [[], []]
    assert world.collectors[0].calls == []
    assert world.tick() is None


def test_read_only_refuses(tmp_path: Path) -> None:
    world = World(tmp_path, readonly=True)
    with pytest.raises(UsageError, match="read-only"):
        world.start()


def test_from_outside_only_nothing_can_be_captured(tmp_path: Path) -> None:
    world = World(tmp_path, links=[])
    world.tick(state=AttachState.EXTERNAL, note="no ptrace")
    with pytest.raises(UnavailableError, match=r"from outside only.*no ptrace"):
        world.start()


def test_a_full_disk_refuses_before_anything_is_touched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1 << 20))
    with pytest.raises(UnavailableError, match="1 MB free"):
        world.start()
    assert world.dives[-1].calls == []


def test_a_name_that_is_taken_is_refused(world: World) -> None:
    taken = world.directory / "mine.json"
    taken.write_text("")
    with pytest.raises(UsageError, match="exists already"):
        world.start(path=str(taken))


def test_without_torch_the_capture_has_functions(world: World) -> None:
    world.facts = DeepFacts()
    world.start()
    options = world.dives[-1].options
    assert (options.operators, options.python, options.gpu) == (False, True, False)


@pytest.mark.parametrize("ticks", [0, 1, 3])
def test_closing_ends_a_capture_in_any_phase(world: World, ticks: int) -> None:
    world.start()
    for _ in range(ticks):
        world.tick(2)
    assert world.deepdive.close() == ("the capture was cancelled",)
    assert list(world.directory.iterdir()) == []
    assert not any(folder.exists() for folder in world.folders)


def test_closing_after_a_capture_says_nothing(world: World) -> None:
    world.start()
    world.until_final()
    assert world.deepdive.close() == ()


def test_closing_says_when_the_target_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismtop.deepdive.driver.CLOSE_S", 0.02)
    world.obeys = False
    world.script = [DeepStatus("capturing")]
    world.start()
    world.tick()
    assert "when its lease ends" in world.deepdive.close()[-1]


def test_an_idle_engine_is_not_waited_for_when_the_session_closes(world: World) -> None:
    world.obeys = False
    world.script = [DeepStatus("waiting")]
    world.start()
    world.tick()
    assert world.deepdive.close() == ("the capture was cancelled",)


def until_it_merges(world: World) -> None:
    """A capture whose threads run has come to its trace."""
    world.start()
    phase = CapturePhase.PREPARING
    while phase is not CapturePhase.MERGING:
        capture = world.tick(1)
        assert capture is not None
        phase = capture.phase
        time.sleep(0.001)


def test_a_write_that_is_under_way_is_finished_when_the_session_closes(world: World) -> None:
    world.deepdive._tools = replace(world.deepdive._tools, threads=True)
    world.hold = threading.Event()
    until_it_merges(world)
    threading.Timer(0.1, world.hold.set).start()
    said = world.deepdive.close()
    assert said == (f"captured to {world.written[0]['target']}",)


def test_a_capture_cancelled_while_the_collectors_are_read_is_not_written(world: World) -> None:
    world.deepdive._tools = replace(world.deepdive._tools, threads=True)
    world.hold_events = threading.Event()
    until_it_merges(world)
    world.deepdive.cancel()
    world.tick(1, idle_s=run.LEAVE_NS / SECOND + 1)
    assert world.deepdive.disturbs
    world.hold_events.set()
    until = time.monotonic() + 10
    while world.deepdive.disturbs and time.monotonic() < until:
        world.tick(1)
        time.sleep(0.001)
    assert (world.written, list(world.directory.iterdir())) == ([], [])


def test_links_that_left_are_not_captured(tmp_path: Path) -> None:
    gone = SimpleNamespace(**{**vars(make_link(4242)), "state": "detached"})
    world = World(tmp_path, links=[gone])
    world.tick()
    with pytest.raises(UnavailableError):
        world.start()


def test_what_a_killed_prismtop_left_behind_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, alive = tmp_path / "prismtop-deepdive-4194305-x", tmp_path / f"prismtop-deepdive-{os.getpid()}-x"
    for folder in (dead, alive, tmp_path / "prismtop-deepdive-mine"):
        folder.mkdir()
    dangling = tmp_path / "prismtop-deepdive-4194306-x"
    dangling.symlink_to("nowhere")
    made = scratch()
    left = {alive.name, made.name, dangling.name, "prismtop-deepdive-mine"}
    assert {each.name for each in tmp_path.iterdir()} == left
    assert made.stat().st_mode & 0o777 == 0o700
