"""Menus that letters narrow, and questions, over a screen that stays alive below."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prismtop.tui.keys import CONFIRM, MENU
from prismtop.tui.look import Glyphs, Line, cut, fit, selected


@dataclass(frozen=True)
class Entry:
    """One entry of a menu.

    Attributes:
        title: what it is called; letters that are typed must occur in it in their order.
        hint: at the right edge.
        choose: called when it is taken, after the menu was closed.
        preview: called when the selection comes to it.
        keep_open: the menu stays and is made anew.
    """

    title: str
    choose: Callable[[], None]
    hint: str = ""
    preview: Callable[[], None] | None = None
    keep_open: bool = False


class Overlay:
    """A menu, or a question when `where` is CONFIRM.

    Args:
        title: on the upper edge.
        entries: made anew after a choice that keeps the menu open; of a question there is one, the yes.
        where: which keys of the table work.
        text: sentences above the entries.
        facts: lines below them that are cut rather than broken; those for which there is no room are counted.
        on_leave: called when it is closed without a choice.
    """

    def __init__(
        self,
        title: str,
        entries: Callable[[], Sequence[Entry]],
        *,
        where: str = MENU,
        text: str = "",
        facts: Sequence[str] = (),
        on_leave: Callable[[], None] | None = None,
        at: int = 0,
    ) -> None:
        self.title = title
        self.where = where
        self.text = text
        self.facts = tuple(facts)
        self.typed = ""
        self.cursor = at
        self.top = 0
        self._made = entries
        self._entries = tuple(entries())
        self._on_leave = on_leave
        self._rows = 1

    @property
    def entries(self) -> list[Entry]:
        """Entries that contain what was typed, those that start with it first."""
        wanted = self.typed.lower()
        if not wanted:
            return list(self._entries)
        ranked = [(_rank(entry.title.lower(), wanted), entry) for entry in self._entries]
        kept = [(rank, number, entry) for number, (rank, entry) in enumerate(ranked) if rank is not None]
        return [entry for _, _, entry in sorted(kept, key=lambda item: item[:2])]

    @property
    def current(self) -> Entry | None:
        """The selected entry."""
        entries = self.entries
        return entries[self.cursor] if 0 <= self.cursor < len(entries) else None

    def renew(self) -> None:
        """Make the entries anew."""
        self._entries = tuple(self._made())

    def move(self, rows: int) -> None:
        """Move the selection; its entry is previewed."""
        self.cursor = max(0, min(self.cursor + rows, len(self.entries) - 1))
        self._preview()

    def page(self, pages: int) -> None:
        """Move the selection by a page."""
        self.move(pages * max(1, self._rows - 1))

    def type(self, character: str) -> None:
        """Narrow the entries; an empty text takes the last character away."""
        self.typed = self.typed + character if character else self.typed[:-1]
        self.cursor = 0
        self._preview()

    def leave(self) -> None:
        """Closed without a choice."""
        if self._on_leave is not None:
            self._on_leave()

    def _preview(self) -> None:
        entry = self.current
        if entry is not None and entry.preview is not None:
            entry.preview()

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Cells it takes of a screen."""
        most = max(
            [len(entry.title) + len(entry.hint) + 6 for entry in self._entries]
            + [len(fact) + 2 for fact in self.facts]
            + [len(self.title) + 8, 44]
        )
        cells = max(1, min(width, most, 76))
        told = len(self._told(cells, height))
        lines = told + len(self._entries) + (2 if self.where == MENU else 3)
        return cells, max(1, min(height, lines, max(8, height * 7 // 10, told + 3)))

    def _told(self, width: int, height: int) -> list[str]:
        """Sentences, then as many facts as leave room for the answers."""
        made = textwrap.wrap(self.text, max(10, width - 2)) if self.text else []
        if not self.facts:
            return made
        room = height - len(made) - 4
        facts = [cut(fact, width - 2) for fact in self.facts]
        if len(facts) > room:
            facts = [*facts[: max(0, room - 1)], f"and {len(facts) - max(0, room - 1)} more"]
        return made[: max(0, height - 4)] + facts[: max(0, room)]

    def lines(self, width: int, height: int, glyphs: Glyphs) -> list[Line]:
        """The picture, `height` lines."""
        prompt = f": {self.typed}_" if self.where == MENU else ""
        made: list[Line] = [((fit(cut(f" {self.title}{prompt}", width), width), "title"),)]
        made += [((fit(f" {line}", width), "column"),) for line in self._told(width, height)]
        entries = self.entries
        self._rows = max(1, height - len(made) - (0 if self.where == MENU else 1))
        self.cursor = max(0, min(self.cursor, len(entries) - 1))
        self.top = max(min(self.top, self.cursor), self.cursor - self._rows + 1)
        for index in range(self.top, min(len(entries), self.top + self._rows)):
            entry = entries[index]
            hint = cut(entry.hint, max(0, width - len(entry.title) - 4))
            name = cut(entry.title, width - 2)
            mark = glyphs.pointer if index == self.cursor else " "
            text = f"{mark} {name}{' ' * max(0, width - len(name) - len(hint) - 3)}{hint} "
            line: Line = ((fit(text, width), "column"),)
            made.append(selected(line) if index == self.cursor else line)
        if not entries:
            made.append(((fit("  nothing of that name", width), "column"),))
        if self.where == CONFIRM:
            made.append(((fit(" n: no", width), "column"),))
        made += [((" " * width, "column"),)] * (height - len(made))
        return made[:height]

    def entry_at(self, y: int, width: int, height: int) -> int | None:
        """Index of the entry on line `y` of a picture of that size."""
        told = len(self._told(width, height))
        index = self.top + y - 1 - told
        return index if y > told and 0 <= index < len(self.entries) else None


def confirm(
    title: str, text: str, yes: str, choose: Callable[[], None], facts: Sequence[str] = ()
) -> Overlay:
    """A question; only its yes does anything."""
    return Overlay(title, lambda: [Entry(f"y: {yes}", choose)], where=CONFIRM, text=text, facts=facts)


def _rank(title: str, wanted: str) -> int | None:
    """0 starts with, 1 a word starts with, 2 contains, 3 has the letters in order; None not."""
    if title.startswith(wanted):
        return 0
    if f" {wanted}" in title:
        return 1
    if wanted in title:
        return 2
    letters = iter(title)
    return 3 if all(letter in letters for letter in wanted) else None
