"""Where `g` goes: a batch number, a time of day, or a part of what there is."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from prismtop.errors import UsageError
from prismtop.model import Batch, Clock
from prismtop.safe_text import safe_text

_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,3}))?)?")


@dataclass(frozen=True)
class Place:
    """One of the three; the others are None."""

    seq: int | None = None
    time_ns: int | None = None
    fraction: float | None = None


def parse_place(text: str, clock: Clock, near_ns: int) -> Place:
    """Read what was typed.

    Args:
        text: `1041`, `14:32`, `14:32:07.5`, `50%`.
        clock: turns wall time into the batches' time.
        near_ns: a time of that clock; a time of day means the one closest to it.

    Raises:
        UsageError: it is none of these.
    """
    text = text.strip()
    if text.endswith("%"):
        try:
            percent = float(text[:-1])
        except ValueError:
            percent = -1.0
        if 0 <= percent <= 100:
            return Place(fraction=percent / 100)
    elif text.isascii() and text.isdigit():
        return Place(seq=int(text))
    else:
        match = _TIME.fullmatch(text)
        if match and int(match[1]) < 24 and int(match[2]) < 60 and int(match[3] or 0) < 60:
            return Place(time_ns=_closest(match, clock, near_ns))
    raise UsageError(
        f"{safe_text(text, 30)!r} is no place.", fix="Type a batch number, a time (14:32:07) or a part (50%)."
    )


def _closest(match: re.Match[str], clock: Clock, near_ns: int) -> int:
    near_s = clock.wall_us(near_ns) / 1e6
    day = time.localtime(near_s)
    seconds = int(match[3] or 0) + float(f"0.{match[4] or 0}")
    at = (
        time.mktime((day.tm_year, day.tm_mon, day.tm_mday, int(match[1]), int(match[2]), 0, 0, 0, -1))
        + seconds
    )
    at = min((at + days * 86_400 for days in (-1, 0, 1)), key=lambda other: abs(other - near_s))
    return int(at * 1e9) - clock.wall_minus_mono_ns


def row_of(place: Place, rows: Sequence[Batch]) -> int | None:
    """The row closest to a place; None for a batch number outside of what is kept, and without rows."""
    if not rows:
        return None
    if place.fraction is not None:
        return round(place.fraction * (len(rows) - 1))
    if place.seq is not None:
        low, high = min(batch.seq for batch in rows), max(batch.seq for batch in rows)
        if not low <= place.seq <= high:
            return None
        return min(range(len(rows)), key=lambda i: abs(rows[i].seq - (place.seq or 0)))
    return min(range(len(rows)), key=lambda i: abs(rows[i].end_ns - (place.time_ns or 0)))
