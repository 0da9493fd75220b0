"""The order of a campaign: every fault before one comes twice, at random, workload controls between them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from prismtop.anomaly.scenario import Scenario
from prismtop.anomaly.scenario_file import Step

INTENSITIES = (0.5, 0.7, 0.9)
CONTROL_EVERY = 4
"""Every fourth episode is a control."""


def make_schedule(
    scenarios: Sequence[Scenario], episodes: int, seed: int, duration_s: float, gap_s: float
) -> tuple[Step, ...]:
    """Steps in the order in which they are run; lengths and gaps vary by a third around their means."""
    rng = random.Random(seed)
    faults = [one for one in scenarios if not one.control]
    controls = [one for one in scenarios if one.control]
    upcoming: dict[bool, list[Scenario]] = {True: [], False: []}
    steps = []
    for number in range(episodes):
        control = bool(controls) and (not faults or number % CONTROL_EVERY == CONTROL_EVERY - 1)
        bag = upcoming[control]
        if not bag:
            bag += controls if control else faults
            rng.shuffle(bag)
        if not bag:
            break
        scenario = bag.pop()
        length, gap = duration_s * rng.uniform(0.67, 1.33), gap_s * rng.uniform(0.67, 1.33)
        intensity = 1.0 if control else rng.choice(INTENSITIES)
        steps.append(Step(scenario, length, intensity, 0.0, rng.randrange(2**31), gap))
    return tuple(steps)
