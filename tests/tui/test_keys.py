"""Each key of the table does what its help says, on each kind of screen."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.keys import key_to_character

from prismtop.errors import UnavailableError
from prismtop.model import CapturePhase, Frame, Replay
from prismtop.tui.controls import Controls
from prismtop.tui.fields import is_slow
from prismtop.tui.keys import KEYS, LIST, MENU, PANELS, PICKER, keys_for
from prismtop.tui.list_screen import ListScreen
from prismtop.tui.look import UNICODE
from prismtop.tui.pages import (
    AlertsScreen,
    CountersScreen,
    DetailsScreen,
    HelpScreen,
    HooksScreen,
    ModelScreen,
    StagesScreen,
    TreeScreen,
)
from prismtop.tui.panels import help as help_page
from prismtop.tui.panels.footer import footer
from tests.tui.harness import Clock, screen_text, settle, still, tap, type_text
from tests.tui.synthetic import SyntheticSession, planned_capture

Test = Callable[..., Awaitable[None]]
COVERED: dict[str, Test] = {}


def covers(*ids: str) -> Callable[[Test], Test]:
    """The test presses these keys of the table."""

    def mark(test: Test) -> Test:
        COVERED.update(dict.fromkeys(ids, test))
        return test

    return mark


class Steered:
    """Replay controls that note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.asked.append((name, *arguments))


class Replayed(SyntheticSession):
    """Frames that say that they come from a trace."""

    marks: tuple[int | None, int | None] = (None, None)

    def tick(self) -> Frame:
        frame = super().tick()
        start = frame.time_ns - 600 * 10**9
        end = frame.time_ns + 600 * 10**9
        where = Replay(
            "/tmp/trace.json.gz", frame.time_ns, start, end, 2.0, a_ns=self.marks[0], b_ns=self.marks[1]
        )
        return replace(frame, replay=where)


def replaying(columns: int = 120, rows: int = 40) -> tuple[Any, Steered, Replayed]:
    """A still app over a replay, its controls, its session."""
    clock, steered = Clock(), Steered()
    session = Replayed(clock)
    app = still(columns, rows, session=session, clock=clock, controls=Controls(replay=steered))  # type: ignore[arg-type]
    return app, steered, session


@covers("help")
async def test_help_opens_from_the_list() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f1")
        assert isinstance(app.screen, HelpScreen)


@covers("pause")
async def test_space_freezes_the_view_and_says_for_how_long() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "space")
        before = screen_text(app)
        app.feed(12)
        app.refresh_ages()
        await settle(pilot)
        after = screen_text(app)
        assert "PAUSED 12 s, +1,416 batches" in after
        assert after.splitlines()[5:20] == before.splitlines()[5:20]


async def test_collection_goes_on_under_a_pause() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "space")
        frame = app.feed(5)
        assert app.view.latest is frame


async def test_space_again_shows_now() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "space")
        frame = app.feed(5)
        await tap(pilot, "space")
        assert app.view.frame is frame
        assert "PAUSED" not in screen_text(app)


async def test_space_pauses_on_a_page_too() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "p", "space")
        assert "PAUSED" in screen_text(app)


@covers("quit")
@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_quit_leaves_from_the_list(key: str) -> None:
    async with still() as (app, pilot):
        await tap(pilot, key)
        assert not app.is_running or app._exit


@covers("quit_anywhere")
@pytest.mark.parametrize(
    ("page", "key"), [("f1", "f10"), ("enter", "ctrl+c"), ("slash", "ctrl+c"), ("f2", "ctrl+q")]
)
async def test_quit_leaves_from_everywhere(page: str, key: str) -> None:
    async with still() as (app, pilot):
        await tap(pilot, page)
        await tap(pilot, key)
        assert not app.is_running or app._exit


@covers("back")
async def test_back_returns_to_the_list_from_every_page() -> None:
    async with still() as (app, pilot):
        for page, key in zip(
            ("f1", "p", "enter", "A", "C", "m", "t"), ("escape", "q", "backspace") * 3, strict=False
        ):
            await tap(pilot, page)
            assert not isinstance(app.screen, ListScreen)
            await tap(pilot, key)
            assert isinstance(app.screen, ListScreen)
        assert not app._exit


