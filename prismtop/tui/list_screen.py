"""The list of batches with the panels around it."""

from __future__ import annotations

from textual.app import ComposeResult

from prismtop.tui.fields import BY_NAME
from prismtop.tui.keys import LIST, PANELS
from prismtop.tui.layout import Wish, heights
from prismtop.tui.lines import Lines
from prismtop.tui.look import Line, cut
from prismtop.tui.panels import alerts, batches, counters, prediction, ranks, slo, stages, summary
from prismtop.tui.panels.replay import SeekLine, seek_line
from prismtop.tui.prompting import PromptScreen
from prismtop.tui.view import BY_TIME

_ORDER = (
    "header", "replay", "rates", "slo", "batches", "prediction", "counters", "ranks", "alerts", "stages",
    "probe", "footer",
)  # fmt: skip
FOCUSABLE = ("prediction", "counters", "ranks", "alerts", "stages")
_PAGES = {"prediction": "ModelScreen", "counters": "CountersScreen", "ranks": "TreeScreen",
          "alerts": "AlertsScreen", "stages": "StagesScreen"}  # fmt: skip
_COMPACT = ("rates", "alerts", "stages", "probe", "footer")


class ListScreen(PromptScreen):
    """Header, rates, batches, and what the size has room for."""

    WHERE = LIST
    DEFAULT_CSS = "ListScreen > #batches { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self._seek = SeekLine(())

    def compose(self) -> ComposeResult:
        """Panels from top to bottom."""
        for name in (*_ORDER, "overlay"):
            yield Lines(self.owner.look, id=name)

    def redraw(self) -> None:
        """All panels; the compositor gets only the lines that differ."""
        view, glyphs = self.owner.view, self.owner.look.glyphs
        width, height = self.size
        if not width or not height:
            return
        head = self.header_now(2 if height >= 8 else 1, toast=not self.shown.get("probe"))
        replaying = view.frame is not None and view.frame.replay is not None
        shown = self.shown = self._heights(height, len(head) + replaying)
        focus = view.focus if shown.get(view.focus) else ""
        view.focus = focus
        made: dict[str, list[Line]] = {
            "rates": summary.lines(view, width, shown["rates"], glyphs),
            "slo": [slo.line(view, width, glyphs)][: shown["slo"]],
            "probe": [self._status(width)][: shown["probe"]],
            "footer": [self.footer_now().line][: shown["footer"]],
        }
        for name, panel in (
            ("prediction", prediction), ("counters", counters), ("ranks", ranks), ("alerts", alerts),
            ("stages", stages),
        ):  # fmt: skip
            made[name] = panel.lines(view, width, shown[name], glyphs, focused=focus == name)
        if replaying and view.frame is not None:
            self._seek = seek_line(view.frame, width, glyphs)
        self.put("header", head, len(head))
        self.put("replay", [self._seek.line] if replaying else [], int(replaying))
        used = len(head) + replaying
        for name, lines in made.items():
            self.put(name, lines, len(lines))
            used += len(lines)
        self.put("batches", batches.lines(view, width, max(1, height - used), glyphs))
        self.put_overlay()

    def _heights(self, height: int, fixed: int) -> dict[str, int]:
        view = self.owner.view
        width, frame = self.size.width, view.frame
        rates = 1 if view.compact or height < 18 else 2
        table = stages.table_height(view)
        rank_lines = ranks.wanted(frame, width)
        wishes = [
            Wish("footer", 1, 2, 1),
            Wish("probe", 1, 6, 1),
            Wish("alerts", 1, 12, min(alerts.wanted(frame), 12), 36),
            Wish("rates", rates, 12, rates),
            Wish("stages", 1, 10, table, 46),
            Wish("slo", 1, 20, 1),
            Wish("prediction", 2 if height >= 22 else 1, 20, 7 if height >= 50 else 6, 36),
            Wish("counters", 1, 20, min(counters.wanted(frame, width), 9 if height >= 50 else 5), 36),
            Wish("ranks", min(2, rank_lines), 22, min(rank_lines, 6), 36),
        ]
        # Keys that are typed must be seen, whoever hid the line that they appear on.
        chosen = view.panels if self.prompt is None else {**view.panels, "footer": True}
        return heights(height, fixed, wishes, chosen, view.compact, _COMPACT)

    def _status(self, width: int) -> Line:
        """The probe's state, or a message that goes away by itself."""
        toast = self.owner.view.toast_at(self.owner.now_ns())
        if toast is not None:
            return ((cut(f" {toast.text} ", width), toast.role),)
        return summary.status(self.owner.view, width, self.owner.look.glyphs)

    # keys

    def action_sort(self) -> None:
        """The menu of columns."""
        from prismtop.tui.menus import sort

        self.open_overlay(sort(self))

    def action_sort_by(self, step: int) -> None:
        """By the column to the left or right of the present one."""
        names = [BY_TIME, *(column.title for column in batches.columns_of(self.owner.view, self.size.width))]
        view = self.owner.view
        at = names.index(view.sort) if view.sort in names else 0
        view.sort_by(names[(at + step) % len(names)])
        self.redraw()

    def action_invert(self) -> None:
        """Turn the order around."""
        self.owner.view.invert()
        self.redraw()

    def action_panel(self, number: int) -> None:
        """Show or hide a panel."""
        name = PANELS[number - 1]
        self.owner.view.panels[name] = not self.shown.get(name)
        self.redraw()
        if self.owner.view.panels[name] and not self.shown.get(name):
            self.owner.say(f"there is no room for {name} on {self.size.height} lines")
            self.redraw()

    def action_focus_panel(self, step: int) -> None:
        """The next panel that is shown; then the list again."""
        view = self.owner.view
        places = ["", *(name for name in FOCUSABLE if self.shown.get(name))]
        at = places.index(view.focus) if view.focus in places else 0
        view.focus = places[(at + step) % len(places)]
        self.redraw()

    def action_move(self, rows: int) -> None:
        """Move the selection, or scroll the panel that has the focus."""
        view = self.owner.view
        if view.focus:
            view.scroll[view.focus] = max(0, view.scroll.get(view.focus, 0) + rows)
        else:
            view.move(rows)
        self.redraw()

    def action_page(self, pages: int) -> None:
        """Move by a page."""
        view = self.owner.view
        self.action_move(pages * max(1, (self.shown[view.focus] if view.focus else view.height) - 1))

    def action_home(self) -> None:
        """The newest batch, followed again."""
        view = self.owner.view
        if view.focus:
            view.scroll[view.focus] = 0
        else:
            view.follow()
        self.redraw()

    def action_end(self) -> None:
        """The last row."""
        view = self.owner.view
        if view.focus:
            view.scroll[view.focus] = 1 << 20
        else:
            view.select(view.total_rows - 1)
        self.redraw()

    def action_clear(self) -> None:
        """Drop one thing that narrows the view: focus, search, filter, held rows."""
        view = self.owner.view
        if view.focus:
            view.focus = ""
        elif view.search is not None:
            view.search = None
        elif view.filter is not None:
            view.set_filter(None)
        else:
            view.follow()
        self.redraw()

    def action_compact(self) -> None:
        """Fewer panels, more batches."""
        self.owner.view.compact = not self.owner.view.compact
        self.redraw()

    def action_details(self) -> None:
        """The selected batch, or the page of the panel that has the focus."""
        view = self.owner.view
        if view.focus:
            self._push(_PAGES[view.focus])
        elif view.selected is not None:
            view.hold()
            self._push("DetailsScreen")

    # mouse

    def clicked(self, event: Lines.Clicked) -> None:
        """A row: select, twice: open. A heading: sort. A panel: focus, twice: its page."""
        view, name = self.owner.view, event.lines.id or ""
        if name == "batches" and event.y == 0:
            title = batches.title_at(view, self.size.width, event.x)
            if title in BY_NAME:
                view.sort_by(title)
        elif name == "batches":
            index = view.top + event.y - 1
            if index >= view.total_rows:
                return
            view.focus = ""
            view.select(index)
            if event.double:
                self.action_details()
                return
        elif name == "replay" and self.owner.controls.replay is not None:
            fraction = self._seek.fraction_at(event.x)
            if fraction is not None:
                self.owner.controls.replay.seek_fraction(fraction)
        elif name in FOCUSABLE:
            view.focus = name
            if event.double:
                self.action_details()
                return
        self.redraw()

    def scrolled(self, event: Lines.Scrolled) -> None:
        """The wheel moves the selection, or the panel under it."""
        name, view = event.lines.id or "", self.owner.view
        if name in FOCUSABLE:
            view.scroll[name] = max(0, view.scroll.get(name, 0) + (1 if event.rows > 0 else -1))
            self.redraw()
        else:
            focus, view.focus = view.focus, ""
            self.action_move(event.rows)
            view.focus = focus
