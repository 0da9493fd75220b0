"""Plots as inline SVG. Every text is escaped here; numbers are written with few digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prismtop.safe_text import safe_text

WIDTH, HEIGHT = 900, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 34


@dataclass(frozen=True)
class Scale:
    """Maps values to places along an axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))


@dataclass(frozen=True)
class Line:
    """A series: (x, y) points, a CSS class, a name for the legend."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis with a class and a title that shows on hover."""

    start: float
    end: float
    css: str
    title: str


def text(value: object, limit: int = 200) -> str:
    """Text that is safe inside HTML and SVG, attributes included."""
    return escape(safe_text(value, limit), quote=True)


def line_plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_unit: str,
    y_unit: str,
    bands: Sequence[Band] = (),
    height: int = HEIGHT,
) -> str:
    """Lines over a common x axis; the y axis begins at 0 when nothing is negative."""
    points = [point for line in lines for point in line.points if all(map(math.isfinite, point))]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x = Scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    y = Scale(min(0.0, *ys), 1.08 * max(ys) if max(ys) > 0 else 1.0, height - _BOTTOM, _TOP)
    parts = [_open(title, height), *_axes(x, y, x_unit, y_unit, height)]
    for band in bands:
        left, right = x(band.start), x(band.end)
        parts.append(
            f'<rect class="{text(band.css)}" x="{left:.1f}" y="{_TOP}" width="{max(1.5, right - left):.1f}" '
            f'height="{height - _TOP - _BOTTOM}"><title>{text(band.title)}</title></rect>'
        )
    for line in lines:
        path = " ".join(
            f"{x(px):.1f},{y(py):.1f}" for px, py in line.points if math.isfinite(px) and math.isfinite(py)
        )
        parts.append(f'<polyline class="{text(line.css)}" points="{path}"/>')
    return "".join(parts) + "</svg>" + _legend([(line.name, line.css) for line in lines if line.name])


def stacked_bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, unit: str) -> str:
    """One horizontal bar a row, made of named parts; a part's class is `stage-NAME`."""
    longest = max((sum(value for _, value in parts) for _, parts in rows), default=0.0)
    if longest <= 0:
        return ""
    height = _TOP + 34 * len(rows) + _BOTTOM
    x = Scale(0.0, longest, _LEFT + 30, WIDTH - _RIGHT)
    made = [_open(title, height)]
    names: dict[str, None] = {}
    for number, (label, parts) in enumerate(rows):
        top, at = _TOP + 34 * number, 0.0
        made.append(f'<text x="{_LEFT + 22}" y="{top + 17}" text-anchor="end">{text(label, 12)}</text>')
        for name, value in parts:
            names[name] = None
            left, right = x(at), x(at + value)
            made.append(
                f'<rect class="fill stage-{text(name, 20)}" x="{left:.1f}" y="{top}" '
                f'width="{max(0.0, right - left):.1f}" height="26">'
                f"<title>{text(name)} {value:.3f} {text(unit)}</title></rect>"
            )
            at += value
    for tick in ticks(0.0, longest):
        place = x(tick)
        made.append(f'<text x="{place:.1f}" y="{height - 14}" text-anchor="middle">{tick:g}</text>')
    made.append(f'<text x="{WIDTH - _RIGHT}" y="{height - 2}" text-anchor="end">{text(unit)}</text>')
    return "".join(made) + "</svg>" + _legend([(name, f"fill stage-{name}") for name in names])


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round values from `low` to `high`: 1, 2 or 5 times a power of ten apart."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _open(title: str, height: int) -> str:
    name = text(title)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}"><title>{name}</title>'


def _axes(x: Scale, y: Scale, x_unit: str, y_unit: str, height: int) -> list[str]:
    made = []
    for tick in ticks(y.low, y.high, 4):
        place = y(tick)
        made.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>'
        )
        made.append(f'<text x="{_LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in ticks(x.low, x.high, 8):
        made.append(f'<text x="{x(tick):.1f}" y="{height - 16}" text-anchor="middle">{tick:.4g}</text>')
    made.append(f'<text x="{WIDTH - _RIGHT}" y="{height - 2}" text-anchor="end">{text(x_unit)}</text>')
    made.append(f'<text x="4" y="{_TOP + 4}">{text(y_unit)}</text>')
    return made


def _legend(names: Sequence[tuple[str, str]]) -> str:
    if not names:
        return ""
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 14 10" class="swatch">'
        f'<rect class="{text(css)} swatch-fill" width="14" height="10"/></svg>{text(name, 60)}</span>'
        for name, css in names
    )
    return f'<p class="legend">{keys}</p>'
