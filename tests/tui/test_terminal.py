"""`CellDiff`: the terminal looks the same, and gets fewer bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.drivers.linux_driver import LinuxDriver

from prismtop.tui.rendition import blank, parsed, shortened, transition
from prismtop.tui.terminal import CellDiff
from tests.tui.harness import StillApp

COLUMNS, ROWS = 20, 5
STYLES = (
    "", "1", "38;2;95;175;255;48;2;18;18;18", "1;38;2;95;175;255;48;2;18;18;18", "38;2;1;2;3;48;2;18;18;18",
    "31", "7;31;44", "4;38;5;9", "2",
)  # fmt: skip


class Terminal:
    """A small terminal: absolute and relative cursor movement, SGR, text. Anything else fails the test."""

    def __init__(self) -> None:
        self.cells = [[(" ", "")] * COLUMNS for _ in range(ROWS)]
        self.x = self.y = 0
        self.sgr = ""

    def feed(self, data: str) -> None:
        for move, sgr, mode, other, text in re.findall(
            r"\x1b\[([\d;]*[HBCD])|\x1b\[([\d;]*)m|(\x1b\[\?\d+[hl])|([\x00-\x1f])|([^\x00-\x1f]+)", data
        ):
            if move:
                self._move(move[-1], [int(n) if n else 0 for n in move[:-1].split(";")])
            elif other:
                assert other in "\b\n", f"unexpected control {other!r}"
                self.x, self.y = (max(0, self.x - 1), self.y) if other == "\b" else (0, self.y + 1)
            elif text:
                for character in text:
                    assert self.x < COLUMNS, "wrote past the last column"
                    self.cells[self.y][self.x] = (character, self.sgr)
                    self.x += 1
            elif not mode:
                self.sgr = "" if sgr in ("", "0") else f"{self.sgr};{sgr}" if self.sgr else sgr

    def _move(self, kind: str, numbers: list[int]) -> None:
        first = max(1, numbers[0])
        if kind == "H":
            self.y, self.x = first - 1, max(1, numbers[1] if len(numbers) > 1 else 1) - 1
        elif kind == "B":
            assert self.x < COLUMNS, "moved from behind the last column"
            self.y += first
        else:
            assert self.x < COLUMNS, "moved from behind the last column"
            self.x += first if kind == "C" else -first

    def looks(self) -> list[list[object]]:
        """What a person sees: a blank has no foreground."""
        return [
            [(c, parsed(shortened(blank(s) if c == " " else s))) for c, s in row]
            for row in self.cells
        ]  # fmt: skip


@st.composite
def paints(draw: st.DrawFn) -> str:
    """A whole repaint or some spans, as Textual writes them."""
    data = ""
    for _ in range(draw(st.integers(1, 6))):
        y, x = draw(st.integers(0, ROWS - 1)), draw(st.integers(0, COLUMNS - 1))
        data += f"\x1b[{y + 1};{x + 1}H"
        while x < COLUMNS and draw(st.booleans()):
            text = draw(st.text("ab █░", min_size=1, max_size=8))[: COLUMNS - x]
            style = draw(st.sampled_from(STYLES))
            data += f"\x1b[{style}m{text}\x1b[0m" if style else text
            x += len(text)
    return data


def full_paint(style: str = "38;2;95;175;255;48;2;18;18;18") -> str:
    return "".join(f"\x1b[{y + 1};1H\x1b[{style}m{'x' * COLUMNS}\x1b[0m" for y in range(ROWS))


@settings(max_examples=400, deadline=None)
@given(st.lists(paints(), min_size=1, max_size=8))
def test_the_terminal_looks_as_if_everything_had_been_sent(writes: list[str]) -> None:
    plain, thrifty, cells = Terminal(), Terminal(), CellDiff()
    for data in [full_paint(), *writes]:
        plain.feed(data)
        thrifty.feed(cells.reduce(data))
        assert thrifty.looks() == plain.looks()


def test_the_same_picture_again_costs_nothing() -> None:
    cells = CellDiff()
    cells.reduce(full_paint())
    assert cells.reduce(full_paint()) == ""


def test_one_changed_cell_is_one_move_and_one_character() -> None:
    cells = CellDiff()
    cells.reduce("\x1b[1;1H\x1b[31mabcdef\x1b[0m")
    assert cells.reduce("\x1b[1;1H\x1b[31mabXdef\x1b[0m") == "\x1b[1;3HX"


def test_after_forget_everything_goes_out_again() -> None:
    cells = CellDiff()
    first = cells.reduce(full_paint())
    cells.forget()
    assert cells.reduce(full_paint()) == first


@pytest.mark.parametrize(
    "sequence", ["\x1b[?1049h", "\x1b[2J", "\x1b[K", "\x1bc", "\x1b[3S", "\r", "\x1b[1L"]
)
def test_what_may_alter_cells_passes_through_and_forgets(sequence: str) -> None:
    cells = CellDiff()
    cells.reduce(full_paint())
    assert cells.reduce(sequence) == sequence
    assert cells.reduce(full_paint()) != ""


@pytest.mark.parametrize(
    "sequence", ["\x1b[?2026h", "\x1b[?25l", "\x1b[?2026$p", "\x1b[>25u", "\x1b]0;title\x07", "\x1b[6n"]
)
def test_what_leaves_the_cells_alone_passes_through_and_is_remembered_past(sequence: str) -> None:
    cells = CellDiff()
    cells.reduce(full_paint())
    assert cells.reduce(sequence + full_paint()) == sequence


def test_a_row_with_wide_characters_is_sent_whole_every_time() -> None:
    cells = CellDiff()
    line = "\x1b[2;1H模型 a\x1b[2;8Hb"
    cells.reduce(line)
    assert "模型 a" in cells.reduce(line)


def test_passed_through_sequences_keep_their_place_between_texts() -> None:
    assert CellDiff().reduce("\x1b[1;1Ha\x1b[?25lb").index("a") < CellDiff().reduce(
        "\x1b[1;1Ha\x1b[?25lb"
    ).index("?25l")


def test_exact_palette_colours_become_short_and_others_stay() -> None:
    assert shortened("1;38;2;95;175;255;48;2;18;18;18") == "1;38;5;75;48;5;233"
    assert shortened("38;2;1;2;3") == "38;2;1;2;3"


@pytest.mark.parametrize("before", STYLES)
@pytest.mark.parametrize("after", STYLES)
def test_a_transition_ends_in_the_rendition_asked_for(before: str, after: str) -> None:
    codes = re.sub(r"\x1b\[([\d;]*)m", r"\1", transition(before, after)) if before != after else None
    reached = before if codes is None else parsed(f"{before};{codes or '0'}" if before else codes or "0")
    assert (parsed(reached) if isinstance(reached, str) else reached) == parsed(after)


class WrittenDown(LinuxDriver):
    """Textual's driver of a terminal that is not there."""

    def __init__(self, *, mouse: bool) -> None:
        self._mouse = mouse
        self.sent = ""

    def write(self, data: str) -> None:
        self.sent += data

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("started_with", [True, False])
def test_the_mouse_is_taken_and_left_whatever_it_was_started_with(started_with: bool) -> None:
    app = StillApp(no_mouse=not started_with)
    app._driver = driver = WrittenDown(mouse=started_with)
    for on in (not started_with, started_with, not started_with):
        driver.sent = ""
        app.toggle_mouse()
        assert ("\x1b[?1003h" in driver.sent, "\x1b[?1003l" in driver.sent) == (on, not on)
        driver.sent = ""
        driver._enable_mouse_support()  # as when it comes back from the shell
        assert bool(driver.sent) is on
