"""Numbers as the screen writes them: fixed widths, units apart, missing values never 0."""

from __future__ import annotations

NA = "n/a"
DASH = "-"


def milliseconds(value: float | None, missing: str = DASH) -> str:
    """A duration given in ms with three or four digits: `0.21`, `8.12`, `41.3`, `812`, `12.3s`."""
    if value is None:
        return missing
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    if value < 9999.5:
        return f"{value:.0f}"
    return f"{value / 1000:.1f}s" if value < 999_950 else f"{value / 1000:.0f}s"


def nanoseconds(value: int | None, missing: str = DASH) -> str:
    """A duration given in ns, written in ms."""
    return milliseconds(None if value is None else value / 1e6, missing)


def count(value: float | None, width: int = 6, missing: str = DASH) -> str:
    """A count of at most `width` characters: exact while it fits, then `12.3k`, `1.2M`."""
    if value is None:
        return missing
    exact = str(value) if isinstance(value, int) else f"{value:.0f}"
    if len(exact) <= width:
        return exact
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        for digits in (1, 0):
            text = f"{value / size:.{digits}f}{unit}"
            if len(text) <= width and value / size < 1000:
                return text
    return exact[: width - 1] + "+"


def rate(value: float | None, missing: str = NA) -> str:
    """A rate per second: one digit after the point below 100, none above, thousands separated."""
    if value is None:
        return missing
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def percent(fraction: float | None, digits: int = 0, missing: str = NA) -> str:
    """A fraction 0..1 in percent with its sign: `21%`."""
    return missing if fraction is None else f"{fraction * 100:.{digits}f}%"


def seconds(value: float) -> str:
    """An age: `4 s`, `3 m 20 s`, `2 h 05 m`."""
    whole = int(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
