"""What a capture amounts to, in a few sentences for a person."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence

from prismtop.model import Bound, Breakdown, Part

WORTH = 0.05
"""Share of a batch from which a part of it is worth a sentence."""
_LIMITS = {
    Bound.DEVICE: "by the device",
    Bound.LAUNCH: "by launches, for which the device waits",
    Bound.HOST: "by the host, for which the device waits",
}
_HOST = (
    ("runqueue_ns", "ready without a core"),
    ("gc_ns", "in garbage collection"),
    ("syncs_ns", "blocked until the device is done"),
    ("launches_ns", "launching kernels"),
)
_DEVICE = (
    ("idle_ns", "the device is idle"),
    ("exposed_ns", "collectives run beside no compute"),
    ("copy_ns", "copies run"),
)


def findings(breakdowns: Sequence[Breakdown]) -> tuple[str, ...]:
    """Sentences on batches that were broken down; empty without any."""
    if not breakdowns:
        return ()
    bounds = Tally(one.bound for one in breakdowns if one.bound is not None)
    said = [
        f"{count} of {len(breakdowns)} batches are limited {_LIMITS[bound]}"
        for bound, count in bounds.most_common(2)
        if count >= WORTH * len(breakdowns)
    ]
    wholes = [one.parts[0] for one in breakdowns if one.parts]
    return (*said, *_shares(wholes))


def _shares(wholes: Sequence[Part]) -> Iterator[str]:
    length = sum(part.wall_ns for part in wholes)
    many = len(wholes)
    host = _together([vars(part.host) for part in wholes])
    parts = [
        f"{host[name] / many / 1e6:.2f} ms {text}"
        for name, text in _HOST
        if host.get(name, 0) > WORTH * length
    ]
    if parts:
        yield f"of an average batch of {length / many / 1e6:.2f} ms the model thread is " + ", ".join(parts)
    devices = [vars(part.device) for part in wholes if part.device is not None]
    if len(devices) == many:
        device = _together(devices)
        size = length * max(one["devices"] for one in devices)
        for name, text in _DEVICE:
            if device[name] > WORTH * size:
                yield f"{text} for {100 * device[name] / size:.0f} % of the time"


def _together(rows: Sequence[Mapping[str, int | None]]) -> dict[str, int]:
    """Sums of what every row has."""
    made: dict[str, int] = {}
    for name in rows[0] if rows else ():
        values = [value for row in rows if (value := row[name]) is not None]
        if len(values) == len(rows):
            made[name] = sum(values)
    return made
