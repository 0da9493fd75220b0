"""The full-screen app: `run_app`. It owns the screen; a `Collector` thread owns the session."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from textual.app import App
from textual.driver import Driver
from textual.message import Message

from prismtop.errors import EXIT_OK, PrismtopError, UnavailableError, UsageError
from prismtop.model import Batch, Frame
from prismtop.safe_text import safe_text
from prismtop.tui.collector import Collector, Ticking
from prismtop.tui.controls import NO_DEEPDIVE, NO_RECORDING, READONLY, Controls, controls_of
from prismtop.tui.keymap import Keymap
from prismtop.tui.keys import PANELS
from prismtop.tui.lines import Lines
from prismtop.tui.list_screen import ListScreen
from prismtop.tui.look import ASCII, UNICODE, Look
from prismtop.tui.overlay import confirm
from prismtop.tui.screens import PanelScreen
from prismtop.tui.themes import DEFAULT, NO_COLOUR, ThemeFile, choose, load_themes, theme_dirs
from prismtop.tui.view import View

RESIZE_REPAINT_S = 0.1
COLLECTOR_END_S = 5.0
"""How long a tick that is under way may take to end after the screen was left."""


class FrameReady(Message):
    """The collector has a frame."""

    def __init__(self, frame: Frame, warnings: tuple[str, ...], batches: tuple[Batch, ...]) -> None:
        super().__init__()
        self.frame = frame
        self.warnings = warnings
        self.batches = batches


class CollectorFailed(Message):
    """The collector's thread ended with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Answered(Message):
    """What was asked of the session was done, or failed."""

    def __init__(self, what: str, result: object) -> None:
        super().__init__()
        self.what = what
        self.result = result


class ScreenApp(App[None], inherit_bindings=False):
    """What the watching screen and the picker share: theme, thrifty driver, no traceback on the terminal."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, settings: object) -> None:
        self.failure: Exception | None = None
        self._sized = False
        super().__init__(driver_class=driver_class())
        self.animation_level = "none"
        self.settings = settings
        self.keymap = Keymap(getattr(settings, "keys", None))
        self.themes, self.theme_problems = _themes(settings)
        wanted = str(getattr(settings, "theme", DEFAULT))
        self.theme_file: ThemeFile = choose(self.themes, wanted, no_colour=self.no_color)
        self.plain = bool(getattr(settings, "ascii", False)) or not _can_encode()
        self.mouse = not getattr(settings, "no_mouse", False)
        self.look: Look = self.theme_file.look(ASCII if self.plain else UNICODE)
        self.register_theme(self.theme_file.textual)
        self.theme = self.theme_file.textual.name

    def on_resize(self) -> None:
        """Terminals rearrange their cells when they are resized.

        What was drawn for the old size may still be written after this, and then be cut or wrapped by a
        terminal that has the new one: so everything is sent once more when the new layout is there.
        """
        self._forget_cells()
        if self._sized:
            self.set_timer(RESIZE_REPAINT_S, self.repaint)
        self._sized = True

    def use_theme(self, name: str) -> None:
        """Draw in another theme from now on; under NO_COLOR only the one without colours is used."""
        if name == self.theme_file.name or (self.no_color and name != NO_COLOUR):
            return
        self.theme_file = self.themes[name]
        self.register_theme(self.theme_file.textual)
        self.theme = self.theme_file.textual.name
        self._use_look()

    def toggle_ascii(self) -> None:
        """ASCII or the terminal's own character set."""
        self.plain = not self.plain
        self._use_look()

    def toggle_mouse(self) -> None:
        """Take the mouse, or leave it to the terminal, which then selects text."""
        self.mouse = not self.mouse
        switch = "_enable_mouse_support" if self.mouse else "_disable_mouse_support"
        change: Callable[[], None] | None = getattr(self._driver, switch, None)
        if change is not None:
            change()

    def _use_look(self) -> None:
        self.look = self.theme_file.look(ASCII if self.plain else UNICODE)
        for screen in self.screen_stack:
            for widget in screen.query(Lines):
                widget.use(self.look)
            redraw: Callable[[], None] | None = getattr(screen, "redraw", None)
            if redraw is not None:
                redraw()
        self.screen.refresh()

    def repaint(self) -> None:
        """Send the whole screen again."""
        if not self.screen_stack:  # it ends
            return
        self._forget_cells()
        self.screen.refresh()
        for widget in self.screen.query("*"):
            widget.refresh()

    def _forget_cells(self) -> None:
        forget: Callable[[], None] | None = getattr(self._driver, "forget", None)
        if forget is not None:
            forget()

    def _fatal_error(self) -> None:
        # Textual would print a traceback with the values of local variables: text of the target, unescaped.
        # The error is kept in `_exception` and becomes one sentence in `raise_failure`.
        self._close_messages_no_wait()

    def raise_failure(self) -> None:
        """After the terminal was restored: raise what went wrong, as one sentence."""
        error = self.failure or self._exception
        if error is None:
            return
        if isinstance(error, PrismtopError):
            raise error
        raise UnavailableError(
            f"{'Collecting' if self.failure else 'Drawing the screen'} failed with "
            f"{type(error).__name__}: {safe_text(str(error), 200)}.",
            fix="Run `prismtop watch` for plain output, and report this.",
        ) from error


