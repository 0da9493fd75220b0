"""What collectors share that work in a thread of their own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class BackgroundCollector(ABC):
    """The thread of a `Collector`, and how it is begun and ended."""

    name: str

    def __init__(self) -> None:
        self._running = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"prismtop-{self.name}", daemon=True)

    @property
    def running(self) -> bool:
        """Whether it collects now, or cannot: what happens from here on is in its events."""
        return self._running.is_set()

    def start(self) -> None:
        """As `Collector.start`; `running` tells when it has begun."""
        self._thread.start()

    def stop(self) -> None:
        """As `Collector.stop`."""
        self._ended.set()

    def _join(self, seconds: float) -> None:
        """Wait for the end of its thread, where that was begun."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    @abstractmethod
    def _run(self) -> None:
        """In its thread: sets `_running` in every path, and ends when `_ended` is set."""
