"""Colour themes: one TOML file each, shipped with prismtop or put into the config directory by the user."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.color import Color
from rich.style import Style
from textual.theme import BUILTIN_THEMES, Theme

import prismtop
from prismtop.errors import UsageError
from prismtop.safe_text import safe_text
from prismtop.tui.look import ROLES, UNICODE, Glyphs, Look

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser under its older name
    import tomli as tomllib

DEFAULT = "prismtop"
NO_COLOUR = "monochrome"
"""Used when NO_COLOR is set: it draws with bold, dim and reverse only."""

_FIELDS = (
    "primary", "secondary", "warning", "error", "success",
    "accent", "foreground", "background", "surface", "panel",
)  # fmt: skip
_FLAGS = ("bold", "dim", "italic", "underline", "reverse")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}|ansi_(?:bright_)?[a-z]+")


@dataclass(frozen=True)
class ThemeFile:
    """A theme as its file says it.

    Attributes:
        name: unique, `[a-z0-9-]+`; what the setting `theme` takes.
        title: shown to a person.
        textual: colours of Textual's own parts.
        styles: role -> Rich style with foreground and background.
        cursor: laid over the selected row.
    """

    name: str
    title: str
    textual: Theme
    styles: dict[str, Style]
    cursor: Style

    def look(self, glyphs: Glyphs = UNICODE) -> Look:
        """This theme with a character set."""
        return Look(self.styles, self.cursor, glyphs)


def theme_dirs(config_dir: Path | None) -> tuple[Path, ...]:
    """Where themes are: in the installed package, or beside a checkout's package; then the user's."""
    package = Path(prismtop.__file__).parent
    shipped = next(
        (d for d in (package / "themes", package.parent / "themes") if d.is_dir()), package / "themes"
    )
    return (shipped, config_dir / "themes") if config_dir else (shipped,)


def load_themes(dirs: Iterable[Path]) -> tuple[dict[str, ThemeFile], tuple[str, ...]]:
    """Read every `*.toml` of `dirs`; later directories override by name.

    Returns:
        The themes by name, and one sentence per file that could not be used: a broken theme must not keep
        anyone from seeing the screen.
    """
    themes: dict[str, ThemeFile] = {}
    problems: list[str] = []
    for directory in dirs:
        for path in sorted(directory.glob("*.toml")) if directory.is_dir() else ():
            try:
                theme = load_theme(path)
            except UsageError as error:
                problems.append(str(error))
            else:
                themes[theme.name] = theme
    return themes, tuple(problems)


def load_theme(path: Path) -> ThemeFile:
    """Read one theme file.

    Raises:
        UsageError: the file cannot be read, is no TOML, or lacks or misspells something; names file and key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{safe_text(str(path))}: not a readable theme: {safe_text(str(error))}.") from None
    reader = _Reader(path, table)
    name = reader.text("name")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise reader.wrong("name", "lower-case letters, digits and hyphens")
    ansi = reader.flag("ansi", False)
    colours = {field: reader.colour("colors", field) for field in _FIELDS}
    background = _rich(colours["background"])
    foreground = _rich(colours["foreground"])
    styles = {role: reader.style(role, foreground, background) for role in ROLES}
    # Textual's own styles ask for variables that only its own themes for native colours define.
    variables = dict(BUILTIN_THEMES["ansi-dark"].variables) if ansi else {}
    fields: dict[str, Any] = {**colours, "variables": variables}
    textual = Theme(name=f"prismtop-{name}", dark=reader.flag("dark", True), ansi=ansi, **fields)
    return ThemeFile(name, reader.text("title"), textual, styles, reader.overlay("cursor"))


@dataclass(frozen=True)
class _Reader:
    """Typed access to one file's table; every complaint names the file and the key."""

    path: Path
    table: dict[str, Any]

    def wrong(self, key: str, expected: str) -> UsageError:
        return UsageError(f"{safe_text(str(self.path))}: {safe_text(key)} must be {expected}.")

    def text(self, key: str) -> str:
        value = self.table.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a text")
        return safe_text(value, 60)

    def flag(self, key: str, default: bool) -> bool:
        value = self.table.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def _table(self, name: str) -> dict[str, Any]:
        value = self.table.get(name)
        if not isinstance(value, dict):
            raise self.wrong(f"[{name}]", "a table")
        return value

    def colour(self, section: str, key: str) -> str:
        value = self._table(section).get(key)
        if not isinstance(value, str) or not _known_colour(value):
            raise self.wrong(
                f"{section}.{key}", "a colour: #rrggbb, or ansi_NAME in a theme with ansi = true"
            )
        return value

    def style(self, role: str, foreground: Color, background: Color) -> Style:
        section, _, key = role.rpartition(".")
        table = {"stage": "stages", "mode": "modes", "": "roles"}[section]
        words = self._table(table).get(key)
        return Style.from_color(foreground, background) + self._words(f"{table}.{key}", words)

    def overlay(self, key: str) -> Style:
        return self._words(f"roles.{key}", self._table("roles").get(key))

    def _words(self, key: str, words: object) -> Style:
        """`"#rrggbb on #rrggbb bold"`: a colour, a background after `on`, flags; each may be left out."""
        if not isinstance(words, str):
            raise self.wrong(key, 'a style such as "#rrggbb bold" or "ansi_black on ansi_cyan"')
        style = Style()
        on = False
        for word in words.split():
            if word == "on":
                on = True
            elif word in _FLAGS:
                style += Style.parse(word)
            elif _known_colour(word):
                style += Style(bgcolor=_rich(word)) if on else Style(color=_rich(word))
                on = False
            else:
                raise self.wrong(key, f"colours (#rrggbb, ansi_NAME), 'on', and {', '.join(_FLAGS)}")
        return style


def _known_colour(value: str) -> bool:
    if not _COLOUR.fullmatch(value):
        return False
    try:
        _rich(value)
    except Exception:
        return False
    return True


def _rich(value: str) -> Color:
    return Color.parse(value.removeprefix("ansi_"))


def choose(themes: dict[str, ThemeFile], wanted: str, *, no_colour: bool) -> ThemeFile:
    """The theme of that name; under NO_COLOR the one without colours.

    Raises:
        UsageError: there is no such theme; the sentence lists those that exist.
    """
    name = NO_COLOUR if no_colour and NO_COLOUR in themes else wanted
    if name not in themes:
        known = ", ".join(sorted(themes)) or "none was found"
        raise UsageError(f"There is no theme {safe_text(wanted, 40)!r}.", fix=f"Use one of: {known}.")
    return themes[name]