class PrismtopApp(ScreenApp):
    """The watching screen."""

    TITLE = "prismtop"

    def __init__(
        self,
        session: Ticking,
        settings: object,
        *,
        controls: Controls | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(settings)
        self.now_ns = now_ns
        self.controls = controls or controls_of(session)
        self.view = View(ui_hz=_ui_hz(settings), readonly=bool(getattr(settings, "readonly", False)))
        self.view.panels = chosen_panels(str(getattr(settings, "panels", "auto")))
        self.view.warnings.extend(self.theme_problems)
        self.collector = Collector(
            session,
            float(getattr(settings, "tick_hz", 10.0)),
            lambda frame, warnings, batches: self._post(FrameReady(frame, warnings, batches)),
            lambda error: self._post(CollectorFailed(error)),
            ui_hz=self.view.ui_hz,
        )

    def get_default_screen(self) -> PanelScreen:
        """The batch list."""
        return ListScreen()

    def on_mount(self) -> None:
        """Start collecting; leave in good order when the terminal goes away."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(number, self.exit)
            except (RuntimeError, ValueError):  # not the main thread: tests, textual serve
                break
        # What was imported stays: the garbage collector need not walk through it again and again.
        gc.freeze()
        self.start_collecting()
        self.set_interval(1.0, self.refresh_ages)

    def start_collecting(self) -> None:
        """Start the collector's thread."""
        self.run_worker(self.collector.run, thread=True, exit_on_error=False, group="collector")

    def on_unmount(self) -> None:
        """Stop the collector's thread."""
        self.collector.stop()

    def on_frame_ready(self, message: FrameReady) -> None:
        """Take the frame and draw it, unless the view is frozen."""
        self.collector.taken()
        self.show(message.frame, message.warnings, message.batches)

    def show(
        self, frame: Frame, warnings: tuple[str, ...] = (), batches: tuple[Batch, ...] | None = None
    ) -> None:
        """Show a frame on whatever screen is open."""
        toast = self.view.toast
        if self.view.accept(frame, warnings, batches) or self.view.toast is not toast:
            self.redraw()

    def on_collector_failed(self, message: CollectorFailed) -> None:
        """Leave, and say why afterwards."""
        self.failure = message.error
        self.exit()

    def refresh_ages(self) -> None:
        """PAUSED and STALE carry an age that grows without frames; messages go away."""
        now, view = self.now_ns(), self.view
        ended = view.toast is not None and view.toast_at(now) is None
        if ended:
            view.toast = None
        if ended or view.paused_ns is not None or view.stale_s(now) is not None:
            self.redraw()

    def toggle_pause(self) -> None:
        """Freeze the view, or go back to now; a replay is paused itself."""
        if self.controls.replay is not None:
            self.controls.replay.toggle()
            return
        self.view.toggle_pause(self.now_ns())
        self.redraw()

    def change_rate(self, step: int) -> None:
        """Redraw more or less often."""
        self.view.rate(step)
        self.set_rate(self.view.ui_hz)

    def set_rate(self, ui_hz: float) -> None:
        """Redraw so often."""
        self.view.ui_hz = self.collector.ui_hz = ui_hz
        self.redraw()

    def say(self, text: str, role: str = "badge") -> None:
        """Show a message for some seconds."""
        self.view.say(text, self.now_ns(), role)
        self.redraw()

    def toggle_recording(self) -> None:
        """Start or stop a trace."""
        frame = self.view.latest
        running = frame is not None and frame.recording is not None and not frame.recording.error
        call = self.controls.stop_recording if running else self.controls.start_recording
        if call is None:
            self.say(f"not recording: {NO_RECORDING}")
        else:
            self.ask("recording stopped" if running else "recording", call)

    def ask_deepdive(self) -> None:
        """A capture, after a question: it costs the engine."""
        call = self.controls.deepdive
        if call is None:
            self.say(f"no capture: {NO_DEEPDIVE}")
        elif self.view.readonly:
            self.say(f"no capture: {READONLY}")
        elif isinstance(self.screen, PanelScreen):
            text = (
                "DeepDive turns on detailed profiling inside the engine for a moment. Its requests get "
                "slower while it runs; it is turned off again by itself."
            )
            found: Callable[[], object] = call
            self.screen.open_overlay(
                confirm("DeepDive?", text, "capture", lambda: self.ask("DeepDive", found))
            )

    def ask(self, what: str, call: Callable[[], object]) -> None:
        """Have the collector's thread do something with the session, and say what came of it."""
        self.collector.ask(call, lambda result: self._post(Answered(what, result)))

    def on_answered(self, message: Answered) -> None:
        """Say it."""
        result = message.result
        if isinstance(result, Exception):
            text = str(result) if isinstance(result, PrismtopError) else f"{type(result).__name__}: {result}"
            self.say(f"{message.what} failed: {text}", "error")
        else:
            self.say(f"{message.what}: {result}" if result else message.what)

    def export(self, kind: str) -> None:
        """Write the list's rows (`json`, `csv`) or the screen (`svg`) to a new file."""
        if kind == "svg":
            self.call_after_refresh(self._export, kind)  # without the menu
        else:
            self._export(kind)

    def _export(self, kind: str) -> None:
        from prismtop.tui import export

        frame, rows = self.view.frame, self.view.rows
        try:
            if frame is None and kind != "svg":
                raise UnavailableError("There is no batch to write yet.")
            if kind == "svg":
                text = self.export_screenshot(title="prismtop")
            elif kind == "csv":
                text = export.csv_text(rows, frame.clock) if frame else ""
            else:
                text = export.json_lines(frame, rows) if frame else ""
            directory = Path(str(getattr(self.settings, "export_dir", ".")))
            path = export.write_new(directory, frame, kind, text)
        except PrismtopError as error:
            self.say(f"not written: {error}", "error")
        else:
            self.say(f"written: {path}")

    def save_setup(self) -> Path:
        """Write what F2 changes to the config file. Raises UsageError, UnavailableError."""
        from prismtop.settings import config_path
        from prismtop.tui.config_file import save

        path = Path(getattr(self.settings, "config_file", None) or config_path())
        values: dict[str, bool | int | float | str] = {
            "theme": self.theme_file.name,
            "ui_hz": self.view.ui_hz,
            "ascii": self.plain,
            "no_mouse": not self.mouse,
            "panels": panels_text(self.view.panels),
        }
        if self.no_color:
            del values["theme"]
        save(path, values)
        return path

    def redraw(self) -> None:
        """Draw the open screen."""
        if isinstance(self.screen, PanelScreen):
            self.screen.redraw()

    def _post(self, message: Message) -> None:
        self.post_message(message)


def chosen_panels(text: str) -> dict[str, bool]:
    """`auto`, or panels that are always (`+counters`) or never (`-ranks`) shown. Raises UsageError."""
    made: dict[str, bool] = {}
    for word in text.replace(",", " ").split():
        if word == "auto":
            continue
        if word[0] not in "+-" or word[1:] not in PANELS:
            raise UsageError(
                f"panels: {safe_text(word, 40)!r} is no panel with + or - before it.",
                fix=f'`auto`, or for example "-stages +ranks", out of {", ".join(PANELS)}.',
            )
        made[word[1:]] = word[0] == "+"
    return made


def panels_text(panels: dict[str, bool]) -> str:
    """The other way round."""
    return " ".join(f"{'+' if shown else '-'}{name}" for name, shown in panels.items()) or "auto"


def run_app(session: Ticking, *, settings: object, controls: Controls | None = None) -> int:
    """Show the screen until the user leaves it.

    Args:
        session: its `tick` is called from one thread that ends before this returns. It is not closed here:
            the caller closes it and prints what `close` says, in every case.
        settings: `ui_hz`, `tick_hz`, `theme`, `ascii`, `no_mouse`, `readonly`, `keys`, `panels` and
            `export_dir` are read; what is missing has its default.
        controls: what keys may ask for; by default what the session offers (`controls_of`).

    Returns:
        0.

    Raises:
        UsageError: there is no such theme, or the keymap makes no sense.
        UnavailableError: standard input or output is no terminal, or drawing failed.
        PrismtopError: whatever the session raised; other exceptions as UnavailableError. The terminal is
            restored before.
    """
    require_terminal()
    app = PrismtopApp(session, settings, controls=controls)
    try:
        app.run(mouse=not getattr(settings, "no_mouse", False))
    finally:
        app.collector.stop()
        app.collector.ended.wait(COLLECTOR_END_S)
    app.raise_failure()
    return EXIT_OK


def require_terminal() -> None:
    """Raise UnavailableError unless the screen can be drawn here, or in a browser (`prismtop serve`)."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return
    if not (sys.__stdin__ and sys.__stdin__.isatty() and sys.__stderr__ and sys.__stderr__.isatty()):
        raise UnavailableError(
            "The screen needs a terminal, and standard input or standard error is none.",
            fix="Use `prismtop watch` in scripts and pipes.",
        )


def driver_class() -> type[Driver] | None:
    """The thrifty driver, unless Textual was told to use another (a browser)."""
    if os.environ.get("TEXTUAL_DRIVER") or sys.platform == "win32":
        return None
    from prismtop.tui.driver import ThriftyDriver

    return ThriftyDriver


def _ui_hz(settings: object) -> float:
    value = getattr(settings, "ui_hz", None)
    if value:
        return float(value)
    return 1.0 if os.environ.get("SSH_CONNECTION") else 2.0


def _can_encode() -> bool:
    """Whether the terminal's character set has the bar's characters."""
    encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
    try:
        "".join(UNICODE.stages.values()).encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _themes(settings: object) -> tuple[dict[str, ThemeFile], tuple[str, ...]]:
    config_dir = getattr(settings, "config_dir", None)
    if config_dir is None:
        from prismtop.settings import config_dir as platform_dir

        config_dir = platform_dir()
    return load_themes(theme_dirs(Path(config_dir)))
