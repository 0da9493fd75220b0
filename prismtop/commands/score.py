"""`prismtop score`: how good the detections in a file are, against the truth that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prismtop.commands.context import Context
from prismtop.errors import EXIT_OK, UsageError
from prismtop.export import jsonl
from prismtop.model import Alert, Batch, Clock, Group
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.anomaly.cause_score import CauseScore
    from prismtop.latency.score import Score, Truth


@dataclass(frozen=True)
class Labelled:
    """What a file holds, for scoring.

    Attributes:
        truths: None when the file has no ground truth.
        clock: for the times of alerts.
        notes: sentences about what was left out.
        causes: whether the causes that were recorded are right; None where none were.
    """

    engine: str
    batches: Sequence[Batch]
    truths: Sequence[Truth] | None
    clock: Clock
    notes: tuple[str, ...] = ()
    causes: CauseScore | None = None


def run(context: Context, file: str) -> int:
    """Judge every batch of `file` in file order, and score what was found.

    Raises:
        UsageError: the file cannot be read or holds no batch.
    """
    path = Path(file)
    with context.report.status(f"reading {safe_text(file)}"):
        labelled = read(path)
        for note in labelled.notes:
            context.report.say(note)
        if not labelled.batches:
            raise UsageError(f"{safe_text(file)} holds no batch.", fix="Give a trace with batches.")
        from prismtop.latency.judge import LatencyJudge
        from prismtop.latency.score import score

        group = Group(labelled.engine, None, ())
        judge = LatencyJudge(context.settings, group, inline=True)
        made = score(labelled.batches, labelled.truths, judge)
    if context.json:
        context.write(jsonl.document("score", score_object(made, labelled.clock, labelled.causes)))
    else:
        for line in score_lines(made, labelled.causes):
            context.write(line)
    return EXIT_OK


def read(path: Path) -> Labelled:
    """The batches and truths of a LatencyPrism table or of JSON lines.

    Raises:
        UsageError: see `run`.
    """
    from prismtop.latency.paper_csv import is_table, read_table

    try:
        table = is_table(path)
    except UnicodeDecodeError:
        table = False
    except OSError as error:
        raise UsageError(
            f"{safe_text(str(path))} cannot be read: {error.strerror}.", fix="Check the path."
        ) from None
    if table or path.suffix == ".csv":
        found = read_table(path)
        notes = (f"{found.bad_rows} rows without usable numbers were left out",) if found.bad_rows else ()
        truths = None if found.anomalous is None else _runs(found.batches, found.anomalous)
        return Labelled(found.engine, found.batches, truths, Clock(0), notes)
    from prismtop.latency.json_lines import looks_like_lines, read_lines

    if looks_like_lines(path):
        lines = read_lines(path)
        return Labelled(lines.engine, lines.batches, lines.truths, Clock(0), lines.notes)
    return _read_trace(path)


def _read_trace(path: Path) -> Labelled:
    from prismtop.latency.score import Truth
    from prismtop.trace.load import load

    trace = load([path])
    truths = [Truth(truth.start_ns, truth.end_ns, truth.id, truth.effect) for truth in trace.ground_truth()]
    notes = tuple(safe_text(note, 300) for note in trace.notes)
    from prismtop.anomaly.cause_score import cause_score

    clock, causes = trace.session.clock, cause_score(truths, trace.alerts())
    return Labelled(trace.group.engine, tuple(trace.batches()), truths or None, clock, notes, causes)


def _runs(batches: Sequence[Batch], anomalous: Sequence[bool]) -> list[Truth]:
    """Labelled rows in a row as intervals."""
    from prismtop.latency.score import Truth

    truths: list[Truth] = []
    first: Batch | None = None
    last: Batch | None = None
    for batch, label in zip(batches, anomalous, strict=True):
        if label:
            first, last = first or batch, batch
        elif first and last:
            truths.append(Truth(first.start_ns, last.end_ns, f"rows {first.seq}-{last.seq}"))
            first = last = None
    if first and last:
        truths.append(Truth(first.start_ns, last.end_ns, f"rows {first.seq}-{last.seq}"))
    return truths


def score_object(made: Score, clock: Clock, causes: CauseScore | None = None) -> dict[str, object]:
    """The JSON of `prismtop score`. What has no ground truth is absent."""
    line: dict[str, object] = {"batches": made.batches, "predicted": made.predicted, "flagged": made.flagged}
    for name in ("precision", "recall", "f1", "fpr"):
        value = getattr(made, name)
        if value is not None:
            line[name] = round(value, 6)
    line["alerts"] = [_alert(alert, clock) for alert in made.alerts]
    if made.episodes is not None:
        found = made.episodes
        episodes: dict[str, object] = {"hits": found.hits, "misses": found.misses, "false": found.false}
        if found.delay_batches_median is not None:
            episodes["delay_batches_median"] = found.delay_batches_median
        line["episodes"] = episodes
    if made.fit is not None:
        model: dict[str, object] = {
            "mape": round(made.fit.mape, 4),
            "within_10pct": round(made.fit.within_10pct, 6),
        }
        if made.fit.decode_mape is not None:
            model["decode_mape"] = round(made.fit.decode_mape, 4)
        line["model"] = model
    if causes is not None:
        line.update(cause_top1=causes.top1, cause_top3=causes.top3, causes_of=causes.explained)
    return line


def _alert(alert: Alert, clock: Clock) -> dict[str, object]:
    made = jsonl.alert_object(alert, clock)
    made["t_us"] = clock.wall_us(alert.opened_ns)
    return made


def score_lines(made: Score, causes: CauseScore | None = None) -> list[str]:
    """The same for a person."""
    lines = [f"{made.batches} batches, {made.predicted} predicted, {made.flagged} flagged as slow"]
    if made.precision is not None or made.recall is not None:
        lines.append(
            f"per batch: precision {_share(made.precision)}, recall {_share(made.recall)}, "
            f"F1 {_share(made.f1)}, false positive rate {_share(made.fpr)}"
        )
    elif made.episodes is None:
        lines.append("no ground truth in this file: precision and recall cannot be said")
    if made.episodes is not None:
        found = made.episodes
        delay = found.delay_batches_median
        lines.append(
            f"episodes: {found.hits} found, {found.misses} missed, {found.false} false alerts, "
            f"median delay {'n/a' if delay is None else f'{delay:g} batches'}"
        )
    if made.fit is not None:
        decode = made.fit.decode_mape
        lines.append(
            f"model: MAPE {made.fit.mape:.2f} %, within 10 % {100 * made.fit.within_10pct:.1f} %, "
            f"decode MAPE {'n/a' if decode is None else f'{decode:.2f} %'}"
        )
    if causes is not None:
        lines.append(
            f"cause, as recorded: top-1 {_share(causes.top1)}, top-3 {_share(causes.top3)} "
            f"of {causes.explained} faults"
        )
    for alert in made.alerts:
        lines.append(f"alert {alert.id}: {alert.kind}: {safe_text(alert.text)}")
    return lines


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
