"""Arithmetic on SGR parameters (ECMA-48 8.3.117): what a rendition is, and the shortest way to another."""

from __future__ import annotations

import re
from functools import lru_cache

_LEVELS = (0, 95, 135, 175, 215, 255)
_RGB = re.compile(r"([34])8;2;(\d+);(\d+);(\d+)")
# What shows on a blank cell: underline, reverse, strike-through, double underline, frames, overline.
_SHOWS_ON_BLANK = frozenset(("4", "7", "9", "21", "51", "52", "53"))


@lru_cache(4096)
def shortened(sgr: str) -> str:
    """The same parameters with colours that xterm's 256-colour palette has exactly written as `38;5;n`.

    The cube (16 to 231) and the greys (232 to 255) are the same in every terminal that has them, and what
    draws 24-bit colours has them.
    """
    return _RGB.sub(_palette, sgr)


def _palette(match: re.Match[str]) -> str:
    red, green, blue = (int(match[i]) for i in (2, 3, 4))
    if red == green == blue and 8 <= red <= 238 and (red - 8) % 10 == 0:
        return f"{match[1]}8;5;{232 + (red - 8) // 10}"
    if red in _LEVELS and green in _LEVELS and blue in _LEVELS:
        number = 16 + 36 * _LEVELS.index(red) + 6 * _LEVELS.index(green) + _LEVELS.index(blue)
        return f"{match[1]}8;5;{number}"
    return match[0]


@lru_cache(4096)
def parsed(sgr: str) -> tuple[frozenset[str], str, str]:
    """Split parameters into attributes, foreground and background ("" is the terminal's default)."""
    codes = [code or "0" for code in sgr.split(";")] if sgr else []
    attributes: set[str] = set()
    colours = {"3": "", "4": ""}
    at = 0
    while at < len(codes):
        code = codes[at]
        if code in ("38", "48"):
            size = 5 if at + 1 < len(codes) and codes[at + 1] == "2" else 3
            colours[code[0]] = ";".join(codes[at : at + size])
            at += size
            continue
        number = int(code)
        if number == 0:
            attributes.clear()
            colours = {"3": "", "4": ""}
        elif 30 <= number <= 37 or 90 <= number <= 97:
            colours["3"] = code
        elif 40 <= number <= 47 or 100 <= number <= 107:
            colours["4"] = code
        elif number in (39, 49):
            colours[code[0]] = ""
        else:
            attributes.add(code)
        at += 1
    return frozenset(attributes), colours["3"], colours["4"]


@lru_cache(4096)
def blank(sgr: str) -> str:
    """The part of a rendition that a blank cell shows."""
    attributes, foreground, background = parsed(sgr)
    shown = attributes & _SHOWS_ON_BLANK
    return ";".join([*sorted(shown), *filter(None, (foreground if shown else "", background))])


@lru_cache(4096)
def transition(before: str, after: str) -> str:
    """The shortest SGR sequence that turns one rendition into another; both given as SGR parameters."""
    old, old_fg, old_bg = parsed(before)
    new, new_fg, new_bg = parsed(after)
    if (old, old_fg, old_bg) == (new, new_fg, new_bg):
        return ""
    if not (new or new_fg or new_bg):
        return "\x1b[m"
    whole = ";".join(["0", *sorted(new), *filter(None, (new_fg, new_bg))])
    if old - new:
        return f"\x1b[{whole}m"
    codes = sorted(new - old)
    if new_fg != old_fg:
        codes.append(new_fg or "39")
    if new_bg != old_bg:
        codes.append(new_bg or "49")
    delta = ";".join(codes)
    return f"\x1b[{min(delta, whole, key=len)}m"