@covers("up", "down")
async def test_up_and_down_move_by_one_row() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "down", "down", "j", "k")
        assert app.view.cursor == 2


@covers("page_up", "page_down")
async def test_pages_move_by_what_is_visible() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "pagedown")
        first = app.view.cursor
        assert first == app.view.height - 1
        await tap(pilot, "pagedown", "pageup")
        assert app.view.cursor == first


@covers("end")
async def test_end_goes_to_the_oldest_batch_kept() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "end")
        assert app.view.selected is not None
        assert app.view.selected.seq == 0


@covers("home")
async def test_home_follows_the_newest_batch_again() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "end", "home")
        frame = app.feed(2)
        assert app.view.selected is frame.batches[-1]


async def test_the_rows_stand_still_while_one_is_selected_and_the_header_moves_on() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "down")
        before = screen_text(app).splitlines()
        app.feed(2)
        await settle(pilot)
        after = screen_text(app).splitlines()
        assert after[6:17] == before[6:17]
        assert after[0] != before[0]
        assert "rows held 2/355" in after[5]


@covers("details")
async def test_enter_shows_the_selected_batch() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "down", "down", "enter")
        assert isinstance(app.screen, DetailsScreen)
        assert app.view.selected is not None
        assert f"batch {app.view.selected.seq} " in screen_text(app)


@covers("newer", "older")
async def test_right_and_left_walk_to_older_and_newer_batches() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "down", "down", "enter", "right", "right", "left")
        assert app.view.cursor == 3


@covers("probe")
async def test_p_opens_the_probe_page() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "p")
        assert isinstance(app.screen, HooksScreen)
        assert "n/a: not in this version: vllm.v1.sample" in screen_text(app)


@covers("alerts", "counters", "model", "tree")
async def test_the_pages_open_and_say_what_they_are_for() -> None:
    async with still(120, 40) as (app, pilot):
        for key, page, says in (
            ("A", AlertsScreen, "limit reason: power cap"),
            ("C", CountersScreen, "no RDMA device"),
            ("m", ModelScreen, "2.1 %"),
            ("t", TreeScreen, "VLLM::EngineCore"),
        ):
            await tap(pilot, key)
            assert isinstance(app.screen, page)
            assert says in screen_text(app)
            await tap(pilot, "escape")


@covers("compact")
async def test_c_takes_panels_away_and_brings_them_back() -> None:
    async with still(120, 40) as (app, pilot):
        full = app.view.height
        await tap(pilot, "c")
        assert app.view.height > full
        await tap(pilot, "c")
        assert app.view.height == full


@covers("faster", "slower")
@pytest.mark.parametrize(("key", "hz"), [("plus", 4.0), ("minus", 1.0)])
async def test_plus_and_minus_change_the_rate_of_the_screen(key: str, hz: float) -> None:
    async with still() as (app, pilot):
        await tap(pilot, key)
        assert app.collector.ui_hz == hz
        assert f"{hz:g} Hz" in screen_text(app)


async def test_the_help_page_scrolls_to_its_end() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f1", "end")
        assert "says how (prismtop, 1 s)" in screen_text(app)
        await tap(pilot, "home", "down", "pagedown", "pageup", "up")
        assert "keys in the list" in screen_text(app)


@covers("redraw")
async def test_ctrl_l_paints_everything_again() -> None:
    async with still() as (app, pilot):
        asked = []
        app._forget_cells = lambda: asked.append(True)  # type: ignore[method-assign]
        await tap(pilot, "ctrl+l")
        assert asked == [True]


@covers("suspend")
async def test_ctrl_z_suspends() -> None:
    async with still() as (app, pilot):
        asked = []
        app.action_suspend_process = lambda: asked.append(True)  # type: ignore[method-assign]
        await tap(pilot, "ctrl+z")
        assert asked == [True]


