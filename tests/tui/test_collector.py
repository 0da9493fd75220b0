"""The collector's thread: newest frame only, warnings never lost, errors reported once."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from prismtop.model import Frame, Recording
from prismtop.tui.app import PrismtopApp
from prismtop.tui.collector import Collector
from prismtop.tui.controls import Controls
from tests.tui.harness import StillApp, settings
from tests.tui.synthetic import SyntheticSession


def collecting(
    session: SyntheticSession, ui_hz: float = 1000.0
) -> tuple[Collector, list[tuple[Frame, tuple[str, ...]]], list[Exception]]:
    frames: list[tuple[Frame, tuple[str, ...]]] = []
    errors: list[Exception] = []
    return (
        Collector(session, 200.0, lambda *got: frames.append(got), errors.append, ui_hz=ui_hz),
        frames,
        errors,
    )


def wait_for(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def test_a_busy_screen_gets_no_queue_of_frames() -> None:
    session = SyntheticSession()
    collector, frames, _ = collecting(session)
    thread = threading.Thread(target=collector.run)
    thread.start()
    wait_for(lambda: session.ticks >= 10)
    before = len(frames)
    collector.taken()
    wait_for(lambda: len(frames) > before)
    collector.stop()
    thread.join(10)
    assert before == 1
    assert len(frames) == 2


def test_warnings_of_frames_that_were_not_shown_arrive_with_the_next() -> None:
    session = SyntheticSession()
    collector, frames, _ = collecting(session)
    thread = threading.Thread(target=collector.run)
    thread.start()
    wait_for(lambda: len(frames) == 1)
    session.warnings = ("hook dropped",)
    ticks = session.ticks
    wait_for(lambda: session.ticks >= ticks + 3)
    collector.taken()
    wait_for(lambda: len(frames) == 2)
    collector.stop()
    thread.join(10)
    assert frames[1][1] == ("hook dropped",)


def test_an_error_of_the_session_is_reported_once_and_ends_the_thread() -> None:
    session = SyntheticSession()
    session.fail = OSError("gone")
    collector, _, errors = collecting(session)
    collector.run()
    assert errors == [session.fail]
    assert collector.ended.is_set()


def test_the_session_is_ticked_by_one_thread_only() -> None:
    threads = set()

    class Watched(SyntheticSession):
        def tick(self) -> Frame:
            threads.add(threading.get_ident())
            return super().tick()

    session = Watched()
    collector, _, _ = collecting(session)
    thread = threading.Thread(target=collector.run)
    thread.start()
    wait_for(lambda: session.ticks >= 5)
    collector.stop()
    thread.join(10)
    assert threads == {thread.ident}


@pytest.mark.parametrize("what", ["start_recording", "stop_recording"])
async def test_ticking_goes_on_while_a_recording_waits_for_a_slow_disk(what: str) -> None:
    session, disk = SyntheticSession(), threading.Event()

    def wait() -> str:
        disk.wait(20)
        return "/tmp/x.json.gz"

    app = PrismtopApp(session, settings(ui_hz=25.0), controls=Controls(**{what: wait}))
    try:
        async with app.run_test(size=(80, 24)):
            await until(lambda: app.view.latest is not None)
            if what == "stop_recording" and app.view.latest is not None:
                app.view.latest = replace(app.view.latest, recording=Recording("/tmp/x.json.gz", 0))
            app.toggle_recording()
            before = session.ticks
            await until(lambda: session.ticks > before + 10)
            assert app.view.toast is None
            disk.set()
            await until(lambda: app.view.toast is not None and "/tmp/x.json.gz" in app.view.toast.text)
    finally:
        disk.set()


async def test_a_signal_that_comes_before_the_screen_is_up_ends_it_all_the_same() -> None:
    app = StillApp()
    app.end_by(signal.SIGTERM)
    running = asyncio.create_task(app.run_async(headless=True, size=(80, 24)))
    done, _ = await asyncio.wait({running}, timeout=5)
    app.exit()
    await running
    assert done
