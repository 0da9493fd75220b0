"""Predicted versus actual: a strip by the second, and the page about the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prismtop.model import Frame, ModelCard, ModelState
from prismtop.safe_text import safe_text
from prismtop.tui.chart import chart, merged, spark, window_end
from prismtop.tui.history import Bucket
from prismtop.tui.look import Glyphs, Line, cut, fit, ruled
from prismtop.tui.numbers import NA, milliseconds, percent
from prismtop.tui.panels.bar import SCALES_MS
from prismtop.tui.panels.hooks import wrapped
from prismtop.tui.view import View

_AXIS = 8
_OUTLIER = 2.5
"""Times the 90th percentile from which a second is drawn at the upper edge: the others keep a shape."""
ACTUAL, EXPECTED, BAND = "stage.launch", "stage.prepare", "muted"
SWITCHED_OFF = "no model: prediction is switched off"


def why_empty(frame: Frame) -> str:
    """Why no batch is held against a prediction; empty when some are."""
    card = frame.model
    if card is None:
        return "" if any(batch.prediction for batch in frame.batches[-32:]) else SWITCHED_OFF
    if any(batch.prediction for batch in frame.batches[-32:]):
        return ""
    reason = safe_text(card.reason) or "too few batches yet"
    if card.state is ModelState.READY:
        return f"model ready; {safe_text(card.reason) or 'no batch that it can judge was seen lately'}"
    return f"model {card.state.value}: {reason} ({card.trained:,} batches learnt)"


def model_word(card: ModelCard | None) -> str:
    """State and accuracy in a few words."""
    if card is None:
        return "no model"
    words = [f"model {card.state.value}"]
    if card.state is not ModelState.READY and card.reason:
        words.append(safe_text(card.reason, 60))
    if card.median_ape is not None:
        words.append(f"median error {card.median_ape:.1f}%")
    if card.drift_pct is not None and abs(card.drift_pct) >= 1:
        words.append(f"drift {card.drift_pct:+.0f}%")
    return ", ".join(words)


def lines(view: View, width: int, height: int, glyphs: Glyphs, *, focused: bool = False) -> list[Line]:
    """The strip on `height` lines: one with two sparklines' worth when low, a chart when there is room."""
    frame = view.frame
    if frame is None or height <= 0:
        return []
    reason = why_empty(frame)
    role = "title" if focused else "muted"
    if reason:
        text = fit(f" predicted vs actual: {reason}", width)
        return [((text, role if focused else "muted"),)]
    if height < 5:
        return _low(view, frame, width, height, glyphs, role)
    return _tall(view, frame, width, height, glyphs, role)


def _seen(view: View, frame: Frame, columns: int) -> tuple[int, Mapping[int, Bucket]]:
    now = frame.time_ns // 1_000_000_000
    first = window_end(now, columns) - columns
    if view.history.first is not None:  # from the left edge on, until the width is full
        first = max(first, min(view.history.first, now))
    # A second that has not ended yet would change with every frame.
    end = first + columns
    return first, {i: b for i, b in view.history.between(first, end).items() if i < now}


def _per_batch(bucket: Bucket | None, what: str) -> float | None:
    if bucket is None or not bucket.judged:
        return None
    return float(getattr(bucket, what)) / bucket.judged / 1e6


def range_for(values: list[float], current: tuple[float, float]) -> tuple[float, float]:
    """Lower and upper edge of the chart, around everything shown but a few that are far above the others.

    Keeps `current` while everything is inside and takes a good part of it, so that the picture stands.
    """
    usual = sorted(values)[int(len(values) * 0.9)]
    low, high = min(values), min(max(values), usual * _OUTLIER)
    edges = current[1] - current[0]
    if edges > 0 and current[0] <= low and high <= current[1] and high - low >= edges * 0.4:
        return current
    margin = max((high - low) * 0.25, high * 0.05)
    digits = 1 - math.floor(math.log10(high + margin)) if high > 0 else 0
    unit = 10.0**-digits
    return max(0.0, math.floor((low - margin) / unit) * unit), math.ceil((high + margin) / unit) * unit