@covers("filter", "prompt_take")
async def test_a_filter_shows_only_rows_that_match() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        await type_text(pilot, "mode==mixed & dur>20ms")
        await tap(pilot, "enter")
        assert 0 < app.view.total_rows < 20
        assert all(batch.mode.value == "mixed" for batch in app.view.rows)


async def test_a_filter_works_while_it_is_typed_and_says_what_is_wrong_with_it() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        await type_text(pilot, "mixed")
        assert 0 < app.view.total_rows < 20
        await type_text(pilot, " & durr>")
        assert "no expression" in screen_text(app)


@covers("prompt_leave")
async def test_leaving_the_prompt_brings_the_rows_back() -> None:
    async with still() as (app, pilot):
        before = app.view.total_rows
        await tap(pilot, "slash")
        await type_text(pilot, "mixed")
        await tap(pilot, "escape")
        assert app.view.total_rows == before
        assert app.view.filter is None


@pytest.mark.parametrize(("key", "label"), [("slash", "filter:"), ("f3", "search:"), ("g", "go to:")])
@pytest.mark.parametrize("compact", [False, True])
async def test_what_is_typed_is_seen_where_the_line_of_keys_is_hidden(
    key: str, label: str, compact: bool
) -> None:
    async with still() as (app, pilot):
        await tap(pilot, "9", *(["c"] if compact else []))
        assert "Help" not in screen_text(app).splitlines()[-1]
        await tap(pilot, key)
        await type_text(pilot, "12")
        assert screen_text(app).splitlines()[-1].startswith(f" {label} 12_")
        await tap(pilot, "escape")
        assert app.view.panels["footer"] is False
        assert "Help" not in screen_text(app).splitlines()[-1]


@covers("prompt_empty")
async def test_ctrl_u_empties_the_line() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        await type_text(pilot, "mixed")
        await tap(pilot, "ctrl+u", "enter")
        assert app.view.filter is None


async def test_backspace_takes_a_letter_away() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        await type_text(pilot, "mixedx")
        await tap(pilot, "backspace", "enter")
        assert app.view.filter is not None
        assert app.view.filter.text == "mixed"


@covers("search")
async def test_a_search_selects_the_next_row_that_matches() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f3")
        await type_text(pilot, "mixed")
        await tap(pilot, "enter")
        assert app.view.selected is not None
        assert app.view.selected.mode.value == "mixed"


@pytest.mark.parametrize("key", ["f3", "f"])
async def test_the_key_of_a_search_goes_on_with_it(key: str) -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f3")
        await type_text(pilot, "mixed")
        await tap(pilot, "enter")
        first = app.view.cursor
        await tap(pilot, key)
        assert app.view.cursor > first
        assert app.view.selected is not None
        assert app.view.selected.mode.value == "mixed"
        await tap(pilot, "escape", key)
        assert "search: _" in screen_text(app)


async def test_a_search_that_matches_no_row_any_more_says_so() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f3")
        await type_text(pilot, "no such batch")
        await tap(pilot, "enter", "f3")
        assert "no row of the list matches no such batch" in screen_text(app)


@covers("prompt_next", "prompt_previous")
async def test_search_again_goes_on_and_back() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f3")
        await type_text(pilot, "mixed")
        first = app.view.cursor
        await tap(pilot, "f3")
        second = app.view.cursor
        await tap(pilot, "up")
        assert second > first
        assert app.view.cursor == first


async def test_a_search_keeps_its_place_while_the_list_moves_on() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f3")
        await type_text(pilot, "mixed")
        await tap(pilot, "enter")
        found = app.view.selected
        app.feed(3)
        await settle(pilot)
        assert app.view.selected is found
        assert found is not None
        assert f">{found.seq:>7}" in screen_text(app)


@covers("prompt_switch")
async def test_tab_makes_a_search_of_a_filter() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        await type_text(pilot, "mixed")
        await tap(pilot, "tab", "enter")
        assert app.view.filter is None
        assert app.view.search is not None
        assert app.view.selected is not None
        assert app.view.selected.mode.value == "mixed"


