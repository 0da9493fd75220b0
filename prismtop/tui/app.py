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
from typing import Any, ClassVar

from textual.app import App
from textual.driver import Driver
from textual.message import Message

from prismtop.errors import EXIT_OK, PrismtopError, UnavailableError
from prismtop.model import Frame
from prismtop.safe_text import safe_text
from prismtop.tui.collector import Collector, Ticking
from prismtop.tui.look import ASCII, UNICODE, Look
from prismtop.tui.screens import ListScreen, PanelScreen
from prismtop.tui.themes import DEFAULT, ThemeFile, choose, load_themes, theme_dirs
from prismtop.tui.view import View

COLLECTOR_END_S = 5.0
"""How long a tick that is under way may take to end after the screen was left."""


class FrameReady(Message):
    """The collector has a frame."""

    def __init__(self, frame: Frame, warnings: tuple[str, ...]) -> None:
        super().__init__()
        self.frame = frame
        self.warnings = warnings


class CollectorFailed(Message):
    """The collector's thread ended with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class ScreenApp(App[None]):
    """What the watching screen and the picker share: theme, thrifty driver, no traceback on the terminal."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[Any]] = []

    def __init__(self, settings: object) -> None:
        self.failure: Exception | None = None
        super().__init__(driver_class=driver_class())
        self.animation_level = "none"
        self.theme_file, self.theme_problems = _theme(settings, no_colour=self.no_color)
        plain = bool(getattr(settings, "ascii", False)) or not _can_encode()
        self.look: Look = self.theme_file.look(ASCII if plain else UNICODE)
        self.register_theme(self.theme_file.textual)
        self.theme = self.theme_file.textual.name

    def on_resize(self) -> None:
        """Terminals rearrange their cells when they are resized."""
        self._forget_cells()

    def repaint(self) -> None:
        """Send the whole screen again."""
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
        self, session: Ticking, settings: object, *, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        super().__init__(settings)
        self.now_ns = now_ns
        self.view = View(ui_hz=_ui_hz(settings))
        self.view.warnings.extend(self.theme_problems)
        self.collector = Collector(
            session,
            float(getattr(settings, "tick_hz", 10.0)),
            lambda frame, warnings: self._post(FrameReady(frame, warnings)),
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
        self.show(message.frame, message.warnings)

    def show(self, frame: Frame, warnings: tuple[str, ...] = ()) -> None:
        """Show a frame on whatever screen is open."""
        if self.view.accept(frame, warnings):
            self.redraw()

    def on_collector_failed(self, message: CollectorFailed) -> None:
        """Leave, and say why afterwards."""
        self.failure = message.error
        self.exit()

    def refresh_ages(self) -> None:
        """PAUSED and STALE carry an age that grows without frames."""
        if self.view.paused_ns is not None or self.view.stale_s(self.now_ns()) is not None:
            self.redraw()

    def toggle_pause(self) -> None:
        """Freeze the view, or go back to now."""
        self.view.toggle_pause(self.now_ns())
        self.redraw()

    def change_rate(self, step: int) -> None:
        """Redraw more or less often."""
        self.view.rate(step)
        self.collector.ui_hz = self.view.ui_hz
        self.redraw()

    def redraw(self) -> None:
        """Draw the open screen."""
        if isinstance(self.screen, PanelScreen):
            self.screen.redraw()

    def _post(self, message: Message) -> None:
        self.post_message(message)


def run_app(session: Ticking, *, settings: object) -> int:
    """Show the screen until the user leaves it.

    Args:
        session: its `tick` is called from one thread that ends before this returns. It is not closed here:
            the caller closes it and prints what `close` says, in every case.
        settings: `ui_hz`, `tick_hz`, `theme`, `ascii`, `no_mouse` are read; what is missing has its default.

    Returns:
        0.

    Raises:
        UsageError: there is no such theme.
        UnavailableError: standard input or output is no terminal, or drawing failed.
        PrismtopError: whatever the session raised; other exceptions as UnavailableError. The terminal is
            restored before.
    """
    require_terminal()
    app = PrismtopApp(session, settings)
    try:
        app.run(mouse=not getattr(settings, "no_mouse", False))
    finally:
        app.collector.stop()
        app.collector.ended.wait(COLLECTOR_END_S)
    app.raise_failure()
    return EXIT_OK


def require_terminal() -> None:
    """Raise UnavailableError unless the screen can be drawn here."""
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


def _theme(settings: object, *, no_colour: bool) -> tuple[ThemeFile, tuple[str, ...]]:
    config_dir = getattr(settings, "config_dir", None)
    if config_dir is None:
        from prismtop.settings import config_dir as platform_dir

        config_dir = platform_dir()
    themes, problems = load_themes(theme_dirs(Path(config_dir)))
    return choose(themes, str(getattr(settings, "theme", DEFAULT)), no_colour=no_colour), problems
