"""The collector's thread: newest frame only, warnings never lost, errors reported once."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

from prismtop.model import Frame
from prismtop.tui.collector import Collector
from tests.tui.harness import StillApp
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


async def test_a_signal_that_comes_before_the_screen_is_up_ends_it_all_the_same() -> None:
    app = StillApp()
    app.end_by(signal.SIGTERM)
    running = asyncio.create_task(app.run_async(headless=True, size=(80, 24)))
    done, _ = await asyncio.wait({running}, timeout=5)
    app.exit()
    await running
    assert done
