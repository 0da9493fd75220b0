"""Why a GPU's clock is not higher: the bits of `gpu_clock_limits_bitmask` in words."""

from __future__ import annotations

from functools import lru_cache

IDLE = 0x1
CLOCK_LIMITS = {
    IDLE: "idle",
    0x2: "clocks set by the administrator",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clock setting",
    0x200: "board limit",
    0x400: "reliability voltage",
}
"""nvmlClocksEventReason* and nvmlClocksThrottleReason* (nvml.h)."""
HARMFUL = 0x4 | 0x8 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400
"""Bits that mean: it could be faster, were it not for power or heat."""


@lru_cache(maxsize=64)
def clock_limit_words(bits: int) -> str:
    """The reasons in words, `none` when nothing limits the clock."""
    words = [word for bit, word in CLOCK_LIMITS.items() if bits & bit]
    rest = bits & ~sum(CLOCK_LIMITS)
    if rest:
        words.append(f"unknown reason {rest:#x}")
    return ", ".join(words) or "none"
