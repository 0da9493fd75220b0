"""The time that a coroutine or generator runs, of all the time that it takes."""

from __future__ import annotations

import time
from typing import Any


class Drive:
    """Drives a coroutine or generator and adds up the time during which it ran."""

    __slots__ = ("busy", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.busy = 0

    def __iter__(self) -> Any:
        return self

    __await__ = __iter__

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        t = time.monotonic_ns()
        try:
            return self.inner.send(value)
        finally:
            self.busy += time.monotonic_ns() - t

    def throw(self, *error: Any) -> Any:
        t = time.monotonic_ns()
        try:
            return self.inner.throw(*error)
        finally:
            self.busy += time.monotonic_ns() - t

    def close(self) -> Any:
        self.inner.close()
