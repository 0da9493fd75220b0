"""Slices of one track that overlap without nesting: Perfetto drops the later one."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

TrackKey = tuple[object, object]


@dataclass
class _Track:
    starts: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))


class Overlaps:
    """Collects slices, 16 bytes each, and finds out which do not nest."""

    def __init__(self) -> None:
        self._tracks: dict[TrackKey, _Track] = {}

    def add(self, track: TrackKey, start_ns: int, length_ns: int) -> None:
        """One slice, in the order of the file."""
        found = self._tracks.get(track)
        if found is None:
            found = self._tracks[track] = _Track()
        found.starts.append(start_ns)
        found.lengths.append(length_ns)

    def lanes(self) -> Iterator[tuple[TrackKey, array[int]]]:
        """For each track that has overlaps: the lane of every slice, in the order in which they were added.
        Lane 0 is the track itself; within a lane everything nests.
        """
        for key, track in self._tracks.items():
            lanes = _lanes_of(track)
            if lanes is not None:
                yield key, lanes


def _lanes_of(track: _Track) -> array[int] | None:
    starts, lengths = track.starts, track.lengths
    # Viewers sort by start and keep the order of the file where starts are equal. Longer first is what a
    # writer meant there, and what a file that is written anew can have.
    order = sorted(range(len(starts)), key=lambda n: (starts[n], -lengths[n]))
    stacks: list[list[int]] = [[]]
    lanes = array("i", bytes(4 * len(starts)))
    several = False
    for n in order:
        start, end = starts[n], starts[n] + lengths[n]
        lane = _fitting(stacks, start, end)
        several |= lane > 0
        stacks[lane].append(end)
        lanes[n] = lane
    return lanes if several else None


def _fitting(stacks: list[list[int]], start: int, end: int) -> int:
    """The first lane in which a slice nests; a new one when there is none."""
    for lane, ends in enumerate(stacks):
        while ends and ends[-1] <= start:
            ends.pop()
        if not ends or end <= ends[-1]:
            return lane
    stacks.append([])
    return len(stacks) - 1