def _ticks(first: int, columns: int, buckets: Mapping[int, Bucket], glyphs: Glyphs, each: int = 1) -> Line:
    """Per column: a slow batch, the mean above or below its interval, inside it, or not judged."""
    inside, above, below, unjudged = glyphs.ticks
    cells = []
    for column in range(columns):
        here = [
            bucket
            for i in range(first + column * each, first + (column + 1) * each)
            if (bucket := buckets.get(i)) is not None
        ]
        judged = sum(bucket.judged for bucket in here)
        if not here:
            cells.append((" ", "muted"))
        elif any(bucket.slow for bucket in here):
            cells.append((glyphs.slow, "error"))
        elif not judged:
            cells.append((unjudged, "muted"))
        elif sum(b.actual_ns for b in here) > sum(b.high_ns for b in here):
            cells.append((above, "muted"))
        elif sum(b.actual_ns for b in here) < sum(b.low_ns for b in here):
            cells.append((below, "muted"))
        else:
            cells.append((inside, "muted"))
    return merged(cells)


def _low(view: View, frame: Frame, width: int, height: int, glyphs: Glyphs, role: str) -> list[Line]:
    label = " vs predicted " if height == 1 else " actual    "
    columns = max(8, width - 36)
    first, buckets = _seen(view, frame, columns)
    actual = [_per_batch(buckets.get(first + i), "actual_ns") for i in range(columns)]
    expected = [_per_batch(buckets.get(first + i), "expected_ns") for i in range(columns)]
    known = [value for value in (*actual, *expected) if value is not None]
    high = next((scale for scale in SCALES_MS if scale >= max(known) * 1.05), 0.0) if known else 1.0
    now, slow, judged = _latest(buckets), _slow(buckets), sum(b.judged for b in buckets.values())
    made: list[Line] = []
    if height >= 2:
        numbers = f"{milliseconds(_per_batch(now, 'actual_ns')):>5} ms  bar {high:g} ms"
        text = spark(actual, 0.0, high, glyphs)
        made.append(((label, role), (text, ACTUAL), (f" {numbers}"[: width - len(label) - columns], "base")))
    if height >= 3:
        numbers = f"{milliseconds(_per_batch(now, 'expected_ns')):>5} ms {_interval(now, glyphs)}"
        text = spark(expected, 0.0, high, glyphs)
        made.append(((" predicted ", "muted"), (text, EXPECTED), (f" {numbers}", "base")))
    tick_label = " slow      " if height >= 3 else f" vs {milliseconds(_per_batch(now, 'expected_ns')):<7}"
    count = f" {slow:,}/{judged:,} slow, {_length(buckets)} s"
    made.append(
        (
            (tick_label, "muted"),
            *_ticks(first, columns, buckets, glyphs),
            (count, "error" if slow else "muted"),
        )
    )
    return made[-height:] if height == 1 else made[:height]


