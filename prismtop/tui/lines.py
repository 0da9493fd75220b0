"""The one widget: shows `Line`s and repaints only those that changed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from prismtop.tui.look import Line, Look, width_of


class Lines(Widget):
    """Rows of styled text on Textual's line API.

    `show` compares with what is there and refreshes only lines that differ. Every segment is styled, padding
    included: under NO_COLOR Textual 8 crashes on a segment without a style.
    """

    DEFAULT_CSS = "Lines { height: 1; width: 1fr; background: $background; }"

    class Clicked(Message):
        """A row was clicked; `x` and `y` are cells from the widget's upper left corner."""

        def __init__(self, lines: Lines, x: int, y: int, double: bool) -> None:
            super().__init__()
            self.lines = lines
            self.x = x
            self.y = y
            self.double = double

    class Scrolled(Message):
        """The mouse wheel was turned over the widget by `rows` (negative: up)."""

        def __init__(self, lines: Lines, rows: int) -> None:
            super().__init__()
            self.lines = lines
            self.rows = rows

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._look = look
        self._lines: tuple[Line, ...] = ()
        self._strips: dict[int, Strip] = {}
        self._height = 1

    @property
    def shown(self) -> tuple[Line, ...]:
        """The lines as last given."""
        return self._lines

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines from the top; missing ones are blank."""
        old, new = self._lines, tuple(lines)
        self._lines = new
        width, height = self.size
        regions = []
        for y in range(max(len(old), len(new))):
            if (old[y] if y < len(old) else ()) != (new[y] if y < len(new) else ()):
                self._strips.pop(y, None)
                if y < height:
                    regions.append(Region(0, y, width, 1))
        if regions:
            self.refresh(*regions)

    def use(self, look: Look) -> None:
        """Draw in another theme or character set from now on."""
        self._look = look
        self._strips.clear()
        self.refresh()

    def keep_height(self, height: int) -> None:
        """Take `height` lines; a layout is done only when that changes."""
        if height != self._height:
            self._height = height
            self.styles.height = height

    def render_lines(self, crop: Region) -> list[Strip]:
        """Lines for the compositor.

        Past Textual's style cache: there are no borders or padding, and colours are final (native ones only
        in themes that say so), so its colour filters have nothing to do. They are a third of a frame's cost.
        """
        width = self.size.width
        strips = [self._strip(y, width) for y in crop.line_range]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def render_line(self, y: int) -> Strip:
        """One line, cut and padded to the widget's width."""
        return self._strip(y, self.size.width)

    def _strip(self, y: int, width: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None or strip.cell_length != width:
            line = self._lines[y] if y < len(self._lines) else ()
            style = self._look.style
            # A selected row is selected up to the right edge.
            pad = style("base+cursor" if line and line[0][1].endswith("+cursor") else "base")
            strip = Strip([Segment(text, style(role)) for text, role in line if text], width_of(line))
            strip = strip.adjust_cell_length(width, pad)
            self._strips[y] = strip
        return strip

    def on_resize(self) -> None:
        """The strips are as wide as the widget."""
        self._strips.clear()

    def on_click(self, event: events.Click) -> None:
        """Tell the screen which row."""
        self.post_message(self.Clicked(self, event.x, event.y, event.chain > 1))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Tell the screen to scroll."""
        event.stop()
        self.post_message(self.Scrolled(self, 3))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Tell the screen to scroll."""
        event.stop()
        self.post_message(self.Scrolled(self, -3))
