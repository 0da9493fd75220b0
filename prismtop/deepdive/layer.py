"""What one layer of a capture is: something that collects events for a while, and says how well it could."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prismtop.model import Layer


@dataclass(frozen=True)
class LayerEvent:
    """One event of a layer.

    Attributes:
        layer: as in `model.Layer`.
        kind: `slice`, `instant` or `counter`.
        name: what happened; text of others went through `safe_text`.
        t0_ns: when it began, CLOCK_MONOTONIC.
        dur_ns: how long it took; 0 for what has no duration.
        pid, tid: native ids in prismtop's pid namespace; tid 0 when it is the process's.
        args: more about it; `sampled` is True when it was not measured but seen from time to time.
    """

    layer: str
    kind: str
    name: str
    t0_ns: int
    dur_ns: int
    pid: int
    tid: int
    args: Mapping[str, object] = field(default_factory=dict)


class Collector(Protocol):
    """Collects one layer, once."""

    name: str

    def before(self) -> Layer:
        """What it will do here, or why not. Cheap, without side effects."""

    def start(self) -> None:
        """Begin. Never blocks for long and never raises: a failure shows in `after`."""

    def stop(self) -> None:
        """End. Quick; what takes long is left to `events`."""

    def events(self) -> Iterator[LayerEvent]:
        """What was collected, in order of time; after `stop`, in any thread."""

    def after(self) -> Layer:
        """What was collected, and what it cost; complete once `events` was read."""
