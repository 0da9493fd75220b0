"""The app over a synthetic session, without the collector's thread and with a clock that stands still."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from textual import events
from textual.app import App
from textual.keys import _character_to_key, key_to_character
from textual.pilot import Pilot

from prismtop.model import Frame
from prismtop.tui.app import PrismtopApp
from prismtop.tui.controls import Controls
from tests.tui.synthetic import START_NS, SyntheticSession

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = "PRISMTOP_UPDATE_SNAPSHOTS"
SECOND = 1_000_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ns = START_NS

    def __call__(self) -> int:
        return self.ns


def settings(**changes: Any) -> SimpleNamespace:
    """What the screen reads of the settings."""
    fields = {
        "ui_hz": 2.0, "tick_hz": 25.0, "theme": "prismtop", "ascii": False, "no_mouse": False,
        "config_dir": Path("/nonexistent"),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


class StillApp(PrismtopApp):
    """The app; frames come from `feed`, and what is asked of the session is answered at once."""

    def __init__(
        self,
        session: SyntheticSession | None = None,
        clock: Clock | None = None,
        controls: Controls | None = None,
        **changes: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.session = session or SyntheticSession(self.clock)
        super().__init__(self.session, settings(**changes), controls=controls, now_ns=self.clock)
        self.collector.ask = lambda call, answer: answer(call())  # type: ignore[method-assign]
        self.collector.beside = self.collector.ask  # type: ignore[method-assign]

    def start_collecting(self) -> None:
        """No thread."""

    def feed(self, seconds: float = 3.0) -> Frame:
        """Let time pass and show the frame of then."""
        self.clock.ns += int(seconds * SECOND)
        frame = self.session.tick()
        self.show(frame)
        return frame


@asynccontextmanager
async def still(
    columns: int = 80, rows: int = 24, **kwargs: Any
) -> AsyncIterator[tuple[StillApp, Pilot[None]]]:
    """The app running headless at a size, with three seconds of batches."""
    app = StillApp(**kwargs)
    async with app.run_test(size=(columns, rows)) as pilot:
        app.feed()
        await settle(pilot)
        yield app, pilot


async def settle(pilot: Pilot[None]) -> None:
    """Wait until every message was handled and the layout is done.

    `Pilot.press` and `Pilot.pause` wait until the whole process idles, some 60 ms for each key.
    """
    for _ in range(2000):
        if pilot.app._exit:
            return
        await pilot._wait_for_screen()
        screen = pilot.app.screen
        quiet = not (screen._layout_required or screen._callbacks or screen._dirty_widgets)
        if quiet and not any(
            node.message_queue_size for node in (pilot.app, *screen.walk_children(with_self=True))
        ):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the screen does not come to rest")


async def tap(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, each on the screen that the one before left."""
    for key in keys:
        pilot.app.screen.post_message(events.Key(key, key_to_character(key)))
        await settle(pilot)


async def type_text(pilot: Pilot[None], text: str) -> None:
    """Type into a prompt or a menu."""
    for letter in text:
        pilot.app.screen.post_message(events.Key(_character_to_key(letter), letter))
    await settle(pilot)


def screen_text(app: App[Any]) -> str:
    """What the terminal shows, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips) + "\n"


def screen_styles(app: App[Any]) -> set[str]:
    """Every style on the screen, after Textual's filters."""
    return {str(s.style) for strip in app.screen._compositor.render_strips() for s in strip if s.style}


def same_as_snapshot(name: str, text: str) -> None:
    """Compare with the stored screen; PRISMTOP_UPDATE_SNAPSHOTS=1 stores it instead."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get(UPDATE):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path.name} is missing: run the tests with {UPDATE}=1 and look at it"
    assert text == path.read_text(encoding="utf-8")
