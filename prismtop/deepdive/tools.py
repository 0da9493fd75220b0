"""What a capture is made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prismtop.deepdive.layer import Collector, LayerEvent
from prismtop.deepdive.merge import WrittenTrace
from prismtop.deepdive.process import OpenDive
from prismtop.model import Capture, CaptureRequest, Frame
from prismtop.sources.deep_fetched import FetchedDeep


class Write(Protocol):
    """`prismtop.deepdive.merge.write_trace`."""

    def __call__(
        self,
        target: Path,
        *,
        frames: Sequence[Frame],
        fetched: Sequence[FetchedDeep],
        layers: Iterable[LayerEvent],
        capture: Capture,
    ) -> WrittenTrace:
        """Write one trace out of everything."""


@dataclass(frozen=True)
class Tools:
    """What a capture is made with; tests have others.

    Attributes:
        open_dive: makes a `DeepLink`.
        collectors: makes those outside the target.
        write: merges.
        begin: something will be to merge soon; in the session's thread, quick, any number of times.
        end: nothing will.
        threads: whether jobs get threads; without, they end before they are begun.
    """

    open_dive: OpenDive
    collectors: Callable[[Sequence[int], Mapping[int, int], CaptureRequest], Sequence[Collector]]
    write: Write
    begin: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None
    threads: bool = True
