"""The first pass over a part of a capture: what it holds, what nests, what can be added up."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prismtop.deepdive.activity import Activities, PartOfTrace
from prismtop.deepdive.lanes import lanes_of
from prismtop.deepdive.sources import Source
from prismtop.deepdive.tracks import CaptureTracks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class Survey:
    """What the first pass over a source gave.

    Attributes:
        activities: its spans; their order is that of the slices of the source.
        starts, ends: CLOCK_MONOTONIC of the slices.
        good: which of them are written.
        lanes: of the slices.
        late: slices to be written last, and their order.
        counts: events by (layer, pid).
    """

    activities: Activities
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    good: NDArray[np.bool_]
    lanes: NDArray[np.int16]
    late: dict[int, int]
    counts: Tally[tuple[str, int]]

    @property
    def outside(self) -> int:
        """Slices that are not written."""
        return len(self.good) - int(self.good.sum())

    def part(self, tracks: CaptureTracks) -> PartOfTrace:
        """Its spans, for adding up."""
        owners = {number: tracks.owner(number) for number in set(self.activities.track)}
        return PartOfTrace(self.activities, self.starts, self.ends, self.good, owners)

    def open_lanes(self, tracks: CaptureTracks) -> None:
        """Make the tracks that overlapping slices need."""
        used = {
            (track, lane)
            for track, lane in zip(self.activities.track, self.lanes.tolist(), strict=True)
            if lane
        }
        for track, lane in sorted(used):
            tracks.at(track, lane)


def survey_of(source: Source, tracks: CaptureTracks, window_ns: tuple[int, int]) -> Survey:
    import numpy as np

    activities = Activities()
    add = activities.add
    tally: Tally[tuple[str, int]] = Tally()
    for drawn in source.drawn():
        track = drawn.track
        tally[drawn.layer, track] += 1
        if drawn.phase == "X":
            add(track, drawn.cat, drawn.name, drawn.start_ns, drawn.end_ns)
    counts: Tally[tuple[str, int]] = Tally()
    for (layer, track), count in tally.items():
        if layer:
            counts[layer, tracks.owner(track)[0]] += count
    starts = source.alignment.mono_all(np.frombuffer(activities.start, np.int64))
    ends = source.alignment.mono_all(np.frombuffer(activities.end, np.int64))
    good = (starts >= window_ns[0]) & (ends <= window_ns[1])
    lanes, late = lanes_of(np.frombuffer(activities.track, np.int32), starts, ends)
    return Survey(activities, starts, ends, good, lanes, late, counts)
