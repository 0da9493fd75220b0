"""The footer: the keys that fit, and which cell belongs to which action."""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.tui.keys import KEYS, Key, footer_keys
from prismtop.tui.look import Line, Span


@dataclass(frozen=True)
class Footer:
    """A footer line and where its keys are: (first cell, cell after the last, action)."""

    line: Line
    places: tuple[tuple[int, int, str], ...]

    def action_at(self, x: int) -> str | None:
        """Action of the key at cell `x`."""
        return next((action for first, end, action in self.places if first <= x < end), None)


def footer(
    where: str,
    width: int,
    labels: dict[str, str] | None = None,
    keys: tuple[Key, ...] = KEYS,
    replay: bool = False,
) -> Footer:
    """Keys of that kind of screen, most important first, as many as fit; `labels` replaces some by key id."""
    labels = labels or {}
    spans: list[Span] = []
    places: list[tuple[int, int, str]] = []
    at = 0
    for key in footer_keys(where, keys, replay):
        name, label = f" {_first(key)} ", f"{labels.get(key.id, key.label)} "
        if at + len(name) + len(label) > width:
            break
        spans += [(name, "key"), (label, "keylabel")]
        places.append((at, at + len(name) + len(label), key.action))
        at += len(name) + len(label)
    spans.append((" " * max(0, width - at), "keylabel"))
    return Footer(tuple(spans), tuple(places))


def _first(key: Key) -> str:
    return key.shown.split()[0]
