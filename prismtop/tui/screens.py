"""The screens: which panels they have, how high each is, and what their keys do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip

from prismtop.tui.keys import DETAILS, LIST, PAGE, keys_for
from prismtop.tui.lines import Lines
from prismtop.tui.look import Line
from prismtop.tui.panels import batches, details, header, hooks, stages, summary
from prismtop.tui.panels import help as help_page
from prismtop.tui.panels.footer import Footer, footer

if TYPE_CHECKING:
    from prismtop.model import Batch
    from prismtop.tui.app import PrismtopApp


def bindings(where: str) -> list[BindingType]:
    """Textual bindings of one kind of screen, from the key table. ctrl-c would otherwise only show a hint."""
    return [
        Binding(
            name,
            key.action,
            key.label,
            show=False,
            id=f"{where}.{key.id}.{name}",
            priority=name.startswith("ctrl"),
        )
        for key in keys_for(where)
        for name in key.keys
    ]


class PanelScreen(Screen[None]):
    """A screen made of `Lines`: header above, footer below."""

    WHERE: ClassVar[str] = LIST
    DEFAULT_CSS = "PanelScreen { layout: vertical; overflow: hidden; background: $background; }"

    @property
    def owner(self) -> PrismtopApp:
        """The app, typed."""
        return cast("PrismtopApp", self.app)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The ground under the panels: blanks, past Textual's style cache as in `Lines.render_lines`."""
        return [Strip.blank(crop.width, self.owner.look.style("base"))] * crop.height

    def on_mount(self) -> None:
        """First picture."""
        self.redraw()

    def on_resize(self) -> None:
        """Every panel depends on the size."""
        self.redraw()

    def on_screen_resume(self) -> None:
        """The view may have moved on while another screen was above."""
        self.redraw()

    def redraw(self) -> None:
        """Show the view as it is now."""
        raise NotImplementedError

    def panel(self, name: str) -> Lines:
        """A panel by its id."""
        return self.query_one(f"#{name}", Lines)

    def put(self, name: str, lines: list[Line], height: int | None = None) -> None:
        """Show lines in a panel and give it its height."""
        panel = self.panel(name)
        if height is not None:
            panel.keep_height(height)
        panel.show(lines)

    def put_footer(self) -> None:
        """The footer of this kind of screen."""
        self.put("footer", [self.footer_now().line])

    def footer_now(self) -> Footer:
        """Footer with labels that say what the keys will do now."""
        view = self.owner.view
        labels = {
            "pause": "resume" if view.paused_ns is not None else "pause",
            "compact": "panels" if view.compact else "compact",
        }
        return footer(self.WHERE, self.size.width, labels)

    async def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """A click on the footer is its key."""
        if event.lines.id == "footer":
            action = self.footer_now().action_at(event.x)
            if action:
                await self.run_action(action)

    def action_pause(self) -> None:
        """Freeze the view, or go on."""
        self.owner.toggle_pause()

    def action_faster(self) -> None:
        """Redraw more often."""
        self.owner.change_rate(1)

    def action_slower(self) -> None:
        """Redraw less often."""
        self.owner.change_rate(-1)

    def action_redraw(self) -> None:
        """Paint the whole screen again."""
        self.owner.repaint()

    def action_leave(self) -> None:
        """Quit."""
        self.app.exit()

    def action_back(self) -> None:
        """To the screen below."""
        self.app.pop_screen()

    def action_help(self) -> None:
        """The help page."""
        self.app.push_screen(HelpScreen())


