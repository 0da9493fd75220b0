"""Every key, once. The bindings, the footer and the help screen are all made from `KEYS`."""

from __future__ import annotations

from dataclasses import dataclass

LIST = "list"
DETAILS = "details"
PAGE = "page"
PICKER = "picker"
EVERYWHERE = (LIST, DETAILS, PAGE)


@dataclass(frozen=True)
class Key:
    """One action and the keys that do it.

    Attributes:
        id: stable name, for a keymap in the config file.
        keys: Textual key names.
        shown: the keys as a person writes them.
        label: one or two words for the footer.
        help: a sentence for the help screen.
        action: method name of the screen or app, without `action_`.
        where: kinds of screen on which it works.
        footer: rank in the footer, 1 is kept longest; 0 is: not in the footer.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    action: str
    where: tuple[str, ...]
    footer: int = 0


KEYS: tuple[Key, ...] = (
    Key("help", ("f1", "h", "question_mark"), "F1 h ?", "help", "This page.", "help", (LIST, DETAILS), 1),
    Key(
        "pause",
        ("space",),
        "space",
        "pause",
        "Freeze the view; batches are collected on. Again: back to now.",
        "pause",
        (LIST, DETAILS, PAGE),
        2,
    ),
    Key(
        "details",
        ("enter",),
        "enter",
        "details",
        "The selected batch: stages on a timeline, workload, neighbours.",
        "details",
        (LIST,),
        4,
    ),
    Key("choose", ("enter",), "enter", "watch", "Watch the selected engine.", "choose", (PICKER,), 1),
    Key(
        "hooks",
        ("p",),
        "p",
        "probe",
        "Processes and hooks: how each is measured, or why not; lost records, warnings.",
        "hooks",
        (LIST,),
        5,
    ),
    Key("newest", ("n",), "n", "newest", "Follow the newest batch again.", "newest", (LIST,), 6),
    Key("compact", ("c",), "c", "compact", "More batches, fewer panels; again: back.", "compact", (LIST,), 7),
    Key("faster", ("plus", "equals_sign"), "+", "faster", "Redraw more often.", "faster", EVERYWHERE, 8),
    Key("slower", ("minus", "underscore"), "-", "slower", "Redraw less often.", "slower", EVERYWHERE, 9),
    Key(
        "up",
        ("up", "k"),
        "up k",
        "up",
        "One line up. In the list this holds the rows still.",
        "move(-1)",
        (*EVERYWHERE, PICKER),
    ),
    Key(
        "down",
        ("down", "j"),
        "down j",
        "down",
        "One line down. In the list this holds the rows still.",
        "move(1)",
        (*EVERYWHERE, PICKER),
    ),
    Key("page_up", ("pageup",), "pgup", "page up", "One page up.", "page(-1)", (*EVERYWHERE, PICKER)),
    Key("page_down", ("pagedown",), "pgdn", "page down", "One page down.", "page(1)", (*EVERYWHERE, PICKER)),
    Key(
        "home",
        ("home", "g"),
        "home g",
        "first",
        "The first line; in the list the newest batch.",
        "home",
        (*EVERYWHERE, PICKER),
    ),
    Key(
        "end",
        ("end", "G"),
        "end G",
        "last",
        "The last line; in the list the oldest batch kept.",
        "end",
        (*EVERYWHERE, PICKER),
    ),
    Key("newer", ("left",), "left", "newer", "The batch after this one.", "neighbour(-1)", (DETAILS,), 4),
    Key("older", ("right",), "right", "older", "The batch before this one.", "neighbour(1)", (DETAILS,), 5),
    Key(
        "back",
        ("escape", "q", "backspace"),
        "esc q",
        "back",
        "Back to the list (details, probe, help).",
        "back",
        (DETAILS, PAGE),
        3,
    ),
    Key(
        "redraw",
        ("ctrl+l",),
        "ctrl-l",
        "redraw",
        "Draw the whole screen again.",
        "redraw",
        (*EVERYWHERE, PICKER),
    ),
    Key(
        "quit",
        ("q",),
        "q",
        "quit",
        "Quit; on a page: back. The probe is removed.",
        "leave",
        (LIST, PICKER),
        3,
    ),
    Key(
        "quit_anywhere",
        ("f10", "ctrl+c", "ctrl+q"),
        "F10 ctrl-c",
        "quit",
        "Quit from anywhere.",
        "leave",
        (*EVERYWHERE, PICKER),
    ),
)


_LIST_FOOTER = ("faster", "slower")
"""Work everywhere, but only the list's footer has room for them."""


def keys_for(where: str) -> tuple[Key, ...]:
    """The keys that work on one kind of screen, in the table's order."""
    return tuple(key for key in KEYS if where in key.where)


def footer_keys(where: str) -> tuple[Key, ...]:
    """The keys that the footer of that screen shows, most important first."""
    shown = [
        key for key in keys_for(where) if key.footer and (where == LIST or key.action not in _LIST_FOOTER)
    ]
    return tuple(sorted(shown, key=lambda key: key.footer))
