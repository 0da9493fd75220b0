"""Each key of the table does what its help says, on each kind of screen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from textual import events
from textual.pilot import Pilot

from prismtop.tui.keys import KEYS, LIST, PICKER, keys_for
from prismtop.tui.panels import help as help_page
from prismtop.tui.panels.footer import footer
from prismtop.tui.screens import DetailsScreen, HelpScreen, HooksScreen, ListScreen
from tests.tui.harness import StillApp, screen_text, still

Check = Callable[[StillApp, Pilot[None]], Awaitable[None]]


async def press(pilot: Pilot[None], *keys: str) -> None:
    await pilot.press(*keys)
    await pilot.pause()


@pytest.mark.parametrize("key", ["f1", "h", "question_mark"])
async def test_help_opens_from_the_list(key: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, key)
        assert isinstance(app.screen, HelpScreen)


async def test_space_freezes_the_view_and_says_for_how_long() -> None:
    async with still() as (app, pilot):
        await press(pilot, "space")
        before = screen_text(app)
        app.feed(12)
        app.refresh_ages()
        await pilot.pause()
        after = screen_text(app)
        assert "PAUSED 12 s, +1,416 batches" in after
        assert after.splitlines()[5:20] == before.splitlines()[5:20]


async def test_collection_goes_on_under_a_pause() -> None:
    async with still() as (app, pilot):
        await press(pilot, "space")
        frame = app.feed(5)
        assert app.view.latest is frame


async def test_space_again_shows_now() -> None:
    async with still() as (app, pilot):
        await press(pilot, "space")
        frame = app.feed(5)
        await press(pilot, "space")
        assert app.view.frame is frame
        assert "PAUSED" not in screen_text(app)


async def test_space_pauses_on_a_page_too() -> None:
    async with still() as (app, pilot):
        await press(pilot, "p", "space")
        assert "PAUSED" in screen_text(app)


@pytest.mark.parametrize("key", ["q", "f10", "ctrl+c", "ctrl+q"])
async def test_quit_leaves_from_the_list(key: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, key)
        assert not app.is_running or app._exit


@pytest.mark.parametrize("key", ["f10", "ctrl+c", "ctrl+q"])
@pytest.mark.parametrize("page", ["f1", "p", "enter"])
async def test_quit_leaves_from_every_page(page: str, key: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, page)
        assert not isinstance(app.screen, ListScreen)
        await press(pilot, key)
        assert not app.is_running or app._exit


@pytest.mark.parametrize("key", ["escape", "q", "backspace"])
@pytest.mark.parametrize("page", ["f1", "p", "enter"])
async def test_back_returns_to_the_list(page: str, key: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, page, key)
        assert isinstance(app.screen, ListScreen)
        assert not app._exit


@pytest.mark.parametrize(("down", "up"), [("down", "up"), ("j", "k")])
async def test_up_and_down_move_by_one_row(down: str, up: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, down, down, down, up)
        assert app.view.cursor == 2


async def test_pages_move_by_what_is_visible() -> None:
    async with still() as (app, pilot):
        await press(pilot, "pagedown")
        first = app.view.cursor
        assert first == app.view.height - 1
        await press(pilot, "pagedown", "pageup")
        assert app.view.cursor == first


@pytest.mark.parametrize("key", ["end", "G"])
async def test_end_goes_to_the_oldest_batch_kept(key: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, key)
        assert app.view.selected is not None
        assert app.view.selected.seq == 0


@pytest.mark.parametrize("key", ["home", "g", "n"])
async def test_home_and_newest_follow_again(key: str) -> None:
    async with still() as (app, pilot):
        await press(pilot, "end", key)
        frame = app.feed(2)
        assert app.view.selected is frame.batches[-1]


async def test_the_rows_stand_still_while_one_is_selected_and_the_header_moves_on() -> None:
    async with still() as (app, pilot):
        await press(pilot, "down")
        before = screen_text(app).splitlines()
        app.feed(2)
        await pilot.pause()
        after = screen_text(app).splitlines()
        assert after[5:20] == before[5:20]
        assert after[0] != before[0]
        assert "rows held 2/355" in after[4]


async def test_enter_shows_the_selected_batch() -> None:
    async with still() as (app, pilot):
        await press(pilot, "down", "down", "enter")
        assert isinstance(app.screen, DetailsScreen)
        assert app.view.selected is not None
        assert f"batch {app.view.selected.seq} " in screen_text(app)


async def test_right_and_left_walk_to_older_and_newer_batches() -> None:
    async with still() as (app, pilot):
        await press(pilot, "down", "down", "enter", "right", "right", "left")
        assert app.view.cursor == 3


async def test_p_opens_the_probe_page() -> None:
    async with still() as (app, pilot):
        await press(pilot, "p")
        assert isinstance(app.screen, HooksScreen)
        assert "n/a: not in this version: vllm.v1.sample" in screen_text(app)


async def test_c_takes_panels_away_and_brings_them_back() -> None:
    async with still(120, 40) as (app, pilot):
        full = app.view.height
        await press(pilot, "c")
        assert app.view.height > full
        await press(pilot, "c")
        assert app.view.height == full


@pytest.mark.parametrize(
    ("key", "hz"), [("plus", 4.0), ("equals_sign", 4.0), ("minus", 1.0), ("underscore", 1.0)]
)
async def test_plus_and_minus_change_the_rate_of_the_screen(key: str, hz: float) -> None:
    async with still() as (app, pilot):
        await press(pilot, key)
        assert app.collector.ui_hz == hz
        assert f"{hz:g} Hz" in screen_text(app)


async def test_the_help_page_scrolls_to_its_end() -> None:
    async with still() as (app, pilot):
        await press(pilot, "f1", "end")
        assert "tensor-parallel ranks." in screen_text(app)
        await press(pilot, "home", "down", "pagedown", "pageup", "up")
        assert "keys in the list" in screen_text(app)


async def test_ctrl_l_paints_everything_again() -> None:
    async with still() as (app, pilot):
        asked = []
        app._forget_cells = lambda: asked.append(True)  # type: ignore[method-assign]
        await press(pilot, "ctrl+l")
        assert asked == [True]


def test_every_key_of_the_table_is_on_the_help_page() -> None:
    from prismtop.tui.look import UNICODE

    shown = "\n".join("".join(text for text, _ in line) for line in help_page.lines(100, UNICODE))
    for key in KEYS:
        if key.where != (PICKER,):
            assert f" {key.shown} " in shown, key.id


def test_no_key_means_two_things_on_one_screen() -> None:
    for where in ("list", "details", "page", "picker"):
        names = [name for key in keys_for(where) for name in key.keys]
        assert len(names) == len(set(names)), where


def test_every_action_exists_where_its_key_works() -> None:
    from prismtop.tui.picker import PickerScreen

    screens = {"list": ListScreen, "details": DetailsScreen, "page": HelpScreen, "picker": PickerScreen}
    for where, screen in screens.items():
        for key in keys_for(where):
            assert hasattr(screen, f"action_{key.action.split('(')[0]}"), f"{where}: {key.action}"


def test_a_narrow_footer_keeps_help_pause_and_quit() -> None:
    line = "".join(text for text, _ in footer(LIST, 32).line)
    assert [word for word in ("help", "pause", "quit") if word in line] == ["help", "pause", "quit"]


async def test_a_click_on_the_footer_is_its_key() -> None:
    async with still() as (app, pilot):
        place = next(first for first, _, action in footer(LIST, 80).places if action == "hooks")
        await pilot.click("#footer", offset=(place + 1, 0))
        await pilot.pause()
        assert isinstance(app.screen, HooksScreen)


async def test_a_click_selects_a_row_and_a_second_one_opens_it() -> None:
    async with still() as (app, pilot):
        await pilot.click("#batches", offset=(10, 4))
        await pilot.pause()
        assert app.view.cursor == 3
        await pilot.click("#batches", offset=(10, 4), times=2)
        await pilot.pause()
        assert isinstance(app.screen, DetailsScreen)


async def test_the_wheel_moves_the_selection() -> None:
    async with still() as (app, pilot):
        panel = app.screen.query_one("#batches")
        panel.post_message(events.MouseScrollDown(panel, 5, 5, 0, 1, 0, False, False, False))
        await pilot.pause()
        assert app.view.cursor == 3
