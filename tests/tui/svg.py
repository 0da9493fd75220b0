"""What an SVG screenshot shows, without what Rich's writer does to it: texts, colours and attributes by cell.

The SVGs themselves would be 60 to 160 kB each, 200 of them; a digest each is kept instead, next to the texts
that a person can review. When one differs, the test writes the SVG where it can be looked at.
"""

from __future__ import annotations

import hashlib
import html
import re

_STYLE = re.compile(r"\.terminal-\d+-(r\d+) \{ ([^}]*) \}")
_TEXT = re.compile(
    r'<text class="terminal-\d+-(r\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', re.DOTALL
)
_RECT = re.compile(r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"')
CELL_WIDTH, LINE_HEIGHT = 12.2, 24.4


def shown(svg: str) -> str:
    """One line per run of text and per background, in a fixed order."""
    styles = dict(_STYLE.findall(svg))
    made = [
        f"{_cell(x, y)} {styles[style]} {html.unescape(text)}" for style, x, y, text in _TEXT.findall(svg)
    ]
    made += [
        f"{_cell(x, y)} on {colour} {round(float(width) / CELL_WIDTH)}"
        for colour, x, y, width in _RECT.findall(svg)
    ]
    return "\n".join(sorted(made))


def _cell(x: str, y: str) -> str:
    return f"{round(float(y) / LINE_HEIGHT):4} {round(float(x) / CELL_WIDTH):4}"


def digest(svg: str) -> str:
    """A short digest of what it shows."""
    return hashlib.sha256(shown(svg).encode()).hexdigest()[:20]
