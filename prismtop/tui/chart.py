"""Sparklines and a small chart of several series, on text cells.

Both stand still while time passes and move in steps: a picture that shifts by a cell every second changes
every cell of it, and over SSH that is what the screen would mostly send.
"""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.tui.look import Glyphs, Line

_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""Braille dots of the left and the right half of a cell, from the bottom."""


def window_end(now: int, columns: int, steps: int = 4) -> int:
    """The last column's successor, in units of one column, for a window that contains `now`.

    It moves by a part of the width only: as many columns as `columns / steps` are empty at most.
    """
    step = max(1, columns // steps)
    return (now // step + 1) * step


def spark(values: Sequence[float | None], low: float, high: float, glyphs: Glyphs) -> str:
    """One cell per value; a gap is a blank, anything measured at least the lowest block."""
    levels = glyphs.levels
    top = len(levels) - 1
    span = high - low
    cells = []
    for value in values:
        if value is None:
            cells.append(" ")
            continue
        part = 0.0 if span <= 0 else (value - low) / span
        cells.append(levels[max(1, min(top, round(part * top)))])
    return "".join(cells)


def history_spark(values: Sequence[float | None], now: int, width: int, glyphs: Glyphs) -> str:
    """A counter's history of one value a second; `now` is the second of the last one."""
    if width <= 0 or not values:
        return " " * width
    blank = window_end(now, width, 3) - 1 - now
    shown = values[-(width - blank) :] if width > blank else values[-1:]
    known = [value for value in shown if value is not None]
    if not known:
        return " " * width
    low, high = min(known), max(known)
    if low >= 0 and high - low < 0.1 * high:
        low, high = 0.0, 2 * high  # a value that hardly moves is a quiet line, no drama and no wall
    elif 0 <= low < high * 0.5:
        low = 0.0
    text = spark(shown, low, high, glyphs)
    return (text + " " * blank).rjust(width)[-width:]


def chart(
    series: Sequence[tuple[Sequence[float | None], str]],
    columns: int,
    rows: int,
    low: float,
    high: float,
    glyphs: Glyphs,
) -> list[list[tuple[str, str]]]:
    """Several series in one picture, as cells of (character, role), rows from the top.

    Args:
        series: values and role; two values a column with braille, one without. Later ones lie on top.
        columns, rows: cells.
        low, high: values at the lower and the upper edge.
        glyphs: the character set.
    """
    across, down = (2, 4) if glyphs.braille else (1, 1)
    dots = [[0] * columns for _ in range(rows)]
    roles = [["base"] * columns for _ in range(rows)]
    span = high - low or 1.0
    for number, (values, role) in enumerate(series):
        for at, value in enumerate(values[: columns * across]):
            if value is None:
                continue
            level = int((value - low) / span * (rows * down - 1) + 0.5)
            level = max(0, min(rows * down - 1, level))
            y, x = rows - 1 - level // down, at // across
            dots[y][x] |= _DOTS[at % across][level % down] if glyphs.braille else 1 << number
            roles[y][x] = role
    return [
        [(_character(dots[y][x], len(series), glyphs), roles[y][x]) for x in range(columns)]
        for y in range(rows)
    ]


def _character(dots: int, count: int, glyphs: Glyphs) -> str:
    if not dots:
        return " "
    if glyphs.braille:
        return chr(0x2800 + dots)
    return "*" if dots >> (count - 1) else "."


def merged(cells: Sequence[tuple[str, str]]) -> Line:
    """Neighbouring cells of one role as one span; blanks join what is before them."""
    spans: list[tuple[str, str]] = []
    for text, role in cells:
        if spans and (spans[-1][1] == role or text == " "):
            spans[-1] = (spans[-1][0] + text, spans[-1][1])
        else:
            spans.append((text, role))
    return tuple(spans)
