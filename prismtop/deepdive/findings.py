"""What a capture amounts to, in a few sentences for a person."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

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
    parts = []
    for name, text in _HOST:
        known = [part for part in wholes if vars(part.host)[name] is not None]
        spent = sum(vars(part.host)[name] for part in known)
        if spent > WORTH * sum(part.wall_ns for part in known):
            parts.append(f"{spent / len(known) / 1e6:.2f} ms {text}")
    if parts:
        yield f"of an average batch of {length / many / 1e6:.2f} ms the model thread is " + ", ".join(parts)
    devices = [vars(part.device) for part in wholes if part.device is not None]
    if len(devices) == many:
        device = {name: sum(one[name] for one in devices) for name in devices[0]}
        size = length * max(one["devices"] for one in devices)
        for name, text in _DEVICE:
            if device[name] > WORTH * size:
                yield f"{text} for {100 * device[name] / size:.0f} % of the time"
