"""Every screen as text at three sizes in four looks. PRISMTOP_UPDATE_SNAPSHOTS=1 stores them."""

from __future__ import annotations

import pytest

from prismtop.model import AttachState
from tests.tui.harness import Clock, same_as_snapshot, screen_styles, screen_text, still
from tests.tui.synthetic import SyntheticSession

SIZES = ((80, 24), (120, 40), (200, 60))
SCREENS = {
    "list": (),
    "held": ("down", "down", "down"),
    "paused": ("space",),
    "compact": ("c",),
    "details": ("down", "down", "down", "enter"),
    "probe": ("p",),
    "help": ("f1",),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("look", ["default", "ascii"])
async def test_screen(screen: str, size: tuple[int, int], look: str) -> None:
    async with still(*size, ascii=look == "ascii") as (app, pilot):
        await pilot.press(*SCREENS[screen])
        await pilot.pause()
        same_as_snapshot(f"{screen}-{size[0]}x{size[1]}-{look}", screen_text(app))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("look", ["ansi-16", "no-color"])
async def test_a_look_changes_colours_only(
    screen: str, size: tuple[int, int], look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if look == "no-color":
        monkeypatch.setenv("NO_COLOR", "1")
    async with still(*size, theme="ansi-16") as (app, pilot):
        await pilot.press(*SCREENS[screen])
        await pilot.pause()
        same_as_snapshot(f"{screen}-{size[0]}x{size[1]}-default", screen_text(app))
        if look == "no-color":
            assert not any(
                "#" in style or "color(" in style or "cyan" in style for style in screen_styles(app)
            )
        else:
            assert not any("#" in style for style in screen_styles(app))


async def test_ascii_screens_are_ascii() -> None:
    async with still(120, 40, ascii=True) as (app, pilot):
        for keys in SCREENS.values():
            await pilot.press(*keys)
            await pilot.pause()
            assert screen_text(app).isascii()
            await pilot.press("escape")


@pytest.mark.parametrize(
    "size", [(60, 15), (40, 10), (20, 5), (8, 3), (1, 1)], ids=lambda s: f"{s[0]}x{s[1]}"
)
async def test_no_size_is_refused(size: tuple[int, int]) -> None:
    async with still(*size) as (app, pilot):
        for keys in SCREENS.values():
            await pilot.press(*keys)
            await pilot.pause()
            await pilot.press("escape")
        assert app.is_running


async def test_a_resized_terminal_gets_the_layout_of_its_size() -> None:
    async with still(80, 24) as (app, pilot):
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        same_as_snapshot("list-120x40-default", screen_text(app))


async def test_an_armed_engine_says_what_it_waits_for() -> None:
    clock = Clock()
    session = SyntheticSession(clock, hz=0.0001, state=AttachState.ARMED)
    session._next_ns += 10**15
    async with still(80, 24, session=session, clock=clock) as (app, _pilot):
        same_as_snapshot("armed-80x24", screen_text(app))


async def test_before_the_first_frame_the_screen_says_that_it_waits() -> None:
    from tests.tui.harness import StillApp

    app = StillApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        same_as_snapshot("first-80x24", screen_text(app))


async def test_a_stuck_collector_is_marked_stale() -> None:
    async with still() as (app, pilot):
        app.clock.ns += 5_000_000_000
        app.refresh_ages()
        await pilot.pause()
        assert "STALE 5 s" in screen_text(app)
