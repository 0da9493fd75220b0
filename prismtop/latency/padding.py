"""Padded batch sizes: an engine with CUDA graphs computes the next captured size, not the batch's own.

The sizes are those that engines capture by default, or batch sizes themselves where nothing is padded. Which
of them an engine uses is learnt: `choose` takes the schedule that explains held-out batches best.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_FAR = 64
"""Beyond the last captured size nothing is padded; batches of similar size share a bucket."""


@dataclass(frozen=True)
class Schedule:
    """Captured sizes in ascending order, under a name."""

    name: str
    sizes: tuple[int, ...]

    def pad(self, size: int) -> int:
        """The size that is computed for a batch of `size` requests."""
        if size > self.sizes[-1]:
            return -(-size // _FAR) * _FAR
        return self.sizes[bisect_left(self.sizes, size)]


VLLM = Schedule("vllm", (1, 2, 4, *range(8, 513, 8)))
SGLANG = Schedule("sglang", (1, 2, 4, 8, 12, *range(16, 33, 8), *range(40, 161, 8)))
POWERS = Schedule("powers of two", tuple(2**n for n in range(11)))
NONE = Schedule("no padding", (*range(1, 33), *range(40, 513, 8)))
SCHEDULES = (VLLM, SGLANG, POWERS, NONE)


def schedule_for(engine: str, captured: Sequence[int] = ()) -> Schedule:
    """What to start with: the sizes read from the engine, else its default, else no padding."""
    if captured:
        return Schedule("captured", tuple(sorted({size for size in captured if size > 0})) or (1,))
    return {"vllm": VLLM, "sglang": SGLANG}.get(engine, NONE)


def schedule_named(name: str, sizes: Sequence[int] = ()) -> Schedule:
    """The schedule that a state file names; unknown names fall back to `sizes`, else to no padding."""
    for schedule in SCHEDULES:
        if schedule.name == name:
            return schedule
    return schedule_for("", sizes)
