"""Which key does what: the table of `keys`, with the user's `[keys]` of the config file laid over it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text
from prismtop.tui.keys import KEYS, TITLES, Key

_NAMED = (
    "enter", "escape", "tab", "space", "backspace", "delete", "insert", "up", "down", "left", "right", "home",
    "end", "pageup", "pagedown", *(f"f{number}" for number in range(1, 25)),
)  # fmt: skip
_WRITTEN = {"esc": "escape", "pgup": "pageup", "pgdn": "pagedown", "del": "delete", "return": "enter"}
_MODIFIERS = ("ctrl", "shift", "alt")


class Keymap:
    """The keys in force.

    Args:
        changes: key id -> keys as a person writes them (`"ctrl-r"`, `"F7"`, `"!"`); an empty list takes the
            keys of an action away.

    Raises:
        UsageError: an action that does not exist, a key that cannot be, one key for two actions on one
            screen, or no key left to quit.
    """

    def __init__(self, changes: Mapping[str, Sequence[str]] | None = None) -> None:
        self.keys = _changed(changes or {})
        self._actions: dict[tuple[str, str], Key] = {}
        for key in self.keys:
            for where in key.where:
                for name in key.keys:
                    self._put(where, name, key)

    def _put(self, where: str, name: str, key: Key) -> None:
        other = self._actions.setdefault((where, name), key)
        if other is not key:
            raise UsageError(
                f"[keys]: {written(name)} would be both {other.id} and {key.id} {TITLES[where]}.",
                fix="Give one of them another key.",
            )

    def key(self, where: str, name: str) -> Key | None:
        """What the key of that Textual name does there; None when nothing."""
        return self._actions.get((where, name))

    def of(self, key_id: str) -> Key:
        """An action's entry with the keys in force. Raises KeyError for an unknown id."""
        return next(key for key in self.keys if key.id == key_id)

    def shown(self, key_id: str) -> str:
        """The first key of an action as a person writes it; `-` when it has none."""
        return (self.of(key_id).shown.split() or ["-"])[0]


def _changed(changes: Mapping[str, Sequence[str]]) -> tuple[Key, ...]:
    known = {key.id for key in KEYS}
    for key_id in changes:
        if key_id not in known:
            import difflib

            near = difflib.get_close_matches(key_id, known, n=1)
            raise UsageError(
                f"[keys]: there is no action {safe_text(key_id, 40)}"
                + (f"; did you mean {near[0]}?" if near else "."),
                fix="`prismtop` and F1 list all of them; the ids are in the README.",
            )
    made = []
    for key in KEYS:
        wanted = changes.get(key.id)
        if wanted is None:
            made.append(key)
            continue
        names = tuple(dict.fromkeys(textual_name(text, key.id) for text in wanted))
        made.append(replace(key, keys=names, shown=" ".join(written(name) for name in names)))
    if not any(key.keys for key in made if key.id == "quit_anywhere"):
        raise UsageError("[keys]: quit_anywhere needs a key.", fix='For example quit_anywhere = "F10".')
    return tuple(made)


def textual_name(text: str, key_id: str) -> str:
    """Textual's name of a key that a person wrote. Raises UsageError when there is no such key."""
    if len(text) == 1 and text.isprintable() and text != " ":
        return _character(text)
    *modifiers, last = re.split(r"[-+](?=.)", text.strip())
    last = _WRITTEN.get(last.lower(), last)
    name = last.lower() if last.lower() in _NAMED else _character(last) if len(last) == 1 else ""
    modifiers = [modifier.lower() for modifier in modifiers]
    if not name or any(modifier not in _MODIFIERS for modifier in modifiers):
        raise UsageError(
            f"[keys] {key_id}: {safe_text(text, 40)!r} is no key.",
            fix='Write a character, or a name such as "F7", "ctrl-r", "shift-tab", "space", "pgdn".',
        )
    if "ctrl" in modifiers:
        name = name.lower()
    return "+".join([*modifiers, name])


def _character(character: str) -> str:
    from textual.keys import _character_to_key

    return _character_to_key(character)


def written(name: str) -> str:
    """A Textual key name as a person writes it: `ctrl-r`, `F7`, `/`."""
    *modifiers, last = name.split("+")
    if re.fullmatch(r"f\d+", last):
        last = last.upper()
    elif last in _NAMED:
        last = {"escape": "esc", "pageup": "pgup", "pagedown": "pgdn"}.get(last, last)
    elif len(last) > 1:
        from textual.keys import format_key

        last = format_key(last)
    return "-".join([*modifiers, last])


def markdown(keys: Sequence[Key] = KEYS) -> str:
    """The README's tables: one per kind of screen, every key in the first one where it works."""
    made = []
    seen: set[str] = set()
    for where, title in TITLES.items():
        rows = [key for key in keys if where in key.where and key.id not in seen]
        seen.update(key.id for key in rows)
        if not rows:
            continue
        made += [f"\n{title[0].upper()}{title[1:]}:\n", "| key | does | id |", "|---|---|---|"]
        for key in rows:
            names = " ".join(f"`` {name} ``" if "`" in name else f"`{name}`" for name in key.shown.split())
            made.append(
                f"| {names.replace('|', chr(92) + '|')} | {key.help.replace('|', chr(92) + '|')} | {key.id} |"
            )
    return "\n".join(made).strip() + "\n"
