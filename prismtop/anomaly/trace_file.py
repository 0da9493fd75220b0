"""A campaign as a trace: batches, alerts with their causes, and the ground truth, on one timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prismtop.anomaly.labels import Label, arguments
from prismtop.model import Alert, Batch, Frame


def write(
    path: Path, last: Frame, batches: Sequence[Batch], alerts: Sequence[Alert], labels: Sequence[Label]
) -> int:
    """Write a trace that Perfetto, chrome://tracing and `prismtop replay` open; the number of its events.

    Args:
        path: ends in .json or .json.gz; must not exist.
        last: the last frame of the session: whom it watched, and its clock.

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
    opened = tuple(replace(alert, closed_ns=None, causes=()) for alert in alerts)
    lines += encoder.events_of(replace(quiet, new_batches=tuple(batches), changed_alerts=opened))
    lines += encoder.events_of(replace(quiet, time_ns=last.time_ns, changed_alerts=tuple(alerts)))
    for label in labels:
        length = label.end_ns - label.start_ns
        truth = GroundTruth(label.scenario, label.start_ns, length, label.pid, arguments(label))
        lines += encoder.ground_truth(truth)
    lines.append(encoder.end(len(lines), 0))
    with new_file(path) as file:
        file.write(b"[\n" + ",\n".join(lines).encode() + b"\n]\n")
        file.flush()
    return len(lines)
