"""Every key, once. Dispatch, footer, help page and the README's section are all made from `KEYS`."""

from __future__ import annotations

from dataclasses import dataclass

LIST = "list"
DETAILS = "details"
PAGE = "page"
PICKER = "picker"
MENU = "menu"
PROMPT = "prompt"
CONFIRM = "confirm"
EVERYWHERE = (LIST, DETAILS, PAGE)

TITLES = {
    LIST: "in the list",
    DETAILS: "on the details of a batch",
    PAGE: "on a page",
    MENU: "in a menu",
    PROMPT: "while typing a search, a filter or a place to go to",
    CONFIRM: "when asked for a confirmation",
    PICKER: "when choosing an engine",
}
"""The kinds of screen, as help and README call them, in their order."""

PANELS = ("rates", "slo", "prediction", "counters", "ranks", "alerts", "stages", "probe", "footer")
"""The panels that 1 to 9 show and hide."""
PANEL_TITLES = {
    "rates": "throughput and latency",
    "slo": "objectives (SLO) and headroom",
    "prediction": "predicted versus actual",
    "counters": "counters of host, GPU and interconnect",
    "ranks": "ranks side by side",
    "alerts": "alerts with their causes",
    "stages": "time by stage",
    "probe": "hooks, losses, warnings",
    "footer": "this line of keys",
}


