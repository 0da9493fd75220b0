"""`prismtop analyze --html`: one page without scripts or anything from elsewhere, plots as inline SVG.

All text of the trace goes through `svg.text`, which makes it printable and escapes it. The page's own content
security policy forbids scripts and every request, should something slip through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prismtop import __version__
from prismtop.export.svg import Band, Line, line_plot, stacked_bars, text
from prismtop.export.text_report import MISSING, alert_text, rate, when
from prismtop.model import Alert
from prismtop.trace.load import Trace
from prismtop.trace.summary import BINS, Distribution, Summary, stages_of

if TYPE_CHECKING:
    from prismtop.deepdive.analysis import DeepAnalysis

_SERIES = 24
_NAMES = 40
_STYLE = """
:root { color-scheme: light dark; --ink:#1c2430; --soft:#667180; --line:#d7dde5; --paper:#fff; --bad:#c0392b;
  --a:#2563eb; --b:#d97706; --c:#0d9488; --d:#9333ea; }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e8ee; --soft:#98a4b3; --line:#333c48; --paper:#14181e;
  --bad:#ff7b6b; --a:#6ea8ff; --b:#f5b04c; --c:#45d0c0; --d:#c58cff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
.wide { overflow-x: auto; }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; } svg text { fill: var(--soft); }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 1.4; }
.mode-prefill { stroke: var(--b); } .mode-decode { stroke: var(--a); } .mode-mixed { stroke: var(--d); }
.mode-idle, .mode-unknown { stroke: var(--c); } .expected { stroke: var(--soft); stroke-dasharray: 4 3; }
.counter { stroke: var(--a); }
.anomaly { fill: var(--bad); opacity: .22; } .truth { fill: var(--b); opacity: .2; }
.stage-recv { fill:#94a3b8 } .stage-schedule { fill:#2563eb } .stage-prepare { fill:#0891b2 }
.stage-launch { fill:#16a34a } .stage-sample { fill:#84cc16 } .stage-wait { fill:#eab308 }
.stage-post { fill:#f97316 } .stage-stream { fill:#db2777 }
.stage-idle { fill:#cbd5e1 } .stage-other { fill:#e2e8f0 }
.legend { margin: .2rem 0 1rem; color: var(--soft); font-size: .85rem; } .key { margin-right: 1.2rem; }
.swatch { width: 14px; height: 10px; margin-right: .35rem; }
.swatch-fill:not(.fill) { fill: none; stroke-width: 12; }
.bad { color: var(--bad); } .soft { color: var(--soft); }
"""


def page(trace: Trace, summary: Summary, deep: DeepAnalysis | None = None) -> str:
    """The whole page.

    Args:
        deep: what operators and device events amount to; None without any.
    """
    names = ", ".join(story.path.name for story in trace.stories)
    body = "".join(
        (
            f"<h1>{text(names)}</h1>",
            _facts(trace, summary),
            _timeline(trace, summary),
            _stages(summary),
            _modes(summary),
            _anomalies(trace, summary),
            _deep(deep),
            _counters(summary),
            f'<p class="soft">prismtop {text(__version__)}</p>',
        )
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(names)}: prismtop analysis</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _facts(trace: Trace, summary: Summary) -> str:
    engine = " ".join(word for word in (trace.group.engine, trace.group.version or "") if word)
    facts: list[tuple[str, str]] = [
        ("engine", engine),
        ("length", f"{summary.seconds:.3f} s"),
        ("batches", f"{summary.batches} ({rate(summary)})"),
        ("tokens", MISSING if summary.tokens is None else str(summary.tokens)),
        ("requests", str(summary.requests) if summary.requests else MISSING),
    ]
    if summary.card is not None:
        error = summary.card.median_ape
        said = MISSING if error is None else f"median error {error:.1f} %"
        facts.append(("model", f"{summary.card.state.value}, {summary.card.trained} batches learnt, {said}"))
    for story in trace.stories:
        how = f", batches from {story.how}" if story.how else ""
        facts.append((story.dialect, f"{story.path.name}{how}"))
    facts += [("note", note) for note in (*trace.notes, *summary.warnings)]
    rows = "".join(f"<tr><td>{text(name)}</td><td>{text(value, 400)}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>"


def _timeline(trace: Trace, summary: Summary) -> str:
    lines = []
    for mode, bins in summary.bins.items():
        points = [
            (_bin_second(place, summary), slot.total / slot.count) for place, slot in sorted(bins.items())
        ]
        lines.append(Line(mode, f"mode-{mode}", points))
        expected = [
            (_bin_second(place, summary), slot.expected / slot.predicted)
            for place, slot in sorted(bins.items())
            if slot.predicted
        ]
        if expected:
            lines.append(Line(f"{mode} expected", "expected", expected))
    bands = [_alert_band(alert, trace) for alert in summary.alerts.values()]
    bands += [
        Band(_second(t.start_ns, trace), _second(t.end_ns, trace), "truth", f"injected: {t.id}")
        for t in trace.ground_truth()
    ]
    plot = line_plot("batch duration over time", lines, x_unit="s", y_unit="ms, mean", bands=bands)
    return f"<h2>Batch duration</h2>{plot}" if plot else ""


def _stages(summary: Summary) -> str:
    rows = []
    for mode, whole in summary.modes.items():
        parts = [
            (stage, summary.stages[mode, stage].total / whole.count) for stage in stages_of(summary, mode)
        ]
        rest = (whole.mean or 0.0) - sum(value for _, value in parts)
        if parts:
            rows.append((mode, [*parts, *([("other", rest)] if rest > 0.005 * (whole.mean or 0.0) else [])]))
    plot = stacked_bars("where a batch's time goes", rows, unit="ms, mean")
    return f"<h2>Where the time goes</h2>{plot}" if plot else ""


def _modes(summary: Summary) -> str:
    rows: list[Sequence[str]] = []
    for mode, whole in summary.modes.items():
        rows.append((mode, "all", *_figures(whole)))
        if mode in summary.periods:
            rows.append((mode, "period", *_figures(summary.periods[mode])))
        rows += [(mode, stage, *_figures(summary.stages[mode, stage])) for stage in stages_of(summary, mode)]
    head = ("mode", "stage", "batches", "mean ms", "p50", "p95", "p99", "max")
    return "<h2>Percentiles</h2>" + _table(head, rows)


def _anomalies(trace: Trace, summary: Summary) -> str:
    made = ["<h2>Anomalies</h2>"]
    if not summary.alerts:
        made.append("<p>none</p>")
    for alert in summary.alerts.values():
        made.append(f'<p class="bad">{text(alert_text(alert, trace), 400)}</p>')
        causes = "".join(
            f"<li>{cause.score:.2f} {text(cause.text or cause.id)}: {text('; '.join(cause.evidence), 400)}"
            "</li>"
            for cause in alert.causes[:5]
        )
        made.append(f"<ul>{causes}</ul>" if causes else "")
    truths = "".join(
        f"<li>{text(t.id)} at {text(when(t.start_ns, trace))} for {(t.end_ns - t.start_ns) / 1e9:.3f} s</li>"
        for t in trace.ground_truth()
    )
    return "".join(made) + (f"<p>Injected faults:</p><ul>{truths}</ul>" if truths else "")


def _counters(summary: Summary) -> str:
    if not summary.counters:
        return ""
    made = ["<h2>Counters</h2>"]
    moving = [
        (key, reading)
        for key, reading in sorted(summary.counters.items())
        if len(reading.points) > 2 and reading.values.high > reading.values.low
    ]
    for (name, device), reading in moving[:_SERIES]:
        title = f"{name} · {device}"
        unit = reading.unit or "value"
        plot = line_plot(title, [Line(title, "counter", reading.points)], x_unit="s", y_unit=unit, height=130)
        made.append(plot)
    rows = [
        (
            name,
            device,
            str(reading.values.count),
            *(
                [
                    f"{value:.4g}"
                    for value in (reading.values.low, reading.values.mean or 0.0, reading.values.high)
                ]
                if reading.values.count
                else [MISSING] * 3
            ),
            reading.unit if reading.values.count else reading.reason,
        )
        for (name, device), reading in sorted(summary.counters.items())
    ]
    made.append(_table(("counter", "device", "readings", "min", "mean", "max", "unit"), rows))
    return "".join(made)


def _deep(deep: DeepAnalysis | None) -> str:
    if deep is None:
        return ""
    from prismtop.export import deep_report as report

    made = ["<h2>Deep capture</h2>", *(f"<p>{text(line, 400)}</p>" for line in report.facts(deep))]
    for title, header, rows in report.parts_tables(deep):
        made.append(f"<p>{text(title)}</p>" + _table(header, rows))
    if deep.ranks:
        made.append("<p>ranks, ms in an average batch</p>")
        made.append(_table(report.RANKS, report.rank_rows(deep.ranks)))
    for name, title in report.TABLES:
        rows = report.name_rows(getattr(deep, name), _NAMES)
        if rows:
            made.append(f"<p>{text(title)}</p>" + _table(report.NAMES, rows))
    return "".join(made)


def _figures(values: Distribution) -> tuple[str, ...]:
    at = values.percentiles()
    if at is None or values.mean is None:
        return (str(values.count), *(MISSING,) * 5)
    return (str(values.count), *(f"{x:.3f}" for x in (values.mean, at.p50, at.p95, at.p99, values.high)))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells}</tr>{lines}</table></div>'


def _alert_band(alert: Alert, trace: Trace) -> Band:
    end = alert.closed_ns if alert.closed_ns is not None else trace.end_ns
    return Band(_second(alert.started_ns, trace), _second(end, trace), "anomaly", alert.text)


def _second(time_ns: int, trace: Trace) -> float:
    return (time_ns - trace.start_ns) / 1e9


def _bin_second(place: int, summary: Summary) -> float:
    return (place + 0.5) * summary.seconds / BINS
