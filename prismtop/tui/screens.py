"""What every screen has: header and footer, keys by the keymap, menus over it, and what works everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip

from prismtop.tui.keys import LIST, MENU
from prismtop.tui.lines import Lines
from prismtop.tui.look import Line, cut
from prismtop.tui.overlay import Overlay
from prismtop.tui.panels import header
from prismtop.tui.panels.footer import Footer, footer

if TYPE_CHECKING:
    from prismtop.tui.app import PrismtopApp


class PanelScreen(Screen[None], inherit_bindings=False):
    """A screen made of `Lines`: header above, footer below, an overlay over them when there is one."""

    WHERE: ClassVar[str] = LIST
    DEFAULT_CSS = """
    PanelScreen { layout: vertical; overflow: hidden; background: $background; layers: base over; }
    PanelScreen > #overlay { layer: over; display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.overlay: Overlay | None = None

    @property
    def owner(self) -> PrismtopApp:
        """The app, typed."""
        return cast("PrismtopApp", self.app)

    @property
    def where(self) -> str:
        """Which keys work now."""
        return self.overlay.where if self.overlay is not None else self.WHERE

    def render_lines(self, crop: Region) -> list[Strip]:
        """The ground under the panels: blanks, past Textual's style cache as in `Lines.render_lines`."""
        return [Strip.blank(crop.width, self.owner.look.style("base"))] * crop.height

    def on_mount(self) -> None:
        """First picture."""
        self.redraw()

    def on_resize(self) -> None:
        """Every panel depends on the size."""
        self.redraw()
        self.put_overlay()

    def on_screen_resume(self) -> None:
        """The view may have moved on while another screen was above."""
        self.redraw()

    def redraw(self) -> None:
        """Show the view as it is now."""
        raise NotImplementedError

    async def on_key(self, event: events.Key) -> None:
        """Do what the keymap says; what it does not know is text for a menu or a prompt."""
        key = self.owner.keymap.key(self.where, event.key)
        if key is not None and not (key.replay and self.owner.controls.replay is None):
            event.stop()
            await self.run_action(key.action)
        elif self.overlay is not None and self.overlay.where == MENU:
            if event.key == "backspace" or (event.is_printable and event.character):
                event.stop()
                self.overlay.type("" if event.key == "backspace" else event.character or "")
                self.put_overlay()
        else:
            self.text_typed(event)

    def text_typed(self, event: events.Key) -> None:
        """A key that does nothing here."""

    def panel(self, name: str) -> Lines:
        """A panel by its id."""
        return self.query_one(f"#{name}", Lines)

    def put(self, name: str, lines: list[Line], height: int | None = None) -> None:
        """Show lines in a panel and give it its height."""
        panel = self.panel(name)
        if height is not None:
            panel.keep_height(height)
        panel.show(lines)

    def header_now(self, rows: int, *, toast: bool = True) -> list[Line]:
        """The header's lines; a message lies over the second one where nothing else shows it."""
        now = self.owner.now_ns()
        made = header.lines(self.owner.view, self.size.width, self.owner.look.glyphs, now)
        message = self.owner.view.toast_at(now)
        if toast and message is not None:
            text = cut(f" {message.text} ", self.size.width)
            made[-1 if rows > 1 else 0] = ((text, message.role),)
        return made[:rows]

    def put_footer(self) -> None:
        """The footer of this kind of screen."""
        self.put("footer", [self.footer_now().line])

    def footer_now(self) -> Footer:
        """Footer with labels that say what the keys will do now."""
        view, replay = self.owner.view, self.owner.controls.replay is not None
        stopped = view.paused_ns is not None or bool(
            replay and view.frame and view.frame.replay and view.frame.replay.speed == 0
        )
        recording = (
            view.frame is not None and view.frame.recording is not None and not view.frame.recording.error
        )
        labels = {
            "pause": ("play" if replay else "resume") if stopped else "pause",
            "compact": "panels" if view.compact else "compact",
            "record": "stop rec" if recording else "record",
            "deepdive": "cancel" if view.capturing else "DeepDive",
        }
        return footer(self.where, self.size.width, labels, self.owner.keymap.keys, replay)

    # overlays

    def open_overlay(self, overlay: Overlay) -> None:
        """Show a menu or a question."""
        self.overlay = overlay
        self.put_overlay()
        self.put_footer()

    def put_overlay(self) -> None:
        """Draw the overlay, or take it away."""
        widget = self.panel("overlay")
        if self.overlay is None:
            if widget.display:
                widget.display = False
            return
        width, height = self.size
        cells, rows = self.overlay.size(width, height)
        widget.styles.width, widget.styles.height = cells, rows
        widget.styles.offset = (max(0, (width - cells) // 2), max(0, (height - rows) // 3))
        widget.display = True
        widget.show(self.overlay.lines(cells, rows, self.owner.look.glyphs))

    def close_overlay(self) -> None:
        """Take it away."""
        self.overlay = None
        self.put_overlay()
        self.put_footer()

    def action_overlay_move(self, rows: int) -> None:
        """Move a menu's selection."""
        if self.overlay is not None:
            self.overlay.move(rows)
            self.put_overlay()

    def action_overlay_page(self, pages: int) -> None:
        """Move a menu's selection by a page."""
        if self.overlay is not None:
            self.overlay.page(pages)
            self.put_overlay()

    def action_overlay_choose(self) -> None:
        """Take the selected entry."""
        overlay = self.overlay
        entry = overlay.current if overlay is not None else None
        if overlay is None or entry is None:
            return
        if not entry.keep_open:
            self.close_overlay()
        entry.choose()
        if entry.keep_open and self.overlay is overlay:
            overlay.renew()
            self.put_overlay()

    def action_overlay_close(self) -> None:
        """Leave without a choice."""
        overlay = self.overlay
        if overlay is not None:
            self.close_overlay()
            overlay.leave()

    # mouse

    async def on_lines_clicked(self, event: Lines.Clicked) -> None:
        """A click on the footer is its key; on a menu its entry; beside a menu closes it."""
        if event.lines.id == "overlay" and self.overlay is not None:
            index = self.overlay.entry_at(event.y, *event.lines.size)
            if index is not None:
                self.overlay.cursor = index
                self.action_overlay_choose()
        elif event.lines.id == "footer":
            action = self.footer_now().action_at(event.x)
            if action:
                await self.run_action(action)
        elif self.overlay is not None:
            self.action_overlay_close()
        else:
            self.clicked(event)

    def clicked(self, event: Lines.Clicked) -> None:
        """A click on a panel."""

    def on_lines_scrolled(self, event: Lines.Scrolled) -> None:
        """The wheel."""
        if self.overlay is not None:
            self.action_overlay_move(1 if event.rows > 0 else -1)
        else:
            self.scrolled(event)

    def scrolled(self, event: Lines.Scrolled) -> None:
        """The wheel over a panel."""

    # what works on every screen

    def action_pause(self) -> None:
        """Freeze the view, or go on; a replay is paused itself."""
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

    def action_suspend(self) -> None:
        """To the shell."""
        self.app.action_suspend_process()

    def action_leave(self) -> None:
        """Quit."""
        self.app.exit()

    def action_back(self) -> None:
        """To the screen below."""
        self.app.pop_screen()

    def action_record(self) -> None:
        """Start or stop a trace."""
        self.owner.toggle_recording()

    def action_deepdive(self) -> None:
        """Capture everything for a moment, after a question."""
        self.owner.ask_deepdive()

    def action_setup(self) -> None:
        """The settings menu."""
        from prismtop.tui.menus import setup

        self.open_overlay(setup(self))

    def action_palette(self) -> None:
        """Every command by name."""
        from prismtop.tui.menus import palette

        self.open_overlay(palette(self))

    def action_export(self) -> None:
        """Write what is shown to a file."""
        from prismtop.tui.menus import export

        self.open_overlay(export(self))

    def action_help(self) -> None:
        """The help page."""
        self._push("HelpScreen")

    def action_hooks(self) -> None:
        """Processes and hooks."""
        self._push("HooksScreen")

    def action_alerts(self) -> None:
        """Alerts and causes."""
        self._push("AlertsScreen")

    def action_capture(self) -> None:
        """The latest deep capture."""
        self._push("CaptureScreen")

    def action_counters(self) -> None:
        """Every counter."""
        self._push("CountersScreen")

    def action_model(self) -> None:
        """The latency model and the objectives."""
        self._push("ModelScreen")

    def action_tree(self) -> None:
        """The processes."""
        self._push("TreeScreen")

    def _push(self, name: str) -> None:
        from prismtop.tui import pages

        self.app.push_screen(getattr(pages, name)())

    # the list's selection; details show the selected batch, so they use these too

    def action_anomaly(self, step: int) -> None:
        """The next or previous slow batch."""
        replay = self.owner.controls.replay
        if replay is not None:
            (replay.next_anomaly if step > 0 else replay.previous_anomaly)()
            return
        if not self.owner.view.find_anomaly(step):
            self.owner.say(self._no_anomaly())
        self.redraw()

    def _no_anomaly(self) -> str:
        from prismtop.tui.panels.prediction import why_empty

        frame = self.owner.view.frame
        reason = why_empty(frame) if frame is not None else ""
        return (
            f"no slow batch can be told: {reason}"
            if reason
            else "no batch in the list is slow for its workload"
        )

    def action_replay(self, what: str) -> None:
        """One of the replay's plain controls."""
        replay = self.owner.controls.replay
        if replay is not None:
            getattr(replay, what)()

    def action_replay_step(self, batches: int) -> None:
        """Pause, and go on or back by batches."""
        replay = self.owner.controls.replay
        if replay is not None:
            replay.step(batches)

    def action_replay_skip(self, seconds: int) -> None:
        """Go on or back by seconds."""
        replay = self.owner.controls.replay
        if replay is not None:
            replay.skip_s(seconds)

    def action_replay_mark(self) -> None:
        """A, then B, then neither."""
        replay, frame = self.owner.controls.replay, self.owner.view.frame
        if replay is None or frame is None or frame.replay is None:
            return
        if frame.replay.a_ns is None:
            replay.mark_a()
        elif frame.replay.b_ns is None:
            replay.mark_b()
        else:
            replay.clear_marks()
