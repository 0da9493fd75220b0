"""`pick_group`: which of several engines to watch."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from prismtop.model import Group
from prismtop.tui.base import ScreenApp, require_terminal
from prismtop.tui.keys import PICKER
from prismtop.tui.lines import Lines
from prismtop.tui.panels import picker
from prismtop.tui.panels.footer import footer

_HEAD = 3


class PickerScreen(Screen[None], inherit_bindings=False):
    """A row per engine; the selected one's processes below."""

    DEFAULT_CSS = """
    PickerScreen { layout: vertical; overflow: hidden; background: $background; }
    PickerScreen > #rows { height: 1fr; }
    """

    def __init__(self, owner: PickerApp) -> None:
        super().__init__()
        self._owner = owner
        self.cursor = 0

    def compose(self) -> ComposeResult:
        """Rows and footer."""
        yield Lines(self._owner.look, id="rows")
        yield Lines(self._owner.look, id="footer")

    def on_mount(self) -> None:
        """First picture."""
        self.redraw()

    def on_resize(self) -> None:
        """The rows depend on the size."""
        self.redraw()

    def redraw(self) -> None:
        """Show the list; it scrolls when there are more engines than lines."""
        width, height = self.size
        if not width or not height:
            return
        groups, glyphs = self._owner.groups, self._owner.look.glyphs
        lines = picker.rows(groups, self.cursor, width, glyphs)
        room = max(1, height - 1 - _HEAD)
        shown = [*lines[:_HEAD], *lines[_HEAD + self._top() : _HEAD + self._top() + room]]
        self.query_one("#rows", Lines).show([*shown, *picker.notes(groups[self.cursor], width)][: height - 1])
        self.query_one("#footer", Lines).show([footer(PICKER, width, keys=self._owner.keymap.keys).line])

    def _top(self) -> int:
        room = max(1, self.size.height - 1 - _HEAD)
        return max(0, self.cursor - room + 1)

    def action_move(self, rows: int) -> None:
        """Move the selection."""
        self.cursor = max(0, min(self.cursor + rows, len(self._owner.groups) - 1))
        self.redraw()

    def action_page(self, pages: int) -> None:
        """Move the selection by a page."""
        self.action_move(pages * max(1, self.size.height - 1 - _HEAD))

    def action_home(self) -> None:
        """The first engine."""
        self.action_move(-len(self._owner.groups))

    def action_end(self) -> None:
        """The last engine."""
        self.action_move(len(self._owner.groups))

    def action_choose(self) -> None:
        """Watch the selected engine."""
        self._owner.chosen = self._owner.groups[self.cursor]
        self.app.exit()

    def action_leave(self) -> None:
        """Watch none."""
        self.app.exit()

    def action_redraw(self) -> None:
        """Paint the whole screen again."""
        self._owner.repaint()

    async def on_key(self, event: events.Key) -> None:
        """The keymap's; a digit chooses at once; escape leaves."""
        key = self._owner.keymap.key(PICKER, event.key)
        if key is not None:
            event.stop()
            await self.run_action(key.action)
        elif event.key == "escape":
            self.action_leave()
        elif event.key.isdigit() and 0 < int(event.key) <= len(self._owner.groups):
            self.cursor = int(event.key) - 1
            self.action_choose()

    async def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """A click selects, a second one chooses; the footer's keys work."""
        if event.lines.id == "footer":
            action = footer(PICKER, self.size.width, keys=self._owner.keymap.keys).action_at(event.x)
            if action:
                await self.run_action(action)
            return
        index = self._top() + event.y - _HEAD
        if event.y >= _HEAD and index < len(self._owner.groups):
            self.cursor = index
            self.redraw()
            if event.double:
                self.action_choose()

    def on_lines_scrolled(self, event: Lines.Scrolled) -> None:
        """The wheel moves the selection."""
        self.action_move(1 if event.rows > 0 else -1)


class PickerApp(ScreenApp):
    """Asks once, then ends."""

    TITLE = "prismtop"

    def __init__(self, groups: Sequence[Group], settings: object) -> None:
        super().__init__(settings)
        self.groups = tuple(groups)
        self.chosen: Group | None = None

    def get_default_screen(self) -> Screen[None]:
        """The list of engines."""
        return PickerScreen(self)


def pick_group(groups: Sequence[Group], settings: object) -> Group | None:
    """Let the user choose one of several engine instances.

    Returns:
        The chosen group; None when the user left without choosing or there is nothing to choose from.

    Raises:
        UsageError: there is no theme of the name in `settings`, or its keymap makes no sense.
        UnavailableError: no terminal.
        DefectError: drawing failed.
    """
    if not groups:
        return None
    require_terminal()
    app = PickerApp(groups, settings)
    app.run(mouse=not getattr(settings, "no_mouse", False))
    app.raise_failure()
    return app.chosen
