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
from typing import Any

from textual.message import Message

from prismtop.errors import EXIT_OK, PrismtopError, UnavailableError, UsageError
from prismtop.model import Batch, Capture, Frame
from prismtop.safe_text import safe_text
from prismtop.tui.base import ScreenApp, check_looks, require_terminal
from prismtop.tui.collector import Collector, Ticking
from prismtop.tui.controls import NO_DEEPDIVE, NO_RECORDING, READONLY, Controls, controls_of
from prismtop.tui.keys import PANELS
from prismtop.tui.list_screen import ListScreen
from prismtop.tui.overlay import confirm
from prismtop.tui.panels import capture as capture_panel
from prismtop.tui.screens import PanelScreen
from prismtop.tui.view import View

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


class Previewed(Message):
    """What a deep capture would do, or why there can be none."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result


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
        self.ended_by: int | None = None
        self._loop_of_screen: asyncio.AbstractEventLoop | None = None
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
        """Start collecting."""
        self._loop_of_screen = asyncio.get_running_loop()
        # What was imported stays: the garbage collector need not walk through it again and again.
        gc.freeze()
        self.start_collecting()
        self.set_interval(1.0, self.refresh_ages)
        if self.ended_by is not None:  # a signal came before there was a loop to tell
            self.exit()

    def end_by(self, number: int, _: object = None) -> None:
        """A signal handler: leave in good order. SIGHUP: the terminal is gone."""
        self.ended_by = self.ended_by or number
        if self._loop_of_screen is not None and not self._loop_of_screen.is_closed():
            self._loop_of_screen.call_soon_threadsafe(self.exit)

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
        changed = self.view.accept(frame, warnings, batches, self.now_ns())
        if self.view.rings:
            self.view.rings = False
            if getattr(self.settings, "bell", False):
                self.bell()
        if changed or self.view.toast is not toast:
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
            what = "recording stopped" if running else "recording"
            self.collector.beside(call, lambda result: self._post(Answered(what, result)))

    def ask_deepdive(self) -> None:
        """A capture, after a question that says what it costs the engine; the end of the one that runs."""
        controls = self.controls
        if controls.deepdive is None:
            self.say(f"no capture: {NO_DEEPDIVE}")
        elif self.view.capturing and controls.cancel_deepdive is not None:
            self.ask("DeepDive", controls.cancel_deepdive)
        elif self.view.readonly:
            self.say(f"no capture: {READONLY}")
        elif controls.preview_deepdive is None:
            self._question(capture_panel.ABOUT, [], controls.deepdive)
        else:
            self.collector.ask(controls.preview_deepdive, lambda result: self._post(Previewed(result)))

    def on_previewed(self, message: Previewed) -> None:
        """Ask, with what it would cost now."""
        call, planned = self.controls.deepdive, message.result
        if isinstance(planned, Capture) and call is not None:
            self._question(*capture_panel.question(planned), call)
        else:
            self.on_answered(Answered("DeepDive", planned))

    def _question(self, text: str, facts: list[str], call: Callable[[], object]) -> None:
        if isinstance(self.screen, PanelScreen):
            self.screen.open_overlay(
                confirm("DeepDive?", text, "capture", lambda: self.ask("DeepDive", call), facts)
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


def check_screen(settings: object) -> None:
    """What `run_app` would refuse, to be asked before anything is put into an engine.

    Raises:
        UsageError: there is no such theme or panel, or the keymap makes no sense.
        UnavailableError: standard input or output is no terminal.
    """
    require_terminal()
    check_looks(settings)
    chosen_panels(str(getattr(settings, "panels", "auto")))


def run_app(session: Ticking, *, settings: object, controls: Controls | None = None) -> int:
    """Show the screen until the user leaves it.

    Args:
        session: its `tick` is called from one thread that ends before this returns. It is not closed here:
            the caller closes it and prints what `close` says, in every case.
        settings: `ui_hz`, `tick_hz`, `theme`, `ascii`, `no_mouse`, `readonly`, `keys`, `panels` and
            `export_dir` are read; what is missing has its default.
        controls: what keys may ask for; by default what the session offers (`controls_of`).

    Returns:
        0; 128 and the number of the signal that ended it.

    Raises:
        UsageError: there is no such theme, or the keymap makes no sense.
        UnavailableError: standard input or output is no terminal.
        PrismtopError: whatever the session raised; other exceptions, and those of drawing, as DefectError.
            The terminal is restored before.
    """
    require_terminal()
    app = PrismtopApp(session, settings, controls=controls)
    before = _handled(app.end_by)
    try:
        app.run(mouse=not getattr(settings, "no_mouse", False))
    finally:
        app.collector.stop()
        app.collector.ended.wait(COLLECTOR_END_S)
        for number, handler in before.items():
            # A shell sends it once more after the terminal's own: what has to be done yet must not be cut.
            again = number == signal.SIGHUP and app.ended_by == number
            signal.signal(number, signal.SIG_IGN if again else handler)
    if app.ended_by is None and _terminal_lost():
        app.ended_by = signal.SIGHUP  # reading noticed it first
    if app.ended_by is None:
        app.raise_failure()
        return EXIT_OK
    recording = app.view.latest.recording if app.view.latest else None
    if app.ended_by == signal.SIGHUP and recording and not recording.error and app.controls.lost:
        app.controls.lost()
    return 128 + app.ended_by


def _terminal_lost() -> bool:
    if os.environ.get("TEXTUAL_DRIVER") or sys.platform == "win32":
        return False
    from prismtop.tui.driver import terminal_lost

    return terminal_lost()


def _handled(end: Callable[[int, object], None]) -> dict[int, Any]:
    """Have SIGTERM and SIGHUP end the screen; the handlers of before, by signal."""
    before: dict[int, Any] = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        try:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, end)
        except ValueError:  # not the main thread
            break
    return before


def _ui_hz(settings: object) -> float:
    value = getattr(settings, "ui_hz", None)
    if value:
        return float(value)
    return 1.0 if os.environ.get("SSH_CONNECTION") else 2.0
