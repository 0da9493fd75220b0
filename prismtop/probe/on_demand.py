"""What of the probe travels in pieces of its own, unpacked when it is first needed."""

from __future__ import annotations

import marshal
from typing import Any

from prismtop.probe.drive import *
from prismtop.probe.loop import *

WHOLE = ("Drive", "Loop")
LATER = (
    "function_at",
    "running_codes",
    "Hook.by_monitoring",
    "Hook.by_loop",
    "Hook.by_code",
    "Hook.remove",
    "Hook.loaded_again",
    "open_monitoring",
    "calibrate",
    "leave_to",
    "Agent.refrain",
    "Agent.missing",
    "Agent.capped",
    "Agent.raised",
    "Agent.write",
    "Agent.put",
    "Agent.repair",
    "Agent.event",
    "Agent.spent",
    "Agent.fault",
    "Agent.service",
    "Agent.load",
    "Agent.tick_guest",
    "Agent.guest_failed",
    "Agent.end_guest",
    "Agent.tell",
    "Agent.select",
    "Agent.detach",
)
"""Classes, functions and methods that travel in pieces of their own (`later`): unpacked when first needed, so
that an attach does not have to unpack them."""
DATA, INDEX = (
    globals().get("DATA", b""),
    globals().get("INDEX", {}),
)  # those pieces, and where each of them is


def piece(name: Any) -> Any:
    """The code that travels under this name."""
    at, size = INDEX[name]
    at += len(DATA)
    return marshal.loads(memoryview(DATA)[at : at + size])


def later(name: Any, a: Any, k: Any) -> Any:
    """The first call of a function whose code travels by itself: it gets its code."""
    owner, _, short = name.rpartition(".")
    f = vars(globals()[owner])[short] if owner else globals()[short]
    f.__code__ = piece(name)
    return f(*a, **k)


def whole(name: Any) -> Any:
    """A class that travels by itself."""
    if name not in globals():
        exec(piece(name), globals())
    return globals()[name]