@dataclass(frozen=True)
class Key:
    """One action and the keys that do it.

    Attributes:
        id: stable name, for the keymap in the config file.
        keys: Textual key names.
        shown: the keys as a person writes them.
        label: one or two words for the footer.
        help: a sentence for the help screen.
        action: method name of the screen or app, without `action_`.
        where: kinds of screen on which it works.
        footer: rank in the footer, 1 is kept longest; 0 is: not in the footer.
        replay: it works on a replay only.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    action: str
    where: tuple[str, ...]
    footer: int = 0
    replay: bool = False


KEYS: tuple[Key, ...] = (
    Key("help", ("f1", "h", "question_mark"), "F1 h ?", "help", "This page.", "help", (LIST, DETAILS), 1),
    Key(
        "pause",
        ("space",),
        "space",
        "pause",
        "Freeze the view; batches are collected on. Again: back to now. In a replay: pause and play it.",
        "pause",
        EVERYWHERE,
        2,
    ),
    Key(
        "details",
        ("enter",),
        "enter",
        "details",
        "The selected batch: stages on a timeline, workload, neighbours. With the focus on another panel: "
        "its page.",
        "details",
        (LIST,),
        9,
    ),
    Key("choose", ("enter",), "enter", "watch", "Watch the selected engine.", "choose", (PICKER,), 1),
    Key(
        "deepdive",
        ("d",),
        "d",
        "DeepDive",
        "DeepDive: capture everything for a moment, as one trace. Asks first: it costs the engine. Again: "
        "cancel it.",
        "deepdive",
        EVERYWHERE,
        4,
    ),
    Key(
        "capture",
        ("D",),
        "D",
        "capture",
        "The latest DeepDive: what it cost, every layer, where the file is.",
        "capture",
        (LIST, DETAILS),
    ),
    Key(
        "record",
        ("R",),
        "R",
        "record",
        "Record a trace, from the minutes before; again: stop.",
        "record",
        EVERYWHERE,
        5,
    ),
    Key(
        "alerts",
        ("A",),
        "A",
        "alerts",
        "Alerts: every episode, its causes in order, and what to check.",
        "alerts",
        (LIST, DETAILS),
        6,
    ),
    Key(
        "filter",
        ("slash", "f4", "backslash"),
        "/ F4 \\",
        "filter",
        "Show only rows that contain a text, or that match: dur>20 & mode==decode.",
        "filter",
        (LIST,),
        7,
    ),
    Key(
        "search",
        ("f3", "f"),
        "F3 f",
        "search",
        "Go to the next row with a text, or that matches an expression; again: the one after. esc: a new "
        "search.",
        "search",
        (LIST,),
        13,
    ),
    Key(
        "sort",
        ("f6", "s"),
        "F6 s",
        "sort",
        "Sort by a column.",
        "sort",
        (LIST,),
        8,
    ),
    Key("sort_left", ("less_than_sign",), "<", "sort left", "Sort by the column to the left.",
        "sort_by(-1)", (LIST,)),
    Key("sort_right", ("greater_than_sign",), ">", "sort right", "Sort by the column to the right.",
        "sort_by(1)", (LIST,)),
    Key("invert", ("I",), "I", "invert", "Turn the order around.", "invert", (LIST,)),
    Key("export", ("e",), "e", "export", "Write what is shown to a file: JSON, CSV, or an SVG screenshot.",
        "export", EVERYWHERE, 10),
    Key("tree", ("f5", "t"), "F5 t", "tree", "The engine's processes as a tree.", "tree",
        (LIST, DETAILS), 11),
    Key("setup", ("f2", "S"), "F2 S", "setup",
        "Theme, rate, characters, mouse, panels; saves them to the config file.", "setup", EVERYWHERE, 12),
    Key(
        "probe",
        ("p",),
        "p",
        "probe",
        "Processes and hooks: how each is measured, or why not; lost records, warnings.",
        "hooks",
        (LIST, DETAILS),
        15,
    ),
    Key("counters", ("C",), "C", "counters", "Every counter with its history, or why it cannot be read.",
        "counters", (LIST, DETAILS), 16),
    Key("model", ("m",), "m", "model", "The latency model: state, accuracy, what it uses; objectives.",
        "model", (LIST, DETAILS), 17),
    Key("next_anomaly", ("n",), "n", "anomaly",
        "The next slow batch, down the list. In a replay: play to the next anomaly.", "anomaly(1)",
        (LIST, DETAILS), 14),
    Key("previous_anomaly", ("N",), "N", "previous anomaly",
        "The previous slow batch, up the list. In a replay: back to the previous anomaly.", "anomaly(-1)",
        (LIST, DETAILS)),
    Key("goto", ("g",), "g", "go to",
        "Go to a batch by number, by time (14:32:07), or by place (50%). In a replay: to any time of it.",
        "goto", (LIST, DETAILS), 18),
    Key("palette", ("colon", "ctrl+p"), ": ctrl-p", "commands",
        "Every command by name; themes are previewed as the selection moves.", "palette", EVERYWHERE, 19),
    Key("compact", ("c",), "c", "compact", "More batches, fewer panels; again: back.", "compact",
        (LIST,), 20),
    Key("faster", ("plus", "equals_sign"), "+ =", "faster", "Redraw more often.", "faster", EVERYWHERE, 21),
    Key("slower", ("minus", "underscore"), "- _", "slower", "Redraw less often.", "slower", EVERYWHERE, 22),
    Key("focus", ("tab",), "tab", "panel", "Focus the next panel; arrows scroll it, enter opens its page.",
        "focus_panel(1)", (LIST,)),
    Key("focus_back", ("shift+tab",), "shift-tab", "panel back", "Focus the previous panel.",
        "focus_panel(-1)", (LIST,)),
    *(
        Key(f"panel_{number}", (str(number),), str(number), name, f"Show or hide: {PANEL_TITLES[name]}.",
            f"panel({number})", (LIST,))
        for number, name in enumerate(PANELS, 1)
    ),
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
        ("home",),
        "home",
        "first",
        "The first line; in the list the newest batch, which is followed again.",
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
    Key("clear", ("escape",), "esc", "clear",
        "Drop focus, search, filter, then the held rows: one per press.", "clear", (LIST,)),
    Key("newer", ("left",), "left", "newer", "The batch after this one.", "neighbour(-1)", (DETAILS,), 4),
    Key("older", ("right",), "right", "older", "The batch before this one.", "neighbour(1)", (DETAILS,), 5),
    Key(
        "back",
        ("escape", "q", "backspace"),
        "esc q",
        "back",
        "Back to the list.",
        "back",
        (DETAILS, PAGE),
        3,
    ),
    Key("step_forward", ("full_stop",), ".", "step", "Replay: pause, and one batch on.", "replay_step(1)",
        (LIST, DETAILS), 23, replay=True),
    Key("step_back", ("comma",), ",", "step back", "Replay: pause, and one batch back.", "replay_step(-1)",
        (LIST, DETAILS), replay=True),
    Key("replay_faster", ("right_square_bracket",), "]", "faster", "Replay: faster.", "replay('faster')",
        (LIST, DETAILS), 24, replay=True),
    Key("replay_slower", ("left_square_bracket",), "[", "slower", "Replay: slower.", "replay('slower')",
        (LIST, DETAILS), 25, replay=True),
    Key("skip_forward", ("right_curly_bracket",), "}", "+10 s", "Replay: ten seconds on.", "replay_skip(10)",
        (LIST, DETAILS), replay=True),
    Key("skip_back", ("left_curly_bracket",), "{", "-10 s", "Replay: ten seconds back.", "replay_skip(-10)",
        (LIST, DETAILS), replay=True),
    Key("mark", ("b",), "b", "A-B", "Replay: set A, then B, and loop between them; again: forget both.",
        "replay_mark", (LIST, DETAILS), 26, replay=True),
    Key("loop", ("L",), "L", "loop", "Replay: start again at the end, or stop there.",
        "replay('toggle_loop')", (LIST, DETAILS), replay=True),
    Key(
        "redraw",
        ("ctrl+l",),
        "ctrl-l",
        "redraw",
        "Draw the whole screen again.",
        "redraw",
        (*EVERYWHERE, PICKER),
    ),
    Key("suspend", ("ctrl+z",), "ctrl-z", "suspend",
        "To the shell; `fg` comes back. Away for longer than the lease (10 s), the probe removes itself.",
        "suspend", EVERYWHERE),
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
        (*EVERYWHERE, PICKER, MENU, PROMPT, CONFIRM),
    ),
    Key("menu_up", ("up",), "up", "up", "One entry up.", "overlay_move(-1)", (MENU,)),
    Key("menu_down", ("down", "tab"), "down", "down", "One entry down.", "overlay_move(1)", (MENU,)),
    Key("menu_page_up", ("pageup",), "pgup", "page up", "One page up.", "overlay_page(-1)", (MENU,)),
    Key("menu_page_down", ("pagedown",), "pgdn", "page down", "One page down.", "overlay_page(1)", (MENU,)),
    Key("menu_choose", ("enter",), "enter", "choose", "Take the entry. Letters narrow the list.",
        "overlay_choose", (MENU,), 1),
    Key("menu_close", ("escape",), "esc", "close", "Leave without choosing; a previewed theme goes back.",
        "overlay_close", (MENU,), 2),
    Key("prompt_take", ("enter",), "enter", "take", "Take what was typed; nothing typed takes it away.",
        "prompt_take", (PROMPT,), 1),
    Key("prompt_leave", ("escape",), "esc", "leave", "Leave everything as it was.", "prompt_leave",
        (PROMPT,), 2),
    Key("prompt_switch", ("tab",), "tab", "search/filter", "Switch between search and filter.",
        "prompt_switch", (PROMPT,), 3),
    Key("prompt_next", ("f3", "down"), "F3 down", "next", "The next match of what is being searched.",
        "prompt_find(1)", (PROMPT,)),
    Key("prompt_previous", ("up",), "up", "previous", "The previous match.", "prompt_find(-1)", (PROMPT,)),
    Key("prompt_empty", ("ctrl+u",), "ctrl-u", "empty", "Empty the line.", "prompt_empty", (PROMPT,)),
    Key("confirm_yes", ("y", "enter"), "y enter", "yes", "Do it.", "overlay_choose", (CONFIRM,), 1),
    Key("confirm_no", ("n", "escape", "q"), "n esc", "no", "Do not.", "overlay_close", (CONFIRM,), 2),
)  # fmt: skip


_LIST_FOOTER = ("faster", "slower", "deepdive", "record", "export", "setup", "palette")
"""Work on every screen, but only the list's footer has room for them."""
_LIVE = ("deepdive", "record")
"""Of no use in a replay."""


def keys_for(where: str) -> tuple[Key, ...]:
    """The keys that work on one kind of screen, in the table's order."""
    return tuple(key for key in KEYS if where in key.where)


def footer_keys(where: str, keys: tuple[Key, ...] = KEYS, replay: bool = False) -> tuple[Key, ...]:
    """The keys that the footer of that screen shows, most important first."""
    shown = [
        key
        for key in keys
        if where in key.where
        and key.footer
        and key.keys
        and (where == LIST or key.id not in _LIST_FOOTER)
        and (key.id not in _LIVE if replay else not key.replay)
    ]
    if replay:  # steering comes first
        return tuple(sorted(shown, key=lambda key: (key.footer > 3, not key.replay, key.footer)))
    return tuple(sorted(shown, key=lambda key: key.footer))
