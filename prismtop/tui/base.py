"""What the watching screen and the picker share: theme, keymap, driver, no traceback on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.app import App
from textual.driver import Driver

from prismtop.errors import DefectError, PrismtopError, UnavailableError
from prismtop.safe_text import safe_text
from prismtop.tui.keymap import Keymap
from prismtop.tui.lines import Lines
from prismtop.tui.look import ASCII, UNICODE, Look
from prismtop.tui.themes import DEFAULT, NO_COLOUR, ThemeFile, choose, load_themes, theme_dirs

RESIZE_REPAINT_S = 0.1


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
        driver: Any = self._driver
        switch = getattr(driver, "_enable_mouse_support" if self.mouse else "_disable_mouse_support", None)
        if switch is not None:
            driver._mouse = True  # Textual's switches do nothing in a driver that was started without a mouse
            switch()
            driver._mouse = self.mouse  # what it does when it comes back from the shell

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
        raise DefectError(
            f"{'Collecting' if self.failure else 'Drawing the screen'} failed with "
            f"{type(error).__name__}: {safe_text(str(error), 200)}.",
            fix="Run `prismtop watch` for plain output, and report what `--debug` says.",
        ) from error


def require_terminal() -> None:
    """Raise UnavailableError unless the screen can be drawn here, or in a browser (`prismtop serve`)."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return
    if not (sys.__stdin__ and sys.__stdin__.isatty() and sys.__stderr__ and sys.__stderr__.isatty()):
        raise UnavailableError(
            "The screen needs a terminal, and standard input or standard error is none.",
            fix="Use `prismtop watch` in scripts and pipes.",
        )


def check_looks(settings: object) -> None:
    """Raise UsageError where `ScreenApp` would: there is no such theme, or the keymap makes no sense."""
    Keymap(getattr(settings, "keys", None))
    themes, _ = _themes(settings)
    choose(themes, str(getattr(settings, "theme", DEFAULT)), no_colour="NO_COLOR" in os.environ)


def driver_class() -> type[Driver] | None:
    """The thrifty driver, unless Textual was told to use another (a browser)."""
    if os.environ.get("TEXTUAL_DRIVER") or sys.platform == "win32":
        return None
    from prismtop.tui.driver import ThriftyDriver

    return ThriftyDriver


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
