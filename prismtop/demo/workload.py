"""What the load generator asks for, and when: a seeded stream of arrivals."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PATTERNS = ("mixed", "steady", "burst")

MIN_PROMPT_TOKENS, MAX_PROMPT_TOKENS = 8, 512
MIN_OUTPUT_TOKENS, MAX_OUTPUT_TOKENS = 8, 128
_SHIFT_S = 8.0
_SHIFTS = (0.25, 0.5, 1.0, 1.25, 2.0)
_BURST_PERIOD_S, _BURST_LENGTH_S = 10.0, 2.0
_BURST_HIGH, _BURST_LOW = 4.0, 0.25


@dataclass(frozen=True)
class Arrival:
    """One request to send, ``at_s`` seconds after the start."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


def arrivals(rate: float, seed: int, pattern: str) -> Iterator[Arrival]:
    """Endless Poisson arrivals whose mean over time is ``rate`` requests per second.

    ``steady`` keeps the rate; ``mixed`` moves it every 8 s between 0.25 and 2 times; ``burst`` runs 2 s of
    every 10 s at 4 times and the rest at 0.25 times. A varying rate is sampled by thinning (Lewis and
    Shedler 1979). Prompt and output lengths are lognormal, clipped to 8..512 and 8..128 tokens. Raises
    ValueError for a rate that is not positive and finite, or a pattern that does not exist.
    """
    if not (math.isfinite(rate) and rate > 0.0):
        raise ValueError(f"rate must be a positive number of requests per second, got {rate}")
    factor, highest = _rate_factor(pattern, seed)
    return _thinned(rate, random.Random(seed), factor, highest)


def _rate_factor(pattern: str, seed: int) -> tuple[Callable[[float], float], float]:
    """The rate's multiplier as a function of the second, and its largest value."""

    def steady(at_s: float) -> float:
        return 1.0

    def burst(at_s: float) -> float:
        return _BURST_HIGH if at_s % _BURST_PERIOD_S < _BURST_LENGTH_S else _BURST_LOW

    def mixed(at_s: float) -> float:
        turn, index = divmod(int(at_s / _SHIFT_S), len(_SHIFTS))
        return random.Random(seed * 1_000_003 + turn).sample(_SHIFTS, len(_SHIFTS))[index]

    if pattern == "steady":
        return steady, 1.0
    if pattern == "burst":
        return burst, _BURST_HIGH
    if pattern == "mixed":
        return mixed, max(_SHIFTS)
    raise ValueError(f"unknown pattern {pattern!r}; there are {', '.join(PATTERNS)}")


def _thinned(
    rate: float, rng: random.Random, factor: Callable[[float], float], highest: float
) -> Iterator[Arrival]:
    at_s = 0.0
    while True:
        at_s += rng.expovariate(rate * highest)
        if rng.random() * highest < factor(at_s):
            prompt = _lognormal(rng, 64.0, 1.0, MIN_PROMPT_TOKENS, MAX_PROMPT_TOKENS)
            output = _lognormal(rng, 40.0, 0.7, MIN_OUTPUT_TOKENS, MAX_OUTPUT_TOKENS)
            yield Arrival(at_s, prompt, output)


def _lognormal(rng: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    return min(high, max(low, round(rng.lognormvariate(math.log(median), sigma))))
