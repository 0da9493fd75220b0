"""The thread that owns the session: ticks it, and hands the latest frame over at the screen's rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from prismtop.model import Batch, Frame

BATCHES_KEPT = 20_000
"""Handed over at once at most; a screen that is stopped for minutes is shown the latest ones."""

Handed = Callable[[Frame, tuple[str, ...], tuple[Batch, ...]], None]


class Ticking(Protocol):
    """What the screen needs of a session."""

    def tick(self) -> Frame:
        """Poll and aggregate once."""
        ...


class Collector:
    """Calls `session.tick()` at a steady rate from one thread.

    Args:
        session: ticked by this thread only.
        tick_hz: ticks per second.
        on_frame: called in the collector's thread with the latest frame, and the warnings and new batches of
            every frame since the last call. It must only post a message. Not called again before `taken()`:
            a busy screen gets the newest frame later instead of a queue of old ones.
        on_error: called once, in the collector's thread, when `tick` raises; the thread then ends.
    """

    def __init__(
        self,
        session: Ticking,
        tick_hz: float,
        on_frame: Handed,
        on_error: Callable[[Exception], None],
        ui_hz: float = 2.0,
    ) -> None:
        self._session = session
        self._tick_s = 1 / tick_hz
        self._on_frame = on_frame
        self._on_error = on_error
        self._stop = threading.Event()
        self._waiting = threading.Event()
        self._asked: deque[tuple[Callable[[], object], Callable[[object], None]]] = deque()
        self.ended = threading.Event()
        self.ended.set()
        self.ui_hz = ui_hz
        """Frames handed over per second at most; may be changed from another thread."""

    def taken(self) -> None:
        """The last frame handed over was drawn."""
        self._waiting.clear()

    def stop(self) -> None:
        """Ask the thread to end after the current tick."""
        self._stop.set()

    def ask(self, call: Callable[[], object], answer: Callable[[object], None]) -> None:
        """Have `call` run in the collector's thread between two ticks: the session has one owner.

        `answer` gets what it returned or raised, in that thread; it must only post a message.
        """
        self._asked.append((call, answer))

    def beside(self, call: Callable[[], object], answer: Callable[[object], None]) -> None:
        """Have `call` run in a thread of its own: what waits for a disk must not keep the ticks waiting, by
        which probes know that somebody is there.
        """
        threading.Thread(target=_answer, args=(call, answer), name="prismtop-beside", daemon=True).start()

    def _answer_asked(self) -> None:
        while self._asked:
            _answer(*self._asked.popleft())

    def run(self) -> None:
        """The thread's body."""
        self.ended.clear()
        try:
            self._loop()
        except Exception as error:
            self._on_error(error)
        finally:
            self.ended.set()

    def _loop(self) -> None:
        warnings: dict[str, None] = {}
        batches: deque[Batch] = deque(maxlen=BATCHES_KEPT)
        handed_at = 0.0
        due = time.monotonic()
        while not self._stop.is_set():
            self._answer_asked()
            frame = self._session.tick()
            batches.extend(frame.new_batches)
            warnings.update(dict.fromkeys(frame.warnings))
            now = time.monotonic()
            # Half a tick of tolerance: 2 Hz out of 25 ticks a second is every 12th or 13th.
            if now - handed_at >= 1 / self.ui_hz - self._tick_s / 2 and not self._waiting.is_set():
                handed_at = now
                self._waiting.set()
                self._on_frame(frame, tuple(warnings), tuple(batches))
                warnings.clear()
                batches.clear()
            due = max(due + self._tick_s, now)
            self._stop.wait(max(0.0, due - time.monotonic()))


def _answer(call: Callable[[], object], answer: Callable[[object], None]) -> None:
    try:
        result: object = call()
    except Exception as error:
        result = error
    answer(result)
