"""A profiler's clock on CLOCK_MONOTONIC, by the markers that the target left in the profile.

A marker is a span called `prismtop_sync_<mono_ns>_<real_ns>`: the target read CLOCK_MONOTONIC, then
CLOCK_REALTIME, and entered the span at once. So the profiler's time of its start is late by what lies between
(the first one measured 130 to 300 us, the third 3 to 4), never early: of several markers the least difference
is the tightest. Three stand at each end of a profile; the difference between the ends is the drift.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MARKER = "prismtop_sync_"
_NAME = re.compile(rf"{MARKER}(\d{{1,19}})_(\d{{1,19}})")
_LATE_NS = 1_000_000
"""A marker that began later after its clock reading says nothing of how well the clocks agree."""
_APART_NS = 1_000_000
"""Markers of one end follow each other at once: a longer gap lies between two ends."""
_STEEPEST = 1e-3
"""Drift beyond 1000 ppm is no drift: NTP slews by at most 500."""


@dataclass(frozen=True)
class Marker:
    """One marker: its start by the profiler's clock, and the two clocks that the target read before it."""

    at_ns: int
    mono_ns: int
    real_ns: int


def marker_of(name: str, at_ns: int) -> Marker | None:
    """The marker that a span's name makes; None for any other name."""
    found = _NAME.fullmatch(name)
    if found is None or max(map(int, found.groups())) >= 1 << 62:
        return None
    return Marker(at_ns, int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Alignment:
    """How to turn a profiler's times (ns) into CLOCK_MONOTONIC.

    Attributes:
        offset_ns: profiler's clock minus CLOCK_MONOTONIC at `from_ns`.
        from_ns: of the profiler's clock.
        slope: how much the difference grows per nanosecond.
        error_ns: most that an aligned time is wrong by; None when that is not known.
        note: a sentence for a person when it is worse than with markers at both ends; else empty.
    """

    offset_ns: int
    from_ns: int = 0
    slope: float = 0.0
    error_ns: int | None = None
    note: str = ""

    def mono(self, at_ns: int) -> int:
        """CLOCK_MONOTONIC of one time; never turns the order of two around."""
        return at_ns - self.offset_ns - math.floor(self.slope * (at_ns - self.from_ns))

    def mono_all(self, at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same for many."""
        import numpy as np

        drift: Any = np.floor(self.slope * (at_ns - self.from_ns)).astype(np.int64)
        moved: NDArray[np.int64] = at_ns - self.offset_ns - drift
        return moved


def align(markers: Sequence[Marker], wall_minus_mono_ns: int) -> Alignment:
    """The alignment that the markers give.

    Args:
        markers: of one profile, in any order; none is allowed.
        wall_minus_mono_ns: of this machine, for a profile without markers whose times are Unix times.
    """
    if not markers:
        return Alignment(
            wall_minus_mono_ns,
            note="no sync marker in the profile: aligned by the wall clock, error unknown",
        )
    ends = _ends(sorted(markers, key=lambda marker: marker.at_ns))
    tightest = [min(end, key=_difference) for end in ends]
    errors = _errors(ends, tightest)
    error = None if None in errors else max(e for e in errors if e is not None)
    first = tightest[0]
    if len(ends) == 1:
        note = "sync markers at one end only: a drift of the profiler's clock is not corrected"
        return Alignment(_difference(first), first.at_ns, error_ns=error, note=note)
    last = tightest[1]
    drift = _difference(last) - _difference(first)
    slope = drift / (last.at_ns - first.at_ns)
    best = min(tightest, key=_difference)
    if abs(slope) > _STEEPEST:
        note = f"the clocks moved by {abs(drift) / 1e6:.3f} ms against each other, too fast for a drift"
        return Alignment(_difference(best), best.at_ns, error_ns=max(abs(drift), error or 0), note=note)
    if error is not None and abs(drift) <= error:
        return Alignment(_difference(best), best.at_ns, error_ns=error)
    return Alignment(_difference(first), first.at_ns, slope, error)


def _difference(marker: Marker) -> int:
    return marker.at_ns - marker.mono_ns


def _ends(ordered: Sequence[Marker]) -> list[Sequence[Marker]]:
    """Markers of the start and of the end; one list when there is one end only."""
    gaps = [after.at_ns - before.at_ns for before, after in pairwise(ordered)]
    if not gaps:
        return [ordered]
    cut = max(range(len(gaps)), key=gaps.__getitem__)
    others = sorted(gaps[:cut] + gaps[cut + 1 :])
    if gaps[cut] < _APART_NS or (others and gaps[cut] < 3 * others[-1]):
        return [ordered]
    return [ordered[: cut + 1], ordered[cut + 1 :]]


def _errors(ends: Sequence[Sequence[Marker]], tightest: Sequence[Marker]) -> list[int | None]:
    """Most that the tightest marker of each end is late by; None with a single marker and nothing else.

    A profiler that counts CLOCK_REALTIME, as Kineto does, says it itself: its time of the marker less the
    reading inside it. Where its clock has drifted from that, the lateness at the other end holds as well, or
    the distance to the next tightest marker where that is larger.
    """
    said = [_lateness(end, best) for end, best in zip(ends, tightest, strict=True)]
    made: list[int | None] = []
    for number, (end, best) in enumerate(zip(ends, tightest, strict=True)):
        others = [_difference(marker) - _difference(best) for marker in end if marker is not best]
        elsewhere = [late for n, late in enumerate(said) if n != number and late is not None]
        bounds = [late for late in (said[number],) if late is not None]
        if others:
            bounds.append(max([min(others), *elsewhere]) if elsewhere else min(others))
        made.append(min(bounds, default=None) if said[number] is None or elsewhere else said[number])
    return made


def _lateness(end: Sequence[Marker], best: Marker) -> int | None:
    late = best.at_ns - best.real_ns
    if not 0 <= late <= _LATE_NS:
        return None
    return late + max(0, best.real_ns - best.mono_ns - min(m.real_ns - m.mono_ns for m in end))
