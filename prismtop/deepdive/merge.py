"""One trace out of everything that a capture collected (placeholder until the branches are merged)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prismtop.deepdive.layer import LayerEvent
from prismtop.model import Capture, Frame
from prismtop.sources.deep_link import FetchedDeep


@dataclass(frozen=True)
class WrittenTrace:
    """What was written."""

    events: int
    size_bytes: int
    clock_error_ns: int | None
    events_per_layer: Mapping[tuple[str, int], int]
    notes: tuple[str, ...]


def write_trace(
    target: Path,
    *,
    frames: Sequence[Frame],
    fetched: Sequence[FetchedDeep],
    layers: Iterable[LayerEvent],
    capture: Capture,
) -> WrittenTrace:
    """See the branch deep-merge."""
    raise NotImplementedError
