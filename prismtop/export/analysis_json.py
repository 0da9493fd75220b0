"""`prismtop analyze --json` and `prismtop diff --json`: one object each. Absent is: not in the trace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prismtop.model import Alert, Percentiles
from prismtop.safe_text import safe_text
from prismtop.trace.compare import LEVEL, Comparison
from prismtop.trace.load import Trace
from prismtop.trace.summary import Distribution, Summary, stages_of

if TYPE_CHECKING:
    from prismtop.deepdive.analysis import DeepAnalysis


def analysis_object(trace: Trace, summary: Summary, deep: DeepAnalysis | None = None) -> dict[str, Any]:
    """Everything of a summary but its timeline. Times in milliseconds, as the names say."""
    made: dict[str, Any] = {
        "files": [
            {
                "path": safe_text(str(story.path)),
                "dialect": story.dialect,
                "batches": story.index.batches,
                **({"batches_from": safe_text(story.how)} if story.how else {}),
            }
            for story in trace.stories
        ],
        "engine": safe_text(trace.group.engine),
        "seconds": round(summary.seconds, 6),
        "batches": summary.batches,
        "notes": [safe_text(note) for note in trace.notes],
        "warnings": [safe_text(text) for text in summary.warnings],
    }
    if trace.group.version is not None:
        made["version"] = safe_text(trace.group.version)
    for name, value in (("tokens", summary.tokens), ("decode_tokens", summary.decode_tokens)):
        if value is not None:
            made[name] = value
    if summary.seconds and not summary.sampled:  # such a batch is the mean of many
        made["batches_per_s"] = round(summary.batches / summary.seconds, 3)
        made["busy"] = round(min(1.0, summary.busy_ns / 1e9 / summary.seconds), 4)
    if summary.requests:
        made["requests"] = {
            "count": summary.requests,
            **{
                f"{name}_ms": _figures(values)
                for name, values in (("ttft", summary.ttft), ("tpot", summary.tpot))
            },
        }
    made["modes"] = {
        mode: {
            "duration_ms": _figures(values),
            **({"period_ms": _figures(summary.periods[mode])} if mode in summary.periods else {}),
            "stages_ms": {stage: _figures(summary.stages[mode, stage]) for stage in stages_of(summary, mode)},
        }
        for mode, values in summary.modes.items()
    }
    made["anomalies"] = [alert_object(alert, trace) for alert in summary.alerts.values()]
    if summary.judged:
        made["judged"], made["slow"] = summary.judged, summary.slow
    if summary.card is not None:
        card = summary.card
        made["model"] = {
            name: value
            for name in (
                "reason", "trained", "rejected", "median_ape", "p95_ape", "within_10pct", "decode_median_ape",
                "drift_pct", "origin", "sensitivity",
            )
            if (value := getattr(card, name)) not in (None, "")
        }  # fmt: skip
        made["model"]["state"] = card.state.value
    made["ground_truth"] = [
        {
            "id": safe_text(truth.id),
            "start_s": _seconds(truth.start_ns, trace),
            "end_s": _seconds(truth.end_ns, trace),
            **({} if truth.effect is None else {"effect": truth.effect}),
        }
        for truth in trace.ground_truth()
    ]
    made["counters"] = [
        {
            "name": safe_text(name),
            "device": safe_text(device),
            "unit": safe_text(reading.unit),
            "readings": reading.values.count,
            **(
                {
                    "min": reading.values.low,
                    "mean": reading.values.mean,
                    "max": reading.values.high,
                    "last": reading.last,
                }
                if reading.values.count
                else {"reason": safe_text(reading.reason)}
            ),
        }
        for (name, device), reading in sorted(summary.counters.items())
    ]
    captured = [story.captured for story in trace.stories if story.captured is not None]
    if captured:
        made["captures"] = [_safe(capture) for capture in captured]
    if deep is not None:
        from prismtop.export.deep_report import deep_object

        made["deepdive"] = deep_object(deep)
    return made


def alert_object(alert: Alert, trace: Trace) -> dict[str, Any]:
    """One episode, its times in seconds after the start of the trace."""
    made: dict[str, Any] = {
        "id": alert.id,
        "kind": safe_text(alert.kind),
        "severity": alert.severity.value,
        "opened_s": _seconds(alert.opened_ns, trace),
        "batches": alert.batches,
        "first_seq": alert.first_seq,
        "last_seq": alert.last_seq,
        "excess_ms": round(alert.excess_ns / 1e6, 3),
        "text": safe_text(alert.text),
        "causes": [
            {
                "id": safe_text(cause.id),
                "score": round(cause.score, 3),
                "text": safe_text(cause.text),
                "evidence": [safe_text(line) for line in cause.evidence],
            }
            for cause in alert.causes
        ],
    }
    if alert.closed_ns is not None:
        made["closed_s"] = _seconds(alert.closed_ns, trace)
    if alert.excess_pct is not None and math.isfinite(alert.excess_pct):
        made["excess_pct"] = round(alert.excess_pct, 2)
    return made


def comparison_object(before: str, after: str, found: Comparison) -> dict[str, Any]:
    """What changed. A percentage that does not exist is absent."""
    changes = []
    for change in found.changes:
        made: dict[str, Any] = {
            "mode": change.mode,
            "what": change.what,
            "before_ms": round(change.before_ms, 6),
            "after_ms": round(change.after_ms, 6),
            "change_ms": round(change.ms, 6),
            "low_ms": round(change.low_ms, 6),
            "high_ms": round(change.high_ms, 6),
            "batches": list(change.batches),
            "changed": change.changed,
        }
        for name, value in (
            ("change_pct", change.pct),
            ("low_pct", change.low_pct),
            ("high_pct", change.high_pct),
        ):
            if math.isfinite(value):
                made[name] = round(value, 3)
        changes.append(made)
    return {
        "before": safe_text(before),
        "after": safe_text(after),
        "level_pct": LEVEL,
        "strata": found.strata,
        "workload_known": found.workload_known,
        "matched_before": round(found.matched[0], 4),
        "matched_after": round(found.matched[1], 4),
        "changes": changes,
        "stages_only_before": [list(pair) for pair in found.only_before],
        "stages_only_after": [list(pair) for pair in found.only_after],
    }


def _safe(value: Any) -> Any:
    """What a file says of its capture, safe to print."""
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, Mapping):
        return {safe_text(key): _safe(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_safe(inner) for inner in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _seconds(time_ns: int, trace: Trace) -> float:
    return round((time_ns - trace.start_ns) / 1e9, 6)


def _figures(values: Distribution) -> dict[str, float]:
    at: Percentiles | None = values.percentiles()
    if at is None or values.mean is None:
        return {"count": 0}
    return {
        "count": values.count,
        "mean": round(values.mean, 6),
        "p50": round(at.p50, 6),
        "p95": round(at.p95, 6),
        "p99": round(at.p99, 6),
        "max": round(values.high, 6),
    }