@covers("sort", "menu_choose")
async def test_the_sort_menu_sorts_by_a_field() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f6")
        await type_text(pilot, "ms")
        await tap(pilot, "enter")
        durations = [batch.duration_ns for batch in app.view.rows]
        assert durations == sorted(durations, reverse=True)


@covers("sort_left", "sort_right")
async def test_angle_brackets_move_the_sort_column() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "greater_than_sign", "greater_than_sign")
        assert app.view.sort == "bs"
        await tap(pilot, "less_than_sign")
        assert app.view.sort == "mode"


@covers("invert")
async def test_invert_turns_the_order_around() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "I")
        seqs = [batch.seq for batch in app.view.rows]
        assert seqs == sorted(seqs)


@covers("next_anomaly", "previous_anomaly")
async def test_n_and_shift_n_walk_along_slow_batches() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "n", "n")
        second = app.view.cursor
        slow = [i for i, batch in enumerate(app.view.rows) if is_slow(batch)]
        await tap(pilot, "N")
        assert (app.view.cursor, second) == (slow[0], slow[1])


async def test_n_says_why_nothing_can_be_found_without_predictions() -> None:
    clock = Clock()
    async with still(session=SyntheticSession(clock, bare=True), clock=clock) as (app, pilot):
        await tap(pilot, "n")
        assert "prediction is switched off" in screen_text(app)


@covers("goto")
@pytest.mark.parametrize(("text", "seq"), [("120", 120), ("0%", 354), ("100%", 0), ("10:06:42", 235)])
async def test_g_goes_to_a_number_a_time_or_a_part(text: str, seq: int) -> None:
    async with still() as (app, pilot):
        await tap(pilot, "g")
        await type_text(pilot, text)
        await tap(pilot, "enter")
        assert app.view.selected is not None
        assert abs(app.view.selected.seq - seq) <= 1


async def test_g_says_which_batches_are_kept() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "g")
        await type_text(pilot, "99999")
        await tap(pilot, "enter")
        assert "which holds 0 to 354" in screen_text(app)


@covers("clear")
async def test_escape_drops_one_thing_per_press() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        await type_text(pilot, "mixed")
        await tap(pilot, "enter", "down", "escape")
        assert app.view.filter is None
        assert app.view.held is not None
        await tap(pilot, "escape")
        assert app.view.held is None


@covers("focus", "focus_back")
async def test_tab_goes_round_the_panels_and_back_to_the_list() -> None:
    async with still(120, 40) as (app, pilot):
        await tap(pilot, "tab")
        assert app.view.focus == "prediction"
        await tap(pilot, "tab", "shift+tab", "shift+tab")
        assert app.view.focus == ""


async def test_enter_opens_the_page_of_the_panel_with_the_focus() -> None:
    async with still(120, 46) as (app, pilot):
        for page in (ModelScreen, CountersScreen, AlertsScreen, StagesScreen):
            await tap(pilot, "tab", "enter")
            assert isinstance(app.screen, page)
            await tap(pilot, "escape")


async def test_arrows_scroll_the_panel_with_the_focus() -> None:
    async with still(120, 40) as (app, pilot):
        await tap(pilot, "tab", "tab", "down")
        assert app.view.scroll["counters"] == 1
        assert app.view.held is None


@covers(*(f"panel_{number}" for number in range(1, 10)))
async def test_a_digit_hides_a_panel_and_shows_it_again() -> None:
    clock = Clock()
    async with still(120, 60, session=SyntheticSession(clock, ranks=4), clock=clock) as (app, pilot):
        screen = app.screen
        assert isinstance(screen, ListScreen)
        for number, name in enumerate(PANELS, 1):
            assert screen.shown[name] > 0
            await tap(pilot, str(number))
            assert screen.shown[name] == 0
            await tap(pilot, str(number))
            assert screen.shown[name] > 0


async def test_a_panel_for_which_there_is_no_room_is_not_hidden_in_silence() -> None:
    async with still(80, 6) as (app, pilot):
        await tap(pilot, "6", "2", "3")
        assert "there is no room for" in screen_text(app)


