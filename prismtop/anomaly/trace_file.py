"""A campaign as a trace: batches, alerts with their causes, and the ground truth, on one timeline."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from prismtop.anomaly.labels import Label, arguments
from prismtop.model import Alert, Batch, Counter, Frame

_SLICE_NS = 10**9


def write(
    path: Path,
    last: Frame,
    batches: Sequence[Batch],
    alerts: Sequence[Alert],
    labels: Sequence[Label],
    counters: Sequence[Counter] = (),
) -> int:
    """Write a trace that Perfetto, chrome://tracing and `prismtop replay` open; the number of its events.

    Args:
        path: ends in .json or .json.gz; must not exist.
        last: the last frame of the session: whom it watched, and its clock.
        batches, counters: in order of time.
        counters: readings that causes rest on, so that a replay can find them again.

    Raises:
        PrismtopError: it cannot be written.
    """
    from prismtop.trace.events import Encoder
    from prismtop.trace.output import new_file
    from prismtop.trace.own import GroundTruth

    first_ns = min((batch.start_ns for batch in batches), default=last.time_ns)
    quiet = replace(
        last,
        time_ns=first_ns,
        new_batches=(),
        requests=(),
        first_tokens=(),
        new_counters=(),
        changed_alerts=(),
        warnings=(),
    )
    encoder = Encoder(quiet)
    header = encoder.header()
    lines = list(header)
    for frame in _frames(quiet, last.time_ns, batches, alerts, counters):
        lines += encoder.events_of(frame)
    for label in labels:
        length = label.end_ns - label.start_ns
        truth = GroundTruth(label.scenario, label.start_ns, length, label.pid, arguments(label))
        lines += encoder.ground_truth(truth)
    lines.append(encoder.end(len(lines), 0))
    with new_file(path) as file:
        file.write(b"[\n" + ",\n".join(lines).encode() + b"\n]\n")
        file.flush()
    return len(lines)


def _frames(
    quiet: Frame,
    end_ns: int,
    batches: Sequence[Batch],
    alerts: Sequence[Alert],
    counters: Sequence[Counter],
) -> Iterator[Frame]:
    """What was seen in each second, as a recorder would have got it."""
    opened = [(alert.opened_ns, replace(alert, closed_ns=None, causes=())) for alert in alerts]
    ended = [(min(end_ns, alert.closed_ns or end_ns), alert) for alert in alerts]
    changes = sorted(opened + ended, key=lambda change: (change[0], change[1].closed_ns is not None))
    ends, times = [batch.end_ns for batch in batches], [reading.time_ns for reading in counters]
    moments = [at for at, _ in changes]
    b = c = a = 0
    now = quiet.time_ns
    while now < end_ns:
        now = min(end_ns, now + _SLICE_NS)
        b_to, c_to, a_to = bisect_right(ends, now), bisect_right(times, now), bisect_right(moments, now)
        if now == end_ns:
            b_to, c_to, a_to = len(ends), len(times), len(moments)
        yield replace(
            quiet,
            time_ns=now,
            new_batches=tuple(batches[b:b_to]),
            new_counters=tuple(counters[c:c_to]),
            changed_alerts=tuple(alert for _, alert in changes[a:a_to]),
        )
        b, c, a = b_to, c_to, a_to
