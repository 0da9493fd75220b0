"""Which panel gets how many lines of a screen. Everything that matters fits 24 lines; no size is refused."""

from __future__ import annotations

from dataclasses import dataclass

LIST_SHARE = 0.4
"""The list keeps at least this part of the screen when panels grow."""


@dataclass(frozen=True)
class Wish:
    """What a panel would like.

    Attributes:
        name: of the panel.
        least: lines at which it says anything.
        since: screen height from which it is shown by itself.
        most: lines that it can fill.
        grown: screen height from which it may have `most`; below it has `least`.
    """

    name: str
    least: int
    since: int
    most: int
    grown: int = 0


def heights(
    screen: int, fixed: int, wishes: list[Wish], chosen: dict[str, bool], compact: bool, kept: tuple[str, ...]
) -> dict[str, int]:
    """Lines per panel; 0 is: not shown.

    Args:
        screen: lines of the terminal.
        fixed: lines of what is always there.
        wishes: in the order in which panels are given lines.
        chosen: panels that the user wants (True) or does not want (False) whatever the size.
        compact: only the panels of `kept`, at their least.
        kept: what stays in compact.
    """
    made = {wish.name: 0 for wish in wishes}
    left = screen - fixed - (4 if screen >= 12 else 1)  # heading and three rows of the list
    for wish in wishes:
        want = chosen.get(wish.name)
        by_itself = screen >= wish.since and wish.most > 0 and (not compact or wish.name in kept)
        if want is False or not (want or by_itself):
            continue
        least = max(1, wish.least)
        if least <= left:
            made[wish.name] = least
            left -= least
    if compact:
        return made
    spare = left - (round(screen * LIST_SHARE) - 4)
    for wish in wishes:
        if made[wish.name] and screen >= wish.grown and wish.most > wish.least:
            more = min(wish.most - made[wish.name], max(0, spare))
            made[wish.name] += more
            spare -= more
    return made