@covers("export")
@pytest.mark.parametrize(
    ("kind", "starts"), [("json", '{"v":1,"type":"session"'), ("csv", "t_us,engine,seq")]
)
async def test_e_writes_the_rows_to_a_new_file(kind: str, starts: str, tmp_path: Path) -> None:
    async with still(export_dir=str(tmp_path)) as (app, pilot):
        await tap(pilot, "e")
        await type_text(pilot, kind)
        await tap(pilot, "enter")
        (written,) = tmp_path.iterdir()
        text = written.read_text()
        assert text.startswith(starts)
        assert len(text.splitlines()) == app.view.total_rows + 1
        assert written.stat().st_mode & 0o777 == 0o600


async def test_e_writes_a_picture_without_the_menu(tmp_path: Path) -> None:
    async with still(export_dir=str(tmp_path)) as (_app, pilot):
        await tap(pilot, "e")
        await type_text(pilot, "svg")
        await tap(pilot, "enter")
        await settle(pilot)
        (written,) = tmp_path.iterdir()
        text = written.read_text()
        assert "batch/s" in text.replace("&#160;", " ")
        assert "export" not in text


@covers("palette")
async def test_the_palette_runs_a_command_by_name() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "colon")
        await type_text(pilot, "alerts")
        await tap(pilot, "enter")
        await settle(pilot)
        assert isinstance(app.screen, AlertsScreen)


@covers("menu_close")
async def test_a_previewed_theme_goes_back_when_the_palette_is_left() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "colon")
        await type_text(pilot, "theme: nord")
        assert app.theme_file.name == "nord"
        await tap(pilot, "escape")
        assert app.theme_file.name == "prismtop"


async def test_a_theme_that_is_taken_stays() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "colon")
        await type_text(pilot, "theme: nord")
        await tap(pilot, "enter")
        assert app.theme_file.name == "nord"


@covers("setup")
async def test_setup_changes_what_is_shown() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f2", "down", "down", "enter", "escape")
        assert app.plain
        assert screen_text(app).isascii()


async def test_setup_saves_to_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# mine\ntick_hz = 20.0\n\n[keys]\nrecord = 'ctrl-r'\n")
    async with still(config_file=str(file), keys={"record": ("ctrl-r",)}) as (_app, pilot):
        await tap(pilot, "f2", "down", "enter")
        await type_text(pilot, "save")
        await tap(pilot, "enter")
    text = file.read_text()
    assert text.startswith("# mine\ntick_hz = 20.0\n")
    assert "ui_hz = 4.0" in text
    from prismtop.settings import load_settings

    assert load_settings({}, {}, file).ui_hz == 4.0


@covers("menu_up", "menu_down", "menu_page_up", "menu_page_down")
async def test_arrows_and_pages_move_in_a_menu() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f6", "down", "down", "up")
        assert app.screen.overlay.cursor == 1  # type: ignore[attr-defined]
        await tap(pilot, "pagedown", "pageup")
        assert app.screen.overlay.cursor == 0 or app.screen.overlay.cursor == 1  # type: ignore[attr-defined]
        await tap(pilot, "tab")
        assert app.screen.overlay.cursor > 0  # type: ignore[attr-defined]


@covers("record")
async def test_record_starts_a_trace_and_stops_it_again() -> None:
    from prismtop.model import Recording

    asked = []
    controls = Controls(
        start_recording=lambda: asked.append("start") or "/tmp/x.gz",
        stop_recording=lambda: asked.append("stop"),
    )
    async with still(controls=controls) as (app, pilot):
        await tap(pilot, "R")
        assert "recording: /tmp/x.gz" in screen_text(app)
        frame = app.session.tick()
        app.show(replace(frame, recording=Recording("/tmp/x.gz", frame.time_ns, 10, 3_400_000)))
        await settle(pilot)
        assert "REC 0 s 3.4 MB" in screen_text(app)
        await tap(pilot, "R")
        assert asked == ["start", "stop"]


async def test_record_says_why_when_the_session_cannot() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "R")
        assert "this session cannot record" in screen_text(app)


