"""Writes only the cells that changed: what curses does, for the escape sequences that Textual produces.

Textual repaints whole spans and starts every one with its full colours; at a hundred batches a second the
list alone would cost some 20 kB/s over SSH. `CellDiff` keeps the terminal's cells as they were last written,
drops what is the same, and sends the rest grouped by rendition, with the cheapest cursor movements. It
understands cursor positions, SGR and text; anything else passes through unchanged, and what might alter cells
makes it forget.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rich.cells import get_character_cell_size

from prismtop.tui.rendition import blank, shortened, transition

_TOKEN = re.compile(
    r"\x1b\[(?P<style>[\d;]+)m(?P<styled>[^\x00-\x1f\x7f]+)\x1b\[0?m"
    r"|\x1b\[(?P<row>\d*)(?:;(?P<column>\d*))?H"
    r"|\x1b\[(?P<sgr>[\d;]*)m"
    r"|(?P<text>[^\x00-\x1f\x7f]+)"
    r"|(?P<newline>\n)"
    r"|(?P<other>\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x1f\x7f])",
    re.DOTALL,
)
# Mode switches, queries, keyboard protocol and operating-system commands leave the cells alone; the alternate
# screen does not.
_HARMLESS = re.compile(r"\x1b\[(?!\?(?:47|1047|1049)[hl])[?>=<]?[\d;]*\$?[hlpucntq]$|\x1b\]|\x07$")
# Unchanged cells that are written again because moving over them takes as many bytes: a move takes three for
# one cell and four for more; block characters take three bytes each.
_GAP_ASCII, _GAP_OTHER = 4, 1
_UNKNOWN = "\x00"

Patch = tuple[int, int, str]
"""Row, column, text."""


@lru_cache(4096)
def _all_narrow(text: str) -> bool:
    return text.isascii() or all(get_character_cell_size(character) == 1 for character in text)


@lru_cache(8192)
def absolute(x: int, y: int) -> str:
    """Cursor to a cell, both counted from 0."""
    return f"\x1b[{y + 1}H" if x == 0 else f"\x1b[{y + 1};{x + 1}H"


@lru_cache(8192)
def relatively(right: int, down: int) -> str:
    """Cursor by so many cells to the right (negative: left) and down."""
    vertical = "" if not down else "\x1b[B" if down == 1 else f"\x1b[{down}B"
    if right < 0:
        return vertical + ("\b" * -right if right >= -4 else f"\x1b[{-right}D")
    return vertical + ("" if not right else "\x1b[C" if right == 1 else f"\x1b[{right}C")


class CellDiff:
    """The terminal's cells as last written, and the shortest way from there to what is written next."""

    def __init__(self) -> None:
        self._characters: dict[int, str] = {}
        self._styles: dict[int, list[str]] = {}
        self._edge = 0
        self._x = self._y = 0
        self._sgr = ""
        self._pen: str | None = None
        self._at: tuple[int, int] | None = None
        self._out: list[str] = []
        self._patches: dict[str, list[Patch]] = {}
        self._blanks: dict[str, list[Patch]] = {}
        self._patched_to: dict[int, int] = {}

    def forget(self) -> None:
        """Nothing is known about the terminal's cells any more: the next writes go out whole."""
        self._characters.clear()
        self._styles.clear()
        self._edge = 0
        self._pen = self._at = None

    def reduce(self, data: str) -> str:
        """Return what must be sent so that the terminal looks as if `data` had been sent."""
        self._out = []
        end = 0
        for match in _TOKEN.finditer(data):
            if match.start() != end:
                self._pass(data[end : match.start()])
            end = match.end()
            kind = match.lastgroup
            if kind == "styled" and not self._sgr:
                self._text(match["styled"], shortened(match["style"]))
            elif kind == "styled":
                self._set_sgr(match["style"])
                self._text(match["styled"], self._sgr)
                self._sgr = ""
            elif kind == "text":
                self._text(match["text"], self._sgr)
            elif kind == "sgr":
                self._set_sgr(match["sgr"])
            elif kind == "newline":
                self._x, self._y = 0, self._y + 1
            elif kind == "other":
                self._pass(match["other"])
            else:
                self._y = int(match["row"] or 1) - 1
                self._x = int(match["column"] or 1) - 1
        if end != len(data):
            self._pass(data[end:])
        self._flush()
        return "".join(self._out)

    def _set_sgr(self, parameters: str) -> None:
        if parameters in ("", "0"):
            self._sgr = ""
        else:
            self._sgr = shortened(f"{self._sgr};{parameters}" if self._sgr else parameters)

    def _pass(self, sequence: str) -> None:
        self._flush()
        self._out.append(sequence)
        if not _HARMLESS.match(sequence):
            self.forget()

    def _text(self, text: str, style: str) -> None:
        x, y = self._x, self._y
        if not _all_narrow(text):
            # Terminals disagree about such widths: send it whole, and trust nothing on this row afterwards.
            self._flush()
            self._go(x, y)
            self._paint(text, style)
            self._at = None
            self._characters.pop(y, None)
            self._styles.pop(y, None)
            self._x += sum(map(get_character_cell_size, text))
            return
        size = len(text)
        end = self._x = x + size
        self._edge = max(self._edge, end)
        characters = self._characters.get(y, "")
        styles = self._styles.setdefault(y, [])
        if len(characters) < end:
            missing = end - len(characters)
            characters += _UNKNOWN * missing
            styles.extend([""] * missing)
        old, old_styles = characters[x:end], styles[x:end]
        if old == text and old_styles == [style] * size:
            return
        empty = blank(style)
        changed = [
            i
            for i, (character, before, style_before) in enumerate(zip(text, old, old_styles, strict=True))
            if character != before
            or (style_before != style and (character != " " or blank(style_before) != empty))
        ]
        self._characters[y] = characters[:x] + text + characters[end:]
        styles[x:end] = [style] * size
        if not changed:
            return
        if x < self._patched_to.get(y, 0):
            # These cells may be written a second time: patches are sent by rendition, not in their order.
            self._flush()
        self._patched_to[y] = end
        gap = _GAP_ASCII if text.isascii() else _GAP_OTHER
        first = last = changed[0]
        for index in changed[1:]:
            if index - last - 1 > gap:
                self._patch(text[first : last + 1], x + first, y, style)
                first = index
            last = index
        self._patch(text[first : last + 1], x + first, y, style)

    def _patch(self, text: str, x: int, y: int, style: str) -> None:
        if text.isspace():
            self._blanks.setdefault(blank(style), []).append((y, x, text))
        else:
            self._patches.setdefault(style, []).append((y, x, text))

    def _flush(self) -> None:
        """Send the collected patches, one rendition after the other."""
        patches, blanks = self._patches, self._blanks
        if not patches and not blanks:
            return
        self._patches, self._blanks = {}, {}
        self._patched_to.clear()
        for style, texts in blanks.items():
            # Blanks look the same in every rendition that has their background.
            host = next((other for other in patches if blank(other) == style), style)
            patches.setdefault(host, []).extend(texts)
        while patches:
            pen = self._pen or ""
            style = min(patches, key=lambda style: len(transition(pen, style)))
            for y, x, text in sorted(patches.pop(style)):
                self._go(x, y)
                self._paint(text, style)
                self._at = (x + len(text), y) if x + len(text) < self._edge else None

    def _paint(self, text: str, style: str) -> None:
        if self._pen is None:
            self._out.append("\x1b[0m")
            self._pen = ""
        self._out.append(transition(self._pen, style))
        self._pen = style
        self._out.append(text)

    def _go(self, x: int, y: int) -> None:
        if self._at == (x, y):
            return
        # Never from the last column (`_at` is None then): whether the cursor is on it or behind it differs
        # between terminals.
        if self._at is None or y < self._at[1]:
            self._out.append(absolute(x, y))
            return
        relative = relatively(x - self._at[0], y - self._at[1])
        self._out.append(relative if len(relative) <= len(absolute(x, y)) else absolute(x, y))
