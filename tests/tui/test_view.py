"""`View`: pause, hold, scrolling, rate; no screen involved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prismtop.model import Replay
from prismtop.tui.view import View
from tests.factories import make_frame

SECOND = 1_000_000_000


def watching(batches: int = 20, height: int = 5) -> View:
    view = View()
    view.accept(make_frame(batches))
    view.resize(height)
    return view


def test_a_paused_view_keeps_its_frame_while_newer_ones_are_taken() -> None:
    view = watching(20)
    view.toggle_pause(0)
    assert view.accept(make_frame(50)) is False
    assert view.frame is not None
    assert view.frame.total_batches == 20


def test_a_paused_view_counts_what_was_collected_since() -> None:
    view = watching(20)
    view.toggle_pause(0)
    view.accept(make_frame(50))
    assert view.missed_batches() == 30


def test_the_age_of_a_pause_grows() -> None:
    view = watching()
    view.toggle_pause(10 * SECOND)
    assert view.paused_s(13 * SECOND) == 3


def test_going_on_shows_the_newest_frame() -> None:
    view = watching(20)
    view.toggle_pause(0)
    view.accept(make_frame(50))
    view.toggle_pause(1)
    assert view.frame is view.latest


def test_moving_the_cursor_holds_the_rows() -> None:
    view = watching(20)
    view.move(1)
    view.accept(make_frame(50))
    assert view.selected is not None
    assert view.selected.seq == 18


def test_moving_up_from_the_newest_row_follows_again() -> None:
    view = watching(20)
    view.move(1)
    view.move(-1)
    view.move(-1)
    view.accept(make_frame(50))
    assert view.selected is not None
    assert view.selected.seq == 49


def test_the_cursor_stays_in_the_list_at_both_ends() -> None:
    view = watching(20)
    view.move(1000)
    assert view.cursor == 19
    view.move(-1000)
    assert view.cursor == 0


def test_the_cursor_is_always_on_a_visible_row() -> None:
    view = watching(20, height=5)
    for step in (7, 3, -6, 9, -2):
        view.move(step)
        assert view.top <= view.cursor < view.top + 5


def test_a_smaller_screen_keeps_the_cursor_visible() -> None:
    view = watching(20, height=10)
    view.select(9)
    view.resize(3)
    assert view.top <= 9 < view.top + 3


def test_a_frame_gets_stale_when_no_other_follows() -> None:
    view = watching()
    assert view.latest is not None
    taken = view.latest.time_ns
    assert view.stale_s(taken + SECOND) is None
    assert view.stale_s(taken + 5 * SECOND) == 5


@pytest.mark.parametrize("ui_hz", [0.2, 0.1])
def test_a_screen_that_is_redrawn_seldom_is_not_stale_between_two_frames(ui_hz: float) -> None:
    view = watching()
    view.ui_hz = ui_hz
    assert view.latest is not None
    taken, period = view.latest.time_ns, int(SECOND / ui_hz)
    assert view.stale_s(taken + period) is None
    assert view.stale_s(taken + 2 * period) == 2 / ui_hz


def test_a_warning_is_kept_once() -> None:
    view = watching()
    view.accept(make_frame(3, warnings=("ring overrun",)), ("ring overrun", "hook dropped"))
    assert list(view.warnings) == ["ring overrun", "hook dropped"]


@pytest.mark.parametrize(
    ("start", "step", "end"), [(2.0, 1, 4.0), (2.0, -1, 1.0), (3.0, 1, 4.0), (10.0, 1, 10.0)]
)
def test_the_rate_moves_along_its_steps(start: float, step: int, end: float) -> None:
    view = View(ui_hz=start)
    view.rate(step)
    assert view.ui_hz == end


def test_the_rate_never_falls_below_its_lowest_step() -> None:
    view = View(ui_hz=0.2)
    view.rate(-1)
    assert view.ui_hz == 0.2


def test_an_empty_list_has_no_selection() -> None:
    view = watching(0)
    view.move(1)
    assert view.selected is None


def test_a_replayed_frame_is_never_stale_because_its_times_are_those_of_the_trace() -> None:
    view, taken = View(), 10 * SECOND
    frame = replace(make_frame(3), time_ns=taken, replay=Replay("a.json", taken, 0, 2 * taken))
    view.accept(frame)
    assert view.stale_s(taken + 500 * SECOND) is None