@covers("deepdive", "confirm_yes")
async def test_deepdive_asks_first() -> None:
    asked = []
    async with still(controls=Controls(deepdive=lambda: asked.append(True))) as (app, pilot):
        await tap(pilot, "d")
        assert asked == []
        assert "takes everything out again" in screen_text(app)
        await tap(pilot, "y")
        assert asked == [True]


@covers("confirm_no")
async def test_no_does_nothing() -> None:
    asked = []
    async with still(controls=Controls(deepdive=lambda: asked.append(True))) as (app, pilot):
        await tap(pilot, "d", "n")
        assert asked == []
        assert app.screen.overlay is None  # type: ignore[attr-defined]
        assert not app._exit


async def test_deepdive_says_that_there_is_nothing_to_capture() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "d")
        assert "there is no engine to capture here" in screen_text(app)


def diving(asked: list[str], planned: object = None) -> Controls:
    """A session that can capture."""
    return Controls(
        deepdive=lambda: asked.append("start"),
        preview_deepdive=lambda: planned or planned_capture(),
        cancel_deepdive=lambda: asked.append("cancel"),
    )


def capturing(frame: Frame, phase: CapturePhase, **changes: Any) -> Frame:
    """The frame while a capture is in that phase."""
    return replace(frame, capture=replace(planned_capture(frame.time_ns), phase=phase, **changes))


async def test_the_question_says_what_it_costs_and_which_layers_there_are() -> None:
    async with still(controls=diving([])) as (app, pilot):
        await tap(pilot, "d")
        shown = screen_text(app)
        assert "for about 1 s in all" in shown
        assert "off     gpu        CUDA graphs are in use" in shown
        assert "y: capture" in shown


async def test_a_capture_that_cannot_be_is_not_asked_about() -> None:
    refused = UnavailableError("the engine is watched from outside only.")
    async with still(controls=diving([], refused)) as (app, pilot):
        await tap(pilot, "d")
        assert "DeepDive failed: the engine is watched from outside only." in screen_text(app)
        assert app.screen.overlay is None  # type: ignore[attr-defined]


async def test_the_same_key_cancels_a_capture_that_runs() -> None:
    asked: list[str] = []
    async with still(controls=diving(asked)) as (app, pilot):
        app.show(capturing(app.session.tick(), CapturePhase.CAPTURING, batches=23))
        await settle(pilot)
        assert "DIVE 23/50" in screen_text(app)
        assert " d cancel" in screen_text(app)
        await tap(pilot, "d")
        assert asked == ["cancel"]


@pytest.mark.parametrize(
    ("phase", "changes", "sentence"),
    [
        (CapturePhase.CANCELLED, {}, "DeepDive cancelled: no file was written"),
        (CapturePhase.FAILED, {"error": "the engine ended."}, "DeepDive failed: the engine ended."),
        (
            CapturePhase.DONE,
            {"batches": 50, "stall_ms": 903.0, "before_ms": 8.0, "during_ms": 8.8, "path": "/x.json.gz"},
            "DeepDive done, 50 batches, stall 903 ms, +10 % in the window: /x.json.gz",
        ),
    ],
)
async def test_the_end_of_a_capture_is_said_once(
    phase: CapturePhase, changes: dict[str, Any], sentence: str
) -> None:
    async with still(controls=diving([])) as (app, pilot):
        app.show(capturing(app.session.tick(), CapturePhase.CAPTURING))
        app.show(capturing(app.session.tick(), phase, **changes))
        await settle(pilot)
        assert sentence in screen_text(app)
        app.view.toast = None
        app.show(capturing(app.session.tick(), phase, **changes))
        await settle(pilot)
        assert sentence not in screen_text(app)


async def test_a_slowdown_that_stays_is_said_too() -> None:
    async with still(controls=diving([])) as (app, pilot):
        done = {"before_ms": 8.0, "during_ms": 8.8, "path": "/x.json.gz"}
        app.show(capturing(app.session.tick(), CapturePhase.DONE, **done))
        app.show(capturing(app.session.tick(), CapturePhase.DONE, after_ms=9.6, residual=True, **done))
        await settle(pilot)
        assert "a slowdown of 20 % HAS STAYED" in screen_text(app)


