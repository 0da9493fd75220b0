"""Every screen at three sizes in four looks: as text to review, and a digest of the SVG for the colours.

PRISMTOP_UPDATE_SNAPSHOTS=1 stores both.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from prismtop.model import AttachState, CapturePhase, Frame, Recording, Replay
from prismtop.tui.controls import Controls
from tests.tui.harness import (
    SNAPSHOTS,
    UPDATE,
    Clock,
    StillApp,
    same_as_snapshot,
    screen_styles,
    screen_text,
    settle,
    still,
    tap,
    type_text,
)
from tests.tui.svg import digest
from tests.tui.synthetic import SyntheticSession, planned_capture

SIZES = ((80, 24), (120, 40), (200, 60))
LOOKS = ("default", "ascii", "ansi-16", "no-color")
SCREENS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "list": ((), ()),
    "held": (("down", "down", "down"), ("home",)),
    "paused": (("space",), ("space",)),
    "compact": (("c",), ("c",)),
    "sorted": (("s", "@ms", "enter"), ("s", "@seq", "enter")),
    "filter": (("slash", "@mode==mixed & dur>20"), ("escape",)),
    "search": (("f3", "@mixed", "enter"), ("escape", "home")),
    "focus": (("tab", "tab"), ("escape",)),
    "details": (("n", "enter"), ("escape", "home")),
    "probe": (("p",), ("escape",)),
    "alerts": (("A",), ("escape",)),
    "counters": (("C",), ("escape",)),
    "model": (("m",), ("escape",)),
    "tree": (("t",), ("escape",)),
    "help": (("f1",), ("escape",)),
    "setup": (("f2",), ("escape",)),
    "palette": (("colon",), ("escape",)),
    "sort": (("f6",), ("escape",)),
    "export": (("e",), ("escape",)),
    "confirm": (("d",), ("escape",)),
    "capture": (("D",), ("escape",)),
}
TEXT_IN_ASCII = ("list", "held", "details", "alerts", "counters", "help", "setup")
DIGESTS = SNAPSHOTS / "svg.json"


async def play(pilot: Pilot[None], keys: tuple[str, ...]) -> None:
    """Keys; what starts with @ is typed."""
    for key in keys:
        if key.startswith("@"):
            await type_text(pilot, key[1:])
        else:
            await tap(pilot, key)


class Digests:
    """The stored digests, and what differs from them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stored: dict[str, str] = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
        self.different: list[str] = []

    def check(self, name: str, app: StillApp) -> None:
        svg = app.export_screenshot(title="prismtop")
        now = digest(svg)
        if os.environ.get(UPDATE):
            self._stored[name] = now
        elif self._stored.get(name) != now:
            (self._folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            self.different.append(str(self._folder / f"{name}.svg"))

    def store(self) -> None:
        if os.environ.get(UPDATE):
            DIGESTS.write_text(json.dumps(self._stored, indent=0, sort_keys=True) + "\n")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("look", LOOKS)
async def test_every_screen(
    look: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if look == "no-color":
        monkeypatch.setenv("NO_COLOR", "1")
    theme = "ansi-16" if look in ("ansi-16", "no-color") else "prismtop"
    digests = Digests(tmp_path)
    controls = Controls(deepdive=lambda: None, preview_deepdive=planned_capture)
    async with still(*size, ascii=look == "ascii", theme=theme, controls=controls) as (app, pilot):
        for screen, (there, back) in SCREENS.items():
            await play(pilot, there)
            text = screen_text(app)
            name = f"{screen}-{size[0]}x{size[1]}"
            if look != "ascii" and (screen not in ("setup", "palette") or look == "default"):
                same_as_snapshot(f"{name}-default", text)
            elif look == "ascii":
                assert text.isascii(), screen
                if screen in TEXT_IN_ASCII:
                    same_as_snapshot(f"{name}-ascii", text)
            if look == "no-color":
                assert not any("#" in s or "color(" in s or "cyan" in s for s in screen_styles(app)), screen
            elif look == "ansi-16":
                assert not any("#" in style for style in screen_styles(app)), screen
            digests.check(f"{name}-{look}", app)
            await play(pilot, back)
    digests.store()
    assert not digests.different, "these pictures changed; look at them, then store them"


class Other(SyntheticSession):
    """Frames with something more in them."""

    def __init__(self, clock: Clock, **changes: Any) -> None:
        self.more: dict[str, Any] = changes.pop("more", {})
        super().__init__(clock, **changes)

    def tick(self) -> Frame:
        frame = super().tick()
        more = {name: make(frame) for name, make in self.more.items()}
        return replace(frame, **more)


def _replay(frame: Frame) -> Replay:
    second = 10**9
    return Replay("/srv/traces/night.json.gz", frame.time_ns, frame.time_ns - 300 * second,
                  frame.time_ns + 700 * second, 2.0, True, frame.time_ns - 100 * second)  # fmt: skip


SITUATIONS: dict[str, dict[str, Any]] = {
    "nothing-judged": {"bare": True},
    "ranks": {"ranks": 4},
    "replay": {"more": {"replay": _replay}},
    "capturing": {
        "more": {
            "capture": lambda frame: replace(
                planned_capture(frame.time_ns), phase=CapturePhase.CAPTURING, batches=23
            )
        }
    },
    "recording": {
        "more": {"recording": lambda frame: Recording("/t.gz", frame.time_ns - 12 * 10**9, 9, 3_400_000)}
    },
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_the_list_in_other_situations(situation: str, size: tuple[int, int]) -> None:
    clock = Clock()
    session = Other(clock, **SITUATIONS[situation])
    async with still(*size, session=session, clock=clock) as (app, _pilot):
        same_as_snapshot(f"{situation}-{size[0]}x{size[1]}-default", screen_text(app))


@pytest.mark.parametrize(
    "size", [(60, 15), (40, 10), (20, 5), (8, 3), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}"
)
async def test_no_size_is_refused(size: tuple[int, int]) -> None:
    controls = Controls(deepdive=lambda: None, preview_deepdive=planned_capture)
    async with still(*size, controls=controls) as (app, pilot):
        for there, back in SCREENS.values():
            await play(pilot, there)
            await play(pilot, back)
        assert app.is_running


async def test_a_narrow_terminal_has_one_column() -> None:
    async with still(44, 16) as (app, _pilot):
        same_as_snapshot("list-44x16-default", screen_text(app))


async def test_a_resized_terminal_gets_the_layout_of_its_size() -> None:
    async with still(80, 24) as (app, pilot):
        await pilot.resize_terminal(120, 40)
        await settle(pilot)
        same_as_snapshot("list-120x40-default", screen_text(app))


async def test_an_armed_engine_says_what_it_waits_for() -> None:
    clock = Clock()
    session = SyntheticSession(clock, hz=0.0001, state=AttachState.ARMED)
    session._next_ns += 10**15
    async with still(80, 24, session=session, clock=clock) as (app, _pilot):
        same_as_snapshot("armed-80x24", screen_text(app))


async def test_before_the_first_frame_the_screen_says_that_it_waits() -> None:
    app = StillApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        same_as_snapshot("first-80x24", screen_text(app))


async def test_a_stuck_collector_is_marked_stale() -> None:
    async with still() as (app, pilot):
        app.clock.ns += 5_000_000_000
        app.refresh_ages()
        await settle(pilot)
        assert "STALE 5 s" in screen_text(app)
