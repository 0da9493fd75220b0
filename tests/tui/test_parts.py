"""Parts of the screen without a screen: layout, sparklines, menus, places to go to, the config file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismtop.errors import PrismtopError, UsageError
from prismtop.model import Clock
from prismtop.tui import config_file
from prismtop.tui.app import chosen_panels, panels_text
from prismtop.tui.chart import chart, history_spark, spark, window_end
from prismtop.tui.goto import Place, parse_place, row_of
from prismtop.tui.layout import Wish, heights
from prismtop.tui.look import ASCII, UNICODE
from prismtop.tui.overlay import Entry, Overlay
from prismtop.tui.panels.prediction import range_for
from tests.factories import make_batch

CLOCK = Clock(wall_minus_mono_ns=1_764_238_000 * 10**9)
SECOND = 10**9

# layout

WISHES = [Wish("a", 1, 6, 1), Wish("b", 2, 20, 6, 36), Wish("c", 1, 10, 8, 36)]


@given(st.integers(1, 100), st.booleans(), st.dictionaries(st.sampled_from("abc"), st.booleans()))
def test_panels_never_take_more_than_there_is(screen: int, compact: bool, chosen: dict[str, bool]) -> None:
    made = heights(screen, 2, WISHES, chosen, compact, ("a",))
    assert sum(made.values()) + 2 <= max(screen, 2)
    assert all(made[name] == 0 for name, shown in chosen.items() if not shown)


def test_a_panel_that_is_asked_for_is_shown_on_a_screen_that_is_too_low_for_it_by_itself() -> None:
    assert heights(12, 2, WISHES, {}, False, ())["b"] == 0
    assert heights(12, 2, WISHES, {"b": True}, False, ())["b"] == 2


def test_the_list_keeps_its_share_when_panels_grow() -> None:
    made = heights(60, 2, [Wish("x", 1, 1, 60, 36)], {}, False, ())
    assert 60 - 2 - made["x"] >= 24


# sparklines and charts


def test_a_window_moves_in_steps() -> None:
    ends = [window_end(now, 40) for now in range(100, 200)]
    assert all(end - 40 <= now < end for now, end in zip(range(100, 200), ends, strict=True))
    assert len(set(ends)) <= 11


def test_a_sparkline_stands_still_while_it_fills() -> None:
    values = [float(i % 7) for i in range(240)]
    first, second = (
        history_spark(values, 1000, 12, UNICODE),
        history_spark([*values[1:], 3.0], 1001, 12, UNICODE),
    )
    same = sum(one == other for one, other in zip(first, second, strict=True))
    assert same >= 10


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), max_size=50),
    st.integers(0, 10**6),
    st.integers(0, 40),
)
def test_a_sparkline_has_its_width_whatever_it_shows(
    values: list[float | None], now: int, width: int
) -> None:
    assert len(history_spark(values, now, width, UNICODE)) == width


def test_a_gap_is_blank_and_the_lowest_value_is_not() -> None:
    assert spark([0.0, None, 8.0], 0.0, 8.0, UNICODE) == "▁ █"


def test_later_series_lie_on_top() -> None:
    cells = chart([([1.0, 1.0], "band"), ([1.0, None], "actual")], 1, 2, 0.0, 2.0, UNICODE)
    assert {role for row in cells for text, role in row if text != " "} == {"actual"}
    plain = chart([([0.0], "band"), ([2.0], "actual")], 1, 2, 0.0, 2.0, ASCII)
    assert [[text for text, _ in row] for row in plain] == [["*"], ["."]]


def test_the_chart_keeps_its_scale_while_it_fits() -> None:
    first = range_for([8.0, 9.0], (0.0, 0.0))
    assert first[0] < 8.0 < 9.0 < first[1]
    assert range_for([8.1, 8.9], first) == first
    assert range_for([8.0, 30.0], first)[1] > 30


def test_one_bad_second_does_not_flatten_the_others() -> None:
    low, high = range_for([*[8.0, 9.0] * 20, 940.0], (0.0, 0.0))
    assert low < 8.0
    assert high < 30.0


# menus


def menu(*titles: str) -> Overlay:
    return Overlay("menu", lambda: [Entry(title, lambda: None) for title in titles])


def test_letters_narrow_a_menu_best_first() -> None:
    made = menu("redraw more often", "the draw", "draw", "due raw", "other")
    made.typed = "draw"
    assert [entry.title for entry in made.entries] == ["draw", "the draw", "redraw more often", "due raw"]


def test_a_menu_that_nothing_fits_says_so() -> None:
    made = menu("one")
    made.typed = "zzz"
    assert "nothing of that name" in "".join(text for line in made.lines(40, 5, UNICODE) for text, _ in line)
    assert made.current is None


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 40))
def test_a_menu_draws_exactly_its_size(width: int, height: int, cursor: int) -> None:
    made = menu(*(f"entry {i}" for i in range(30)))
    made.cursor = cursor
    cells, rows = made.size(width, height)
    lines = made.lines(cells, rows, UNICODE)
    assert cells <= width
    assert len(lines) == rows <= height
    assert all(sum(len(text) for text, _ in line) == cells for line in lines)


# places

NOON = int(time.mktime((2025, 11, 27, 12, 0, 0, 0, 0, -1))) * SECOND - CLOCK.wall_minus_mono_ns


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1041", Place(seq=1041)),
        ("50%", Place(fraction=0.5)),
        (" 0% ", Place(fraction=0.0)),
        ("12:00", Place(time_ns=NOON)),
        ("12:00:07.5", Place(time_ns=NOON + 7_500_000_000)),
        ("23:59:59", Place(time_ns=NOON + 43_199 * SECOND)),
    ],
)
def test_places_are_numbers_parts_or_times(text: str, place: Place) -> None:
    assert parse_place(text, CLOCK, NOON) == place


def test_a_time_of_day_means_the_closest_one() -> None:
    shortly_after_midnight = NOON + 12 * 3600 * SECOND + 60 * SECOND
    found = parse_place("23:59", CLOCK, shortly_after_midnight).time_ns
    assert found == NOON + (11 * 3600 + 59 * 60) * SECOND


@pytest.mark.parametrize("text", ["noon", "101%", "-5%", "25:00", "12:61", "1.5", "%"])
def test_other_places_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_place(text, CLOCK, NOON)


def test_the_closest_row_is_found_and_a_batch_that_is_gone_is_not() -> None:
    rows = [make_batch(seq, seq * SECOND) for seq in (40, 30, 20, 10)]
    assert row_of(Place(seq=21), rows) == 2
    assert row_of(Place(seq=50), rows) is None
    assert row_of(Place(time_ns=29 * SECOND), rows) == 1
    assert row_of(Place(fraction=1.0), rows) == 3
    assert row_of(Place(fraction=1.0), []) is None


# config file


def test_settings_are_changed_where_they_are_and_added_before_the_first_table() -> None:
    text = "# mine\ntheme = 'nord'  # nice\n\n[keys]\ntheme = 'x'\n"
    made = config_file.changed(text, {"theme": "light", "ui_hz": 4.0})
    assert made == "# mine\ntheme = \"light\"\nui_hz = 4.0\n\n[keys]\ntheme = 'x'\n"


def test_an_empty_file_gets_them() -> None:
    assert config_file.changed("", {"ascii": True}) == "ascii = true\n"


@pytest.mark.parametrize("text", ["theme = \n", "[theme]\nx = 1\n", 'a = """\ntheme = 1\n"""\n'])
def test_a_file_that_is_not_understood_is_left_alone(text: str) -> None:
    with pytest.raises(UsageError):
        config_file.changed(text, {"theme": "light"})


def test_saving_keeps_mode_and_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "config.toml"
    real.write_text("tick_hz = 5.0\n")
    real.chmod(0o640)
    link.symlink_to(real)
    config_file.save(link, {"theme": "light"})
    assert link.is_symlink()
    assert real.read_text() == 'tick_hz = 5.0\ntheme = "light"\n'
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "real.toml"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrismtopError) as caught:
        config_file.save(tmp_path / "file" / "config.toml", {"theme": "light"})
    assert "cannot be written" in str(caught.value)


# panels as a setting


def test_panels_are_a_setting() -> None:
    assert chosen_panels("-stages +ranks") == {"stages": False, "ranks": True}
    assert panels_text(chosen_panels("-stages, +ranks")) == "-stages +ranks"
    assert chosen_panels("auto") == {}
    assert panels_text({}) == "auto"


@pytest.mark.parametrize("text", ["stages", "+nothing", "-"])
def test_panels_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        chosen_panels(text)
