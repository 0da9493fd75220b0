"""Work that takes long, in a thread of its own, with its result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from prismtop.errors import PrismtopError
from prismtop.safe_text import safe_text

T = TypeVar("T")


class Job(Generic[T]):
    """Runs `work` once."""

    def __init__(self, name: str, work: Callable[[], T], *, thread: bool = True) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: Exception | None = None
        self._ended = threading.Event()
        if thread:
            threading.Thread(target=self._run, name=f"prismtop-{name}", daemon=True).start()
        else:
            self._run()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:
            self._error = error
        finally:
            self._ended.set()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended."""
        return self._ended.wait(seconds)

    @property
    def error(self) -> str:
        """Why it failed, as a sentence; empty when it did not."""
        if self._error is None:
            return ""
        if isinstance(self._error, PrismtopError):
            return str(self._error)
        return f"{type(self._error).__name__}: {safe_text(str(self._error), 200)}"

    @property
    def result(self) -> T:
        """What it returned. Raises IndexError when it has not."""
        return self._result[0]