def _tall(view: View, frame: Frame, width: int, height: int, glyphs: Glyphs, role: str) -> list[Line]:
    each = 2 if glyphs.braille else 1
    columns = max(8, width - _AXIS - 2)
    rows = height - 2
    first, buckets = _seen(view, frame, columns * each)
    points = range(first, first + columns * each)
    series = {
        what: [_per_batch(buckets.get(i), what) for i in points]
        for what in ("low_ns", "high_ns", "expected_ns", "actual_ns")
    }
    known = [value for values in series.values() for value in values if value is not None]
    if known:
        view.chart_range = range_for(known, view.chart_range)
    low, high = view.chart_range if known else (0.0, 1.0)
    drawn = chart(
        [(series["low_ns"], BAND), (series["high_ns"], BAND), (series["expected_ns"], EXPECTED),
         (series["actual_ns"], ACTUAL)],
        columns, rows, low, high, glyphs,
    )  # fmt: skip
    slow, judged = _slow(buckets), sum(bucket.judged for bucket in buckets.values())
    now, passed = _latest(buckets), _length(buckets)
    title = (
        f"predicted vs actual, mean ms, last {passed} s {glyphs.dot} "
        f"actual {milliseconds(_per_batch(now, 'actual_ns'))} "
        f"predicted {milliseconds(_per_batch(now, 'expected_ns'))} {_interval(now, glyphs)} {glyphs.dot} "
        f"{slow:,} of {judged:,} slow {glyphs.dot} {model_word(frame.model)}"
    )
    made = [ruled(cut(title, width - 6), width, glyphs, role)]
    for number, cells in enumerate(drawn):
        edge = high if number == 0 else low if number == rows - 1 else None
        over = glyphs.over if number == 0 and known and max(known) > high else " "
        label = f"{over}{milliseconds(edge) if edge is not None else '':>{_AXIS - 2}} "
        made.append(((label, "muted"), *merged(cells)))
    made.append(((" slow".ljust(_AXIS), "muted"), *_ticks(first, columns, buckets, glyphs, each)))
    return made


def _latest(buckets: Mapping[int, Bucket]) -> Bucket | None:
    judged = [index for index, bucket in buckets.items() if bucket.judged]
    return buckets[max(judged)] if judged else None


def _length(buckets: Mapping[int, Bucket]) -> int:
    """Seconds from the first to the last."""
    return max(buckets) - min(buckets) + 1 if buckets else 0


def _slow(buckets: Mapping[int, Bucket]) -> int:
    return sum(bucket.slow for bucket in buckets.values())


def _interval(bucket: Bucket | None, glyphs: Glyphs) -> str:
    low, high = _per_batch(bucket, "low_ns"), _per_batch(bucket, "high_ns")
    return "" if low is None or high is None else f"{glyphs.interval}{milliseconds((high - low) / 2)}"


def page(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    """The model in numbers, then the objectives."""
    frame = view.frame
    if frame is None:
        return [((" Waiting for the first reading.", "muted"),)]
    made: list[Line] = [((" latency model".ljust(width), "column"),)]
    card = frame.model
    if card is None:
        reason = why_empty(frame)
        made += wrapped(
            f"{reason or 'predictions come with the trace, without a card of their model'}.", width, "muted"
        )
        return made
    state_role = {"ready": "ok", "learning": "warn", "stale": "warn"}[card.state.value]
    made.append(((f" {card.state.value.upper()}", state_role), (f" {safe_text(card.reason)}", "base")))
    facts = (
        ("learnt from", f"{card.trained:,} batches; {card.rejected:,} were left out as disturbed"),
        ("median error", NA if card.median_ape is None else f"{card.median_ape:.1f} %"),
        ("p95 error", NA if card.p95_ape is None else f"{card.p95_ape:.1f} %"),
        ("within 10 %", percent(card.within_10pct)),
        (
            "decode only",
            NA if card.decode_median_ape is None else f"{card.decode_median_ape:.1f} % median error",
        ),
        ("drift", NA if card.drift_pct is None else f"{card.drift_pct:+.1f} % against the frozen reference"),
        (
            "false alerts",
            NA if card.false_alerts_per_h is None else f"{card.false_alerts_per_h:g} an hour expected",
        ),
        ("sensitivity", safe_text(card.sensitivity, 40)),
        ("origin", safe_text(card.origin, 60)),
        ("modelled apart", ", ".join(safe_text(name, 40) for name in card.regimes) or "nothing"),
        ("uses", ", ".join(safe_text(name, 40) for name in card.features) or "nothing yet"),
        ("not exposed", ", ".join(safe_text(name, 40) for name in card.missing) or "nothing is missing"),
    )
    for name, text in facts:
        first, *more = wrapped(text, width, "base", 17)
        made += [((f" {name:<15} ", "muted"), (first[0][0][17:], "base")), *more]
    return made
