"""Spans that viewers would drop: those that overlap another one of their track without nesting in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def lanes_of(
    track: NDArray[np.int32], start: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int16], dict[int, int]]:
    """The lane of every span, and the spans that must be written last.

    Lane 0 is the track itself; within a lane everything nests. Viewers sort by start and keep the order of
    the file where starts are equal, so of spans with equal starts the longer must come first: those that do
    not are to be written after all others, in the order of the numbers given (span -> place).

    Args:
        track, start, end: of every span, in the order of the file.
    """
    import numpy as np

    lanes = np.zeros(len(start), np.int16)
    late: dict[int, int] = {}
    order = np.lexsort((start - end, start, track))
    tracks, starts, ends = track[order].tolist(), start[order].tolist(), end[order].tolist()
    stacks: list[list[int]] = [[]]
    stack = stacks[0]
    current = previous = None
    newest, behind = -1, False
    for place, n in enumerate(order.tolist()):
        begin, until = starts[place], ends[place]
        if tracks[place] != current:
            current, previous = tracks[place], None
            stacks = [[]]
            stack = stacks[0]
        if begin != previous:
            previous, newest, behind = begin, n, False
        else:
            behind |= n < newest
            newest = max(newest, n)
            if behind:
                late[n] = place
        while stack and stack[-1] <= begin:
            stack.pop()
        if not stack or until <= stack[-1]:
            stack.append(until)
            continue
        lanes[n] = _fitting(stacks, begin, until)
    return lanes, late


def _fitting(stacks: list[list[int]], start: int, end: int) -> int:
    """The first lane beside the track in which a span nests; a new one when there is none."""
    for lane, ends in enumerate(stacks[1:], 1):
        while ends and ends[-1] <= start:
            ends.pop()
        if not ends or end <= ends[-1]:
            ends.append(end)
            return lane
    stacks.append([end])
    return len(stacks) - 1
