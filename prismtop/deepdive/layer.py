"""What a layer outside the target is made of: a `Collector` and its `LayerEvent`s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prismtop.model import Layer


@dataclass(frozen=True)
class LayerEvent:
    """One event of a layer; times are CLOCK_MONOTONIC.

    Attributes:
        layer: as in `model.Layer`.
        kind: `slice`, `instant` or `counter`.
        dur_ns: of a slice; 0 of others.
        pid, tid: native ids; 0 for none.
    """

    layer: str
    kind: str
    name: str
    t0_ns: int
    dur_ns: int
    pid: int
    tid: int
    args: Mapping[str, object]


class Collector(Protocol):
    """Collects one layer of a capture from outside the target."""

    name: str

    def before(self) -> Layer:
        """What it will do here, or why not; cheap, without side effects."""

    def start(self) -> None:
        """Begin. Never blocks for long, never raises: a failure shows in `after`."""

    def stop(self) -> None:
        """End; quick."""

    def events(self) -> Iterator[LayerEvent]:
        """After `stop`, in any thread."""

    def after(self) -> Layer:
        """What was collected."""