class ListScreen(PanelScreen):
    """Header, rates, batches, stages, status."""

    WHERE = LIST
    BINDINGS: ClassVar[list[BindingType]] = bindings(LIST)
    DEFAULT_CSS = "ListScreen > #batches { height: 1fr; }"

    def compose(self) -> ComposeResult:
        """Panels from top to bottom."""
        for name in ("header", "summary", "batches", "legend", "stages", "status", "footer"):
            yield Lines(self.owner.look, id=name)

    def redraw(self) -> None:
        """All panels; the compositor gets only the lines that differ."""
        view, glyphs = self.owner.view, self.owner.look.glyphs
        width, height = self.size
        if not width or not height:
            return
        table = stages.table(view, width, glyphs) if height >= 30 and not view.compact else []
        rates = summary.lines(
            view, width, 0 if height < 12 else 1 if view.compact or height < 18 else 2, glyphs
        )
        legend = [] if table or height < 10 else [stages.legend(view, width, glyphs)]
        head = header.lines(view, width, glyphs, self.owner.now_ns())[: 2 if height >= 8 else 1]
        status = [summary.status(view, width, glyphs)] if height >= 6 else []
        list_height = max(1, height - len(head) - len(rates) - len(table) - len(legend) - len(status) - 1)
        self.put("header", head, len(head))
        self.put("summary", rates, len(rates))
        self.put("batches", batches.lines(view, width, list_height, glyphs))
        self.put("legend", legend, len(legend))
        self.put("stages", table, len(table))
        self.put("status", status, len(status))
        self.put_footer()

    async def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """A click selects a batch, a second one opens it."""
        if event.lines.id == "batches" and event.y > 0:
            view = self.owner.view
            index = view.top + event.y - 1
            if index < view.total_rows:
                view.select(index)
                self.redraw()
                if event.double:
                    self.action_details()
        else:
            await super().on_lines_clicked(event)

    def on_lines_scrolled(self, event: Lines.Scrolled) -> None:
        """The wheel moves the selection."""
        self.action_move(event.rows)

    def action_move(self, rows: int) -> None:
        """Move the selection."""
        self.owner.view.move(rows)
        self.redraw()

    def action_page(self, pages: int) -> None:
        """Move the selection by a page."""
        self.action_move(pages * max(1, self.owner.view.height - 1))

    def action_home(self) -> None:
        """The newest batch."""
        self.action_newest()

    def action_end(self) -> None:
        """The oldest batch kept."""
        view = self.owner.view
        view.select(view.total_rows - 1)
        self.redraw()

    def action_newest(self) -> None:
        """Follow the newest batch again."""
        self.owner.view.follow()
        self.redraw()

    def action_compact(self) -> None:
        """Fewer panels, more batches."""
        self.owner.view.compact = not self.owner.view.compact
        self.redraw()

    def action_details(self) -> None:
        """The selected batch."""
        view = self.owner.view
        if view.selected is not None:
            view.hold()
            self.app.push_screen(DetailsScreen())

    def action_hooks(self) -> None:
        """Processes and hooks."""
        self.app.push_screen(HooksScreen())


class PageScreen(PanelScreen):
    """A page of text that scrolls."""

    WHERE = PAGE
    BINDINGS: ClassVar[list[BindingType]] = bindings(PAGE)
    DEFAULT_CSS = "PageScreen > #page { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self._top = 0
        self._text: list[Line] = []

    def compose(self) -> ComposeResult:
        """Header, text, footer."""
        for name in ("header", "page", "footer"):
            yield Lines(self.owner.look, id=name)

    def text(self, width: int) -> list[Line]:
        """The page's lines."""
        raise NotImplementedError

    def redraw(self) -> None:
        """The visible part of the page."""
        width, height = self.size
        if not width or not height:
            return
        glyphs = self.owner.look.glyphs
        header_height = 2 if height >= 8 else 1
        self._text = self.text(width)
        room = self._room()
        self._top = max(0, min(self._top, len(self._text) - room))
        shown = self._text[self._top : self._top + room]
        self.put(
            "header",
            header.lines(self.owner.view, width, glyphs, self.owner.now_ns())[:header_height],
            header_height,
        )
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

    def on_lines_scrolled(self, event: Lines.Scrolled) -> None:
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
        return help_page.lines(width, self.owner.look.glyphs)


class HooksScreen(PageScreen):
    """Processes, hooks, costs, warnings."""

    def text(self, width: int) -> list[Line]:
        """The probe page."""
        return hooks.lines(self.owner.view, width, self.owner.look.glyphs)


class DetailsScreen(PageScreen):
    """One batch. The list below stands still while this is open."""

    WHERE = DETAILS
    BINDINGS: ClassVar[list[BindingType]] = bindings(DETAILS)

    def text(self, width: int) -> list[Line]:
        """The selected batch."""
        view, frame = self.owner.view, self.owner.view.frame
        batch: Batch | None = view.selected
        if batch is None or frame is None:
            return [((" This batch has left the list.", "muted"),)]
        around = view.held or tuple(reversed(frame.batches))
        beside = 3 if self.size.height >= 30 else 2
        scale, glyphs = view.scale_ms or 10.0, self.owner.look.glyphs
        return details.lines(batch, around, frame, width, scale, glyphs, beside)

    def action_neighbour(self, rows: int) -> None:
        """The batch before or after."""
        view = self.owner.view
        view.select(view.cursor + rows)
        self.redraw()
