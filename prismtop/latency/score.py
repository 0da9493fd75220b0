"""Scores detections: every batch is predicted, then learnt from, in order; truth is looked at afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from prismtop.latency.judge import LatencyJudge
from prismtop.model import Alert, Batch, Mode, ModelCard, Verdict

GRACE_BATCHES = 1
"""Batches after the end of a truth in which an alert still counts as its."""


@dataclass(frozen=True)
class Truth:
    """A disturbance that was injected.

    Attributes:
        start_ns, end_ns: on the clock of the batches.
        id: names it.
        effect: whether it was seen to have an effect on latency at all; one without is no miss when nothing
            is found, and no false alert when something is. None is: not known, taken for yes.
    """

    start_ns: int
    end_ns: int
    id: str = ""
    effect: bool | None = None


@dataclass(frozen=True)
class EpisodeScore:
    """Alerts against truths.

    Attributes:
        hits, misses: truths with and without an alert that opened during them.
        false: alerts without a truth.
        delay_batches_median: batches from the start of a truth to its alert, the alert's included; None
            without hits.
    """

    hits: int
    misses: int
    false: int
    delay_batches_median: float | None


@dataclass(frozen=True)
class FitScore:
    """The model's fit, of batches outside of truths, each predicted before it was learnt.

    Attributes:
        mape: mean absolute percentage error, percent.
        within_10pct: share within 10 %, 0 to 1.
        decode_mape: the same mean for decode batches; None without any.
    """

    mape: float
    within_10pct: float
    decode_mape: float | None


@dataclass(frozen=True)
class Score:
    """What `prismtop score` says. Without ground truth the figures that need it are None."""

    batches: int
    predicted: int
    flagged: int
    alerts: tuple[Alert, ...]
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    fpr: float | None = None
    episodes: EpisodeScore | None = None
    fit: FitScore | None = None
    card: ModelCard | None = None


@dataclass(frozen=True)
class Seen:
    """A batch as judged, and whether it was flagged or fired a rule."""

    batch: Batch
    slow: bool
    paged: bool


def judge_all(batches: Iterable[Batch], judge: LatencyJudge) -> tuple[list[Seen], list[Alert]]:
    """Judge batches in order; the alerts as they were last."""
    seen: list[Seen] = []
    alerts: dict[int, Alert] = {}
    for batch in batches:
        engine = judge.engine(batch.pid)
        made = engine.take(batch)
        prediction = made.prediction
        flagged = prediction is not None and prediction.verdict is Verdict.SLOW
        seen.append(Seen(made, flagged or engine.paging, engine.paging))
        for alert in engine.alerts(batch.end_ns):
            alerts[alert.id] = alert
    for alert in judge.finish():
        alerts[alert.id] = alert
    return seen, list(alerts.values())


def score(batches: Iterable[Batch], truths: Sequence[Truth] | None, judge: LatencyJudge) -> Score:
    """Judge and score.

    Args:
        batches: in order of time.
        truths: what was injected; None when the file has no ground truth, which is not the same as none
            injected.
    """
    seen, alerts = judge_all(batches, judge)
    made = Score(
        batches=len(seen),
        predicted=sum(1 for one in seen if one.batch.prediction),
        flagged=sum(1 for one in seen if one.slow),
        alerts=tuple(alerts),
        fit=_fit(seen, truths or ()),
        card=judge.card(),
    )
    if truths is None:
        return made
    precision, recall, f1, fpr = _per_batch(seen, truths)
    return Score(
        **{
            **made.__dict__,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "fpr": fpr,
            "episodes": _episodes(seen, alerts, truths),
        }
    )


def _inside(batch: Batch, truths: Sequence[Truth]) -> Truth | None:
    """The truth that the batch, or the gap before it, overlaps."""
    start = batch.end_ns - max(batch.duration_ns, batch.period_ns or 0)
    return next((truth for truth in truths if start < truth.end_ns and batch.end_ns > truth.start_ns), None)


def _per_batch(
    seen: Sequence[Seen], truths: Sequence[Truth]
) -> tuple[float | None, float | None, float | None, float | None]:
    hit = false = missed = quiet = 0
    for one in seen:
        truth = _inside(one.batch, truths)
        if truth is not None and truth.effect is False:
            continue
        if truth is not None:
            hit, missed = hit + one.slow, missed + (not one.slow)
        else:
            false, quiet = false + one.slow, quiet + (not one.slow)
    precision = hit / (hit + false) if hit + false else None
    recall = hit / (hit + missed) if hit + missed else None
    f1 = 2 * hit / (2 * hit + false + missed) if hit + false + missed else None
    return precision, recall, f1, false / (false + quiet) if false + quiet else None


def _episodes(seen: Sequence[Seen], alerts: Sequence[Alert], truths: Sequence[Truth]) -> EpisodeScore:
    ends = {(one.batch.pid, one.batch.seq): one.batch.end_ns for one in seen}
    until = [ends.get((alert.pid, alert.last_seq), alert.opened_ns) for alert in alerts]
    delays, matched, hits, misses = [], set(), 0, 0
    order = sorted(one.batch.end_ns for one in seen)
    for truth in truths:
        reach = _reach(truth, order)
        # An alert that was open already says nothing of what begins under it.
        own = [
            n
            for n, (alert, end) in enumerate(zip(alerts, until, strict=True))
            if alert.opened_ns >= truth.start_ns and alert.started_ns < reach and end > truth.start_ns
        ]
        matched.update(own)
        if truth.effect is False:
            continue
        if own:
            hits += 1
            opened = min(alerts[n].opened_ns for n in own)
            delays.append(max(1, sum(1 for end in order if truth.start_ns < end <= opened)))
        else:
            misses += 1
    false = len(alerts) - len(matched)
    return EpisodeScore(hits, misses, false, float(median(delays)) if delays else None)


def _reach(truth: Truth, order: Sequence[int]) -> int:
    """The end of a truth, with its grace."""
    later = [end for end in order if end > truth.end_ns][: GRACE_BATCHES + 1]
    return later[-1] if later else truth.end_ns + 1


def _fit(seen: Sequence[Seen], truths: Sequence[Truth]) -> FitScore | None:
    errors: list[float] = []
    decode: list[float] = []
    for one in seen:
        prediction = one.batch.prediction
        if prediction is None or (truths and _inside(one.batch, truths)):
            continue
        actual = one.batch.judged_ns
        if not actual:
            continue
        error = abs(prediction.expected_ns - actual) / actual
        errors.append(error)
        if one.batch.mode is Mode.DECODE:
            decode.append(error)
    if not errors:
        return None
    return FitScore(
        mape=100 * sum(errors) / len(errors),
        within_10pct=sum(1 for error in errors if error <= 0.1) / len(errors),
        decode_mape=100 * sum(decode) / len(decode) if decode else None,
    )
