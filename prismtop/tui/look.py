"""How things look: characters for stages, and a Rich style for every role that a panel names.

A panel produces `Line`s: tuples of (text, role). Roles are words (`muted`, `stage.wait`, `key`); a role with
`+cursor` at its end is drawn on the selected row. Only this module knows colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.style import Style

Span = tuple[str, str]
Line = tuple[Span, ...]

UNICODE_STAGES: Mapping[str, str] = {
    "recv": "◂",
    "schedule": "▒",
    "prepare": "▓",
    "launch": "█",
    "sample": "▚",
    "wait": "░",
    "post": "▞",
    "stream": "▸",
    "idle": "╌",
    "other": "·",
}
ASCII_STAGES: Mapping[str, str] = {
    "recv": "<",
    "schedule": "s",
    "prepare": "p",
    "launch": "#",
    "sample": "%",
    "wait": "-",
    "post": "o",
    "stream": ">",
    "idle": "_",
    "other": ".",
}

ROLES = (
    "base", "muted", "strong", "title", "ok", "warn", "error", "badge", "key", "keylabel", "column",
    "mode.prefill", "mode.decode", "mode.mixed", "mode.idle", "mode.unknown",
    *(f"stage.{name}" for name in UNICODE_STAGES),
)  # fmt: skip
"""Every role that a theme must be able to draw."""


@dataclass(frozen=True)
class Glyphs:
    """The characters of one character set.

    Attributes:
        stages: one cell per stage name, and `other` for time that no hook covers.
        pointer: marks the selected row.
        over: ends a bar that is longer than its room.
        rule: draws a horizontal rule.
        dot: separates facts on a line.
        levels: from nothing to a full cell, for sparklines.
        slow: marks a batch that is slow for its workload.
        match: marks a row that the search found.
        ticks: inside the interval, above it, below it, not judged.
        interval: before half the width of an interval.
        down, up: largest or smallest first.
        branch, last, trunk: a tree's lines.
        seek: passed and coming part of a seek bar, and the position.
        braille: whether the terminal has U+2800 to U+28FF.
    """

    stages: Mapping[str, str]
    pointer: str
    over: str
    rule: str
    dot: str
    levels: str = " .:-=+*#"
    slow: str = "!"
    match: str = "*"
    ticks: tuple[str, str, str, str] = (".", "+", "-", "?")
    interval: str = "~"
    down: str = "v"
    up: str = "^"
    branch: str = "|- "
    last: str = "`- "
    trunk: str = "|  "
    seek: tuple[str, str, str] = ("=", "-", "|")
    braille: bool = False


UNICODE = Glyphs(
    UNICODE_STAGES, ">", "»", "─", "·", levels=" ▁▂▃▄▅▆▇█", slow="▲", ticks=("·", "▴", "▾", "?"),
    interval="±", down="▼", up="▲", branch="├─ ", last="└─ ", trunk="│  ", seek=("━", "─", "●"), braille=True,
)  # fmt: skip
ASCII = Glyphs(ASCII_STAGES, ">", "}", "-", "|")


@dataclass(frozen=True)
class Look:
    """Styles by role and the glyphs, of one theme.

    Attributes:
        styles: every role of `ROLES`; colours are absolute and every style has a background.
        cursor: laid over a role's style on the selected row.
        glyphs: the character set.
    """

    styles: Mapping[str, Style]
    cursor: Style
    glyphs: Glyphs = UNICODE
    _made: dict[str, Style] = field(default_factory=dict, compare=False, repr=False)

    def style(self, role: str) -> Style:
        """The style of a role, with or without `+cursor`. Raises KeyError for an unknown role."""
        made = self._made.get(role)
        if made is None:
            name, _, overlay = role.partition("+")
            made = self.styles[name]
            if overlay == "cursor":
                made += self.cursor
            self._made[role] = made
        return made


def width_of(line: Line) -> int:
    """Terminal cells that a line takes."""
    return sum([len(text) if text.isascii() else cell_len(text) for text, _ in line])


def fit(text: str, width: int) -> str:
    """Text cut or padded to exactly `width` cells (wide characters counted as two)."""
    return set_cell_size(text, width)


def cut(text: str, width: int, more: str = "~") -> str:
    """Text of at most `width` cells, ending with `more` when something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)) + more[: max(0, width)]


def joined(parts: list[Span], separator: str, width: int = 1 << 16) -> Line:
    """Spans with a muted separator between them; empty texts, and what does not fit whole, are left out."""
    line: list[Span] = []
    used = 0
    for text, role in parts:
        size = cell_len(text) + (len(separator) if line else 0)
        if not text or used + size > width:
            continue
        if line:
            line.append((separator, "muted"))
        line.append((text, role))
        used += size
    return tuple(line)


def between(left: Line, right: Line, width: int) -> Line:
    """`left` at the left edge and `right` at the right edge; the left gives way when both do not fit."""
    room = max(0, width - width_of(right) - 1)
    kept: list[Span] = []
    for text, role in left:
        text = cut(text, room)
        room -= cell_len(text)
        kept.append((text, role))
        if room <= 0:
            break
    return (*kept, (" " * (room + 1), "base"), *right)


def ruled(title: str, width: int, glyphs: Glyphs, role: str = "muted") -> Line:
    """A rule with a title in it: `-- title ----`."""
    text = f" {glyphs.rule * 2} {title} "
    return ((fit(text + glyphs.rule * max(0, width - cell_len(text)), width), role),)


def selected(line: Line) -> Line:
    """The same line on the selected row."""
    return tuple((text, f"{role}+cursor") for text, role in line)


def flowed(parts: list[Line], width: int, separator: str = "  ") -> list[Line]:
    """Parts on as many lines as they need; a part is never broken."""
    lines: list[Line] = []
    now: list[Span] = []
    used = 0
    for part in parts:
        size = width_of(part)
        if now and used + len(separator) + size > width:
            lines.append(tuple(now))
            now, used = [], 0
        if now:
            now.append((separator, "base"))
            used += len(separator)
        now.extend(part)
        used += size
    if now:
        lines.append(tuple(now))
    return lines
