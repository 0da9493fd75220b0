"""The menus: sort, export, setup, themes, every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.errors import PrismtopError
from prismtop.tui.fields import FIELDS
from prismtop.tui.keys import PANEL_TITLES, PANELS, Key
from prismtop.tui.overlay import Entry, Overlay
from prismtop.tui.view import RATES_HZ

if TYPE_CHECKING:
    from prismtop.tui.app import PrismtopApp
    from prismtop.tui.screens import PanelScreen

EXPORTS = (
    ("JSON lines: the rows of the list", "json", "as `prismtop watch --json`"),
    ("CSV: the rows of the list", "csv", "a column per value"),
    ("SVG: a picture of this screen", "svg", "for a report or an issue"),
)


def sort(screen: PanelScreen) -> Overlay:
    """A field to sort the list by."""
    view = screen.owner.view

    def by(name: str) -> Callable[[], None]:
        def choose() -> None:
            view.sort_by(name)
            screen.redraw()

        return choose

    def entries() -> list[Entry]:
        return [
            Entry(field.name + (" (now: turns the order around)" if field.name == view.sort else ""),
                  by(field.name), field.meaning)
            for field in FIELDS
        ]  # fmt: skip

    names = [field.name for field in FIELDS]
    return Overlay("sort by", entries, at=names.index(view.sort))


def export(screen: PanelScreen) -> Overlay:
    """JSON, CSV, SVG."""
    owner = screen.owner

    def to(kind: str) -> Callable[[], None]:
        return lambda: owner.export(kind)

    return Overlay("export", lambda: [Entry(title, to(kind), hint) for title, kind, hint in EXPORTS])


def themes(screen: PanelScreen) -> Overlay:
    """Themes; the screen shows each as the selection comes to it."""
    owner = screen.owner
    before = owner.theme_file.name
    return Overlay(
        "theme",
        lambda: _theme_entries(owner, ""),
        on_leave=lambda: owner.use_theme(before),
        at=sorted(owner.themes).index(before) if before in owner.themes else 0,
    )


def _theme_entries(owner: PrismtopApp, prefix: str) -> list[Entry]:
    def use(name: str) -> Callable[[], None]:
        return lambda: owner.use_theme(name)

    return [
        Entry(f"{prefix}{name}", use(name), owner.themes[name].title, preview=use(name))
        for name in sorted(owner.themes)
    ]


def palette(screen: PanelScreen) -> Overlay:
    """Every command that works here, then the themes."""
    owner = screen.owner
    before = owner.theme_file.name

    def run(action: str) -> Callable[[], None]:
        def choose() -> None:
            owner.use_theme(before)  # a theme may have been previewed on the way
            screen.call_later(screen.run_action, action)

        return choose

    def entries() -> list[Entry]:
        made = [
            Entry(_named(key), run(key.action), key.shown.split()[0])
            for key in owner.keymap.keys
            if screen.WHERE in key.where and key.shown and key.id not in ("palette", "up", "down")
            and (owner.controls.replay is not None or not key.replay)
        ]  # fmt: skip
        return made + _theme_entries(owner, "theme: ")

    return Overlay("command", entries, on_leave=lambda: owner.use_theme(before))


def _named(key: Key) -> str:
    sentence = key.help.split(". ")[0].rstrip(".")
    return sentence if sentence.startswith(f"{key.label}:") else f"{key.label}: {sentence}"


def setup(screen: PanelScreen) -> Overlay:
    """What can be set while it runs; the last entry saves it."""
    owner, view = screen.owner, screen.owner.view

    def faster() -> None:
        higher = [hz for hz in RATES_HZ if hz > view.ui_hz]
        owner.set_rate(higher[0] if higher else RATES_HZ[0])

    def compact() -> None:
        view.compact = not view.compact
        owner.redraw()

    def cycle(name: str) -> Callable[[], None]:
        def choose() -> None:
            now = view.panels.get(name)
            if now is None:
                view.panels[name] = False
            elif now:
                view.panels.pop(name)
            else:
                view.panels[name] = True
            owner.redraw()

        return choose

    def save() -> None:
        try:
            owner.say(f"saved to {owner.save_setup()}")
        except (PrismtopError, OSError) as error:
            owner.say(f"not saved: {error}", "error")
        screen.redraw()

    def panel_hint(name: str) -> str:
        state = view.panels.get(name)
        return "when there is room" if state is None else "always" if state else "never"

    def entries() -> list[Entry]:
        return [
            Entry("theme", lambda: screen.open_overlay(themes(screen)), owner.theme_file.name),
            Entry("redraws per second", faster, f"{view.ui_hz:g}", keep_open=True),
            Entry("characters", owner.toggle_ascii, "ASCII" if owner.plain else "Unicode", keep_open=True),
            Entry("mouse", owner.toggle_mouse, "on" if owner.mouse else "off: the terminal selects text",
                  keep_open=True),
            Entry("compact", compact, "on" if view.compact else "off", keep_open=True),
            *(
                Entry(f"panel {number}: {PANEL_TITLES[name]}", cycle(name), panel_hint(name), keep_open=True)
                for number, name in enumerate(PANELS, 1)
            ),
            Entry("save to the config file", save, "theme, rate, characters, mouse, panels"),
        ]  # fmt: skip

    return Overlay("setup", entries)
