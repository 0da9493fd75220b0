"""Runs inside the target, never here: one thread that disturbs its interpreter, and puts everything back.

Sent as text (`in_target`). Python 3.9 syntax, standard library only, and nothing is imported that the target
has not loaded, so that no lock of the import system is held while it is disturbed.

It ends, whichever comes first: when its time is over; when a byte is written to its memfd (the rollback);
when the injector or its watchdog is gone. It looks every `STEP_S` seconds. The memfd is closed last, so while
`/proc/PID/fd` shows it something may still be disturbed, and when it is gone nothing is.
"""

from __future__ import annotations

import _thread
import gc
import json
import os
import sys
import time

MYPY = False
if MYPY:
    from collections.abc import Callable
    from typing import Any

STEP_S = 0.02
HEAP = 250_000
"""Lists that a collection has to look at: an engine that froze its own objects has little else."""
LONGEST_DELAY_S = 0.08
TOKENIZERS = (
    ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase", ("__call__", "encode")),
    ("tiktoken.core", "Encoding", ("encode", "encode_ordinary")),
    ("prismtop.demo.http_front", "_Handler", ("_parse",)),
)
"""Module, class, methods that turn text (the demo engine: a request) into token ids."""


class Order:
    """What was asked for, and when it is over."""

    def __init__(self, text: str) -> None:
        fields = json.loads(text)
        self.fault: str = fields["fault"]
        self.memfd: str = fields["memfd"]
        self.intensity: float = fields["intensity"]
        self.ramp_s: float = fields["ramp_s"]
        self.keepers: list[tuple[int, int]] = fields["keepers"]
        self.process = os.getpid()
        self.began = time.monotonic()
        self.end: float = self.began + fields["duration_s"]
        self.fd = -1

    def level(self) -> float:
        """0 to 1, the ramp applied."""
        if self.ramp_s <= 0:
            return self.intensity
        return self.intensity * min(1.0, (time.monotonic() - self.began) / self.ramp_s)

    def over(self) -> bool:
        """Whether to stop: asked to, out of time, or nobody is left who would ask."""
        if time.monotonic() >= self.end or os.pread(self.fd, 1, 0) == b"x":
            return True
        return any(start_time(pid) != start for pid, start in self.keepers)

    def rest(self, seconds: float) -> bool:
        """Sleep, in steps; True when it is over."""
        until = time.monotonic() + seconds
        while not self.over():
            left = until - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, STEP_S))
        return True


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when there is no such process, or it is dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if words[0] in (b"Z", b"X") else int(words[19])


class Collections:
    """Full garbage collections, one after the other; each holds the interpreter until it ends."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def run(self) -> None:
        heap = [[number] for number in range(HEAP)]
        order = self.order
        while not order.over():
            began = time.perf_counter()
            gc.collect()
            took = time.perf_counter() - began
            share = min(0.9, max(0.02, order.level()))
            if order.rest(took * (1 - share) / share):
                break
        del heap

    def end(self) -> None:
        """Nothing stays."""


class Hog:
    """A loop in Python, which gives the interpreter away only when it is asked to (every 5 ms)."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def run(self) -> None:
        order = self.order
        while not order.over():
            share = min(1.0, order.level())
            until = time.monotonic() + 5 * STEP_S * share
            while time.monotonic() < until:
                spin(min(STEP_S, until - time.monotonic()))
                if order.over():
                    return
            order.rest(5 * STEP_S * (1 - share))

    def end(self) -> None:
        """Nothing stays."""


class SlowTokenizer:
    """Work in Python around every call that tokenises, as a tokeniser without native code does it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.busy = True
        self.inside: set[int] = set()
        self.wrapped: list[tuple[Any, str, Any, Any]] = []
        for module, name, methods in TOKENIZERS:
            owner = getattr(sys.modules.get(module), name, None)
            for method in methods:
                if owner is not None and method in vars(owner):
                    self.wrapped.append((owner, method, vars(owner)[method], None))
        if not self.wrapped:
            raise RuntimeError("no tokeniser that can be slowed down is loaded in this process")

    def run(self) -> None:
        for at, (owner, method, original, _) in enumerate(self.wrapped):
            slowed = self.slowed(original)
            self.wrapped[at] = (owner, method, original, slowed)
            setattr(owner, method, slowed)
        while not self.order.rest(1.0):
            pass

    def slowed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            me = _thread.get_ident()
            # A tokeniser calls itself; and a child of the target has this wrapper but not its end.
            if self.busy and me not in self.inside and os.getpid() == self.order.process:
                self.inside.add(me)
                try:
                    spin(LONGEST_DELAY_S * min(1.0, self.order.level()))
                finally:
                    self.inside.discard(me)
            return original(*args, **kwargs)

        for name in ("__name__", "__qualname__", "__doc__", "__module__", "__wrapped__"):
            try:
                setattr(call, name, original if name == "__wrapped__" else getattr(original, name))
            except (AttributeError, TypeError):
                pass
        return call

    def end(self) -> None:
        # First: whoever has kept a wrapper, or wrapped it again, gets the original's speed at once.
        self.busy = False
        for owner, method, original, slowed in self.wrapped:
            if slowed is not None and vars(owner).get(method) is slowed:
                setattr(owner, method, original)


FAULTS: dict[str, Any] = {"gc_storm": Collections, "gil_hog": Hog, "slow_tokenizer": SlowTokenizer}


def spin(seconds: float) -> None:
    """Run Python for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(500):
            pass


def disturb(order: Order, fault: Any) -> None:
    """Body of the thread."""
    try:
        if not order.over():
            fault.run()
    except BaseException:
        pass
    finally:
        try:
            fault.end()
        finally:
            os.close(order.fd)


def begin(text: str) -> None:
    """Start the thread. Raises, with nothing changed, when the fault cannot act here."""
    order = Order(text)
    fault = FAULTS[order.fault](order)
    order.fd = os.memfd_create(order.memfd)
    try:
        _thread.start_new_thread(disturb, (order, fault))
    except BaseException:
        os.close(order.fd)
        raise


if "__data__" in globals():
    begin(globals()["__data__"])