@covers("capture")
async def test_the_latest_capture_has_a_page() -> None:
    async with still(120, 40) as (app, pilot):
        await tap(pilot, "D")
        shown = screen_text(app)
        assert "no slowdown has stayed" in shown
        assert "look at it: prismtop replay /home/ops/" in shown


async def test_readonly_refuses_what_would_change_the_engine() -> None:
    asked = []
    controls = Controls(deepdive=lambda: asked.append(True))
    async with still(120, 40, controls=controls, readonly=True) as (app, pilot):
        await tap(pilot, "d", "y", "enter")
        assert asked == []
        assert "read-only" in screen_text(app)


@covers("step_forward", "step_back", "replay_faster", "replay_slower", "skip_forward", "skip_back", "loop")
async def test_keys_steer_a_replay() -> None:
    running, steered, _ = replaying()
    keys = {
        "full_stop": ("step", 1), "comma": ("step", -1), "right_square_bracket": ("faster",),
        "left_square_bracket": ("slower",), "right_curly_bracket": ("skip_s", 10),
        "left_curly_bracket": ("skip_s", -10), "L": ("toggle_loop",), "space": ("toggle",),
        "n": ("next_anomaly",),
        "N": ("previous_anomaly",),
    }  # fmt: skip
    async with running as (_app, pilot):
        await tap(pilot, *keys)
        assert steered.asked == list(keys.values())


async def test_keys_of_a_replay_do_nothing_on_a_live_engine() -> None:
    async with still() as (app, pilot):
        before = screen_text(app)
        await tap(pilot, "full_stop", "left_square_bracket", "right_curly_bracket", "L", "b")
        assert screen_text(app) == before


@covers("mark")
@pytest.mark.parametrize(
    ("marks", "asked"), [((None, None), "mark_a"), ((1, None), "mark_b"), ((1, 2), "clear_marks")]
)
async def test_b_sets_a_then_b_then_neither(marks: tuple[int | None, int | None], asked: str) -> None:
    running, steered, session = replaying()
    session.marks = marks
    async with running as (_app, pilot):
        await tap(pilot, "b")
        assert steered.asked == [(asked,)]


@pytest.mark.parametrize(("text", "asked"), [("25%", ("seek_fraction", 0.25)), ("10:05:00", "seek_ns")])
async def test_g_seeks_in_a_replay(text: str, asked: Any) -> None:
    running, steered, _ = replaying()
    async with running as (_app, pilot):
        await tap(pilot, "g")
        await type_text(pilot, text)
        await tap(pilot, "enter")
        assert steered.asked[0] == asked or steered.asked[0][0] == asked


async def test_a_click_on_the_seek_bar_seeks() -> None:
    running, steered, _ = replaying()
    async with running as (app, pilot):
        seek = app.screen._seek
        await pilot.click("#replay", offset=(seek.first + seek.cells - 1, 0))
        await settle(pilot)
        name, fraction = steered.asked[0]
        assert name == "seek_fraction"
        assert math.isclose(fraction, 1.0)


@covers("choose")
async def test_enter_chooses_an_engine() -> None:
    from tests.tui.test_picker import GROUPS, chosen

    assert await chosen("down", "enter") is GROUPS[1]


def test_every_key_of_the_table_has_a_test_of_what_it_does() -> None:
    assert set(COVERED) == {key.id for key in KEYS}


@pytest.mark.parametrize(
    ("where", "way"),
    [
        ("list", ()),
        ("details", ("enter",)),
        ("page", ("p",)),
        ("menu", ("f6",)),
        ("prompt", ("slash",)),
        ("confirm", ("d",)),
    ],
)
async def test_every_key_of_the_table_reaches_its_action(where: str, way: tuple[str, ...]) -> None:
    controls = Controls(deepdive=lambda: None, replay=Steered())  # type: ignore[arg-type]
    async with still(controls=controls) as (app, pilot):
        await tap(pilot, *way)
        ran: list[str] = []

        async def note(action: str, *_: object, **__: object) -> bool:
            ran.append(action)
            return True

        app.screen.run_action = note  # type: ignore[method-assign, assignment]
        wanted = []
        for key in keys_for(where):
            for name in key.keys:
                app.screen.post_message(events.Key(name, key_to_character(name)))
                wanted.append(key.action)
        await settle(pilot)
        assert ran == wanted


