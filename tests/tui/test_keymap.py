"""Keys of the user's own, and the tables made from the keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prismtop.errors import UsageError
from prismtop.settings import load_settings
from prismtop.tui.keymap import Keymap, markdown, textual_name, written
from prismtop.tui.keys import KEYS, LIST
from tests.tui.harness import screen_text, still

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def test_another_key_takes_the_place_of_all_keys_of_its_action() -> None:
    keymap = Keymap({"record": ("ctrl-r", "F7")})
    assert [keymap.key(LIST, name).id for name in ("ctrl+r", "f7")] == ["record", "record"]  # type: ignore[union-attr]
    assert keymap.key(LIST, "R") is None


def test_an_empty_list_takes_a_key_away() -> None:
    assert Keymap({"deepdive": ()}).key(LIST, "d") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recrod": ("x",)}, "did you mean record?"),
        ({"record": ("hyper-x",)}, "is no key"),
        ({"record": ("F99",)}, "is no key"),
        ({"record": ("d",)}, "would be both"),
        ({"quit_anywhere": ()}, "quit_anywhere needs a key"),
    ],
)
def test_a_keymap_that_makes_no_sense_is_refused(changes: dict[str, tuple[str, ...]], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Keymap(changes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/", "slash"), ("?", "question_mark"), ("ctrl-r", "ctrl+r"), ("Ctrl+R", "ctrl+r"), ("F7", "f7"),
        ("-", "minus"), ("+", "plus"), ("esc", "escape"), ("shift-tab", "shift+tab"), ("G", "G"), ("pgdn",
        "pagedown"),
    ],
)  # fmt: skip
def test_keys_are_written_as_people_do(text: str, name: str) -> None:
    assert textual_name(text, "record") == name


def test_what_the_table_shows_is_what_its_keys_are() -> None:
    for key in KEYS:
        shown = [textual_name(word, key.id) for word in key.shown.split()]
        assert set(shown) <= set(key.keys), key.id
        assert {written(name) for name in key.keys} >= set(key.shown.split()), key.id


def test_the_config_file_has_a_table_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[keys]\nrecord = "ctrl-r"\nquit = ["Q", "F12"]\n')
    assert load_settings({}, {}, file).keys == {"record": ("ctrl-r",), "quit": ("Q", "F12")}


@pytest.mark.parametrize("line", ["record = 3", 'record = ["a", 1]', 'record = ""'])
def test_a_key_that_is_no_text_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"tick_hz = 5\n[keys]\n{line}\n")
    with pytest.raises(UsageError) as caught:
        load_settings({}, {}, file)
    assert "config.toml:2" in str(caught.value)


async def test_a_key_of_ones_own_works_and_is_shown_by_help_and_footer() -> None:
    async with still(120, 40, keys={"alerts": ("F8",)}) as (app, pilot):
        assert " F8 alerts" in screen_text(app)
        await pilot.press("f8")
        await pilot.pause()
        assert "limit reason: power cap" in screen_text(app)
        await pilot.press("escape", "f1")
        await pilot.pause()
        assert re.search(r"F8 +Alerts: every episode", screen_text(app))


def test_the_readme_has_the_table_as_it_is() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert BEGIN in text, f"README.md needs the section between {BEGIN} and {END}"
    section = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()
    assert section == markdown().strip(), "put `prismtop.tui.keymap.markdown()` there"
