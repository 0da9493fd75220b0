"""The pages: help, processes and hooks, alerts, counters, model, process tree, one batch in detail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult

from prismtop.tui.keys import DETAILS, PAGE
from prismtop.tui.lines import Lines
from prismtop.tui.look import Line
from prismtop.tui.panels import alerts, capture, counters, details, hooks, prediction, slo, stages, tree
from prismtop.tui.panels import help as help_page
from prismtop.tui.panels.footer import Footer
from prismtop.tui.screens import PanelScreen

if TYPE_CHECKING:
    from prismtop.model import Batch


class PageScreen(PanelScreen):
    """A page of text that scrolls."""

    WHERE = PAGE
    DEFAULT_CSS = "PageScreen > #page { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self._top = 0
        self._text: list[Line] = []

    def compose(self) -> ComposeResult:
        """Header, text, footer."""
        for name in ("header", "page", "footer", "overlay"):
            yield Lines(self.owner.look, id=name)

    def text(self, width: int) -> list[Line]:
        """The page's lines."""
        raise NotImplementedError

    def redraw(self) -> None:
        """The visible part of the page."""
        width, height = self.size
        if not width or not height:
            return
        header_height = 2 if height >= 8 else 1
        self._text = self.text(width)
        room = self._room()
        self._top = max(0, min(self._top, len(self._text) - room))
        shown = self._text[self._top : self._top + room]
        self.put("header", self.header_now(header_height), header_height)
        self.put("page", shown)
        self.put_footer()

    def footer_now(self) -> Footer:
        """Ends with the place in the page when that is longer than the screen."""
        made = super().footer_now()
        room = self._room()
        if len(self._text) <= room:
            return made
        place = f" lines {self._top + 1}-{min(len(self._text), self._top + room)} of {len(self._text)} "
        last, role = made.line[-1]
        if len(last) < len(place):
            return made
        return Footer((*made.line[:-1], (last[: -len(place)] + place, role)), made.places)

    def _room(self) -> int:
        return max(1, self.size.height - (2 if self.size.height >= 8 else 1) - 1)

    def scrolled(self, event: Lines.Scrolled) -> None:
        """The wheel scrolls."""
        self.action_move(event.rows)

    def action_move(self, rows: int) -> None:
        """Scroll by lines."""
        self._top += rows
        self.redraw()

    def action_page(self, pages: int) -> None:
        """Scroll by pages."""
        self.action_move(pages * max(1, self._room() - 1))

    def action_home(self) -> None:
        """To the first line."""
        self._top = 0
        self.redraw()

    def action_end(self) -> None:
        """To the last line."""
        self._top = len(self._text)
        self.redraw()


class HelpScreen(PageScreen):
    """Keys, columns, glyphs, states, why values are missing."""

    def text(self, width: int) -> list[Line]:
        """The help page."""
        return help_page.lines(width, self.owner.look.glyphs, self.owner.keymap.keys)


class HooksScreen(PageScreen):
    """Processes, hooks, costs, warnings."""

    def text(self, width: int) -> list[Line]:
        """The probe page."""
        return hooks.lines(self.owner.view, width, self.owner.look.glyphs)


class AlertsScreen(PageScreen):
    """Episodes with their causes and the evidence."""

    def text(self, width: int) -> list[Line]:
        """The alerts page."""
        return alerts.page(self.owner.view, width, self.owner.look.glyphs)


class CaptureScreen(PageScreen):
    """The latest deep capture: costs, layers, file."""

    def text(self, width: int) -> list[Line]:
        """The capture page."""
        key = self.owner.keymap.shown("deepdive")
        return capture.page(self.owner.view, width, self.owner.look.glyphs, key)


class CountersScreen(PageScreen):
    """Every counter, or why there is none."""

    def text(self, width: int) -> list[Line]:
        """The counters page."""
        return counters.page(self.owner.view, width, self.owner.look.glyphs)


class ModelScreen(PageScreen):
    """The latency model, then the objectives."""

    def text(self, width: int) -> list[Line]:
        """The model page."""
        view = self.owner.view
        made = prediction.page(view, width, self.owner.look.glyphs)
        return made + (slo.page(view.frame, width) if view.frame is not None else [])


class TreeScreen(PageScreen):
    """The engine's processes."""

    def text(self, width: int) -> list[Line]:
        """The tree page."""
        return tree.page(self.owner.view, width, self.owner.look.glyphs)


class StagesScreen(PageScreen):
    """Percentiles of every stage in every mode."""

    def text(self, width: int) -> list[Line]:
        """The stages page."""
        made = stages.table(self.owner.view, width, self.owner.look.glyphs)
        return made or [((" No stage was measured yet.", "muted"),)]


class DetailsScreen(PageScreen):
    """One batch. The list below stands still while this is open."""

    WHERE = DETAILS

    def text(self, width: int) -> list[Line]:
        """The selected batch."""
        view, frame = self.owner.view, self.owner.view.frame
        batch: Batch | None = view.selected
        if batch is None or frame is None:
            return [((" This batch has left the list.", "muted"),)]
        beside = 3 if self.size.height >= 30 else 2
        scale, glyphs = view.scale_ms or 10.0, self.owner.look.glyphs
        return details.lines(batch, view.rows, frame, width, scale, glyphs, beside)

    def action_neighbour(self, rows: int) -> None:
        """The batch before or after."""
        view = self.owner.view
        view.select(view.cursor + rows)
        self.redraw()

    def action_goto(self) -> None:
        """Asked in the list."""
        from prismtop.tui.list_screen import ListScreen

        self.app.pop_screen()
        below = self.app.screen
        if isinstance(below, ListScreen):
            below.action_goto()