def test_every_key_of_the_table_is_on_the_help_page() -> None:
    shown = "\n".join("".join(text for text, _ in line) for line in help_page.lines(100, UNICODE))
    for key in KEYS:
        if key.where != (PICKER,):
            assert f" {key.shown} " in shown, key.id


def test_no_key_means_two_things_on_one_screen() -> None:
    for where in ("list", "details", "page", "picker", "menu", "prompt", "confirm"):
        names = [name for key in keys_for(where) for name in key.keys]
        assert len(names) == len(set(names)), where


def test_every_f_key_has_a_letter_or_a_sign() -> None:
    for key in KEYS:
        if key.where not in ((PICKER,), ("prompt",)) and any(
            name.startswith("f") and name[1:].isdigit() for name in key.keys
        ):
            assert any(not (name.startswith("f") and name[1:].isdigit()) for name in key.keys), key.id


def test_every_action_exists_where_its_key_works() -> None:
    from prismtop.tui.picker import PickerScreen
    from prismtop.tui.screens import PanelScreen

    screens = {
        "list": ListScreen, "details": DetailsScreen, "page": HelpScreen, "picker": PickerScreen,
        "menu": PanelScreen, "prompt": ListScreen, "confirm": PanelScreen,
    }  # fmt: skip
    for where, screen in screens.items():
        for key in keys_for(where):
            assert hasattr(screen, f"action_{key.action.split('(')[0]}"), f"{where}: {key.action}"


def test_no_letter_is_taken_from_a_menu() -> None:
    for key in keys_for(MENU):
        assert all(len(name) > 1 for name in key.keys), key.id


def test_a_narrow_footer_keeps_help_pause_and_quit() -> None:
    line = "".join(text for text, _ in footer(LIST, 32).line)
    assert [word for word in ("help", "pause", "quit") if word in line] == ["help", "pause", "quit"]


async def test_a_click_on_the_footer_is_its_key() -> None:
    async with still(120, 40) as (app, pilot):
        place = next(first for first, _, action in footer(LIST, 120).places if action == "alerts")
        await pilot.click("#footer", offset=(place + 1, 0))
        await settle(pilot)
        assert isinstance(app.screen, AlertsScreen)


async def test_a_click_selects_a_row_and_a_second_one_opens_it() -> None:
    async with still() as (app, pilot):
        await pilot.click("#batches", offset=(10, 4))
        await settle(pilot)
        assert app.view.cursor == 3
        await pilot.click("#batches", offset=(10, 4), times=2)
        await settle(pilot)
        assert isinstance(app.screen, DetailsScreen)


async def test_a_click_on_a_heading_sorts_by_it() -> None:
    async with still() as (app, pilot):
        heading = screen_text(app).splitlines()[5]
        await pilot.click("#batches", offset=(heading.index("ctx") + 1, 0))
        await settle(pilot)
        assert app.view.sort == "ctx"


async def test_a_click_on_a_panel_gives_it_the_focus_and_a_second_one_opens_its_page() -> None:
    async with still(120, 40) as (app, pilot):
        await pilot.click("#counters", offset=(10, 1))
        await settle(pilot)
        assert app.view.focus == "counters"
        await pilot.click("#counters", offset=(10, 1), times=2)
        await settle(pilot)
        assert isinstance(app.screen, CountersScreen)


async def test_a_click_on_a_menu_entry_takes_it() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "f6")
        await pilot.click("#overlay", offset=(4, 3))
        await settle(pilot)
        assert app.view.sort == "pid"


async def test_the_wheel_moves_the_selection() -> None:
    async with still() as (app, pilot):
        panel = app.screen.query_one("#batches")
        panel.post_message(events.MouseScrollDown(panel, 5, 5, 0, 1, 0, False, False, False))
        await settle(pilot)
        assert app.view.cursor == 3
