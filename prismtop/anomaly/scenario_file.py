"""Scenario files: several experiments in a row, as TOML.

seed = 7                 # of the order and of everything random
order = "random"         # or "given"
repetitions = 2          # of the whole list
gap_s = [8, 15]          # undisturbed seconds between two steps: a number, or from and to

[[step]]
scenario = "cgroup_cpu_throttling"
duration_s = 5
intensity = 0.7
ramp_s = 1
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from prismtop.anomaly.catalogue import scenario as scenario_named
from prismtop.anomaly.scenario import MAX_DURATION_S, Scenario
from prismtop.errors import UsageError
from prismtop.safe_text import safe_text
from prismtop.targets.toml_table import Lines, Table, Where

_MOST_BYTES = 1 << 20
_MOST_STEPS = 1000
_DEFAULT_GAP_S = (8.0, 12.0)


@dataclass(frozen=True)
class Step:
    """One experiment of a file: what, how long, how strong, and the undisturbed seconds before it."""

    scenario: Scenario
    duration_s: float
    intensity: float
    ramp_s: float
    seed: int
    gap_s: float


@dataclass(frozen=True)
class ScenarioFile:
    """A file as read: its steps in the order in which they are run."""

    name: str
    steps: tuple[Step, ...]

    @property
    def length_s(self) -> float:
        """Seconds that it takes."""
        return sum(step.gap_s + step.duration_s for step in self.steps)


def read(path: Path) -> ScenarioFile:
    """Read a file and lay its steps out.

    Raises:
        UsageError: it cannot be read, is no TOML, or a value is wrong; with file, line and what was expected.
    """
    shown = safe_text(str(path), 200)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror}.") from None
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{shown} is larger than a scenario file can be ({_MOST_BYTES >> 20} MB).")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{shown} is not UTF-8 text.", fix="Save it as UTF-8.") from None
    return parse(text, shown)


def parse(text: str, name: str) -> ScenarioFile:
    """The same from a text. Raises UsageError."""
    from prismtop.toml_text import TOMLDecodeError, loads

    try:
        data = loads(text)
    except (TOMLDecodeError, RecursionError) as error:
        said = safe_text(str(error), 200)
        raise UsageError(f"{name} is not valid TOML: {said}.", fix="Correct that line.") from None
    lines = Lines(text)

    def fail(path: Where, problem: str, expected: str) -> NoReturn:
        raise UsageError(f"{name}:{lines.of(path)}: {problem}; {expected}.", fix="Correct that line.")

    top = Table(data, (), fail, False)
    seed = top.integer("seed", 0, 0, 2**31 - 1)
    order = top.choice("order", ("random", "given"), "given")
    repetitions = top.integer("repetitions", 1, 1, 100)
    gap = _gap(top)
    planned = [_planned(table) for table in top.tables("step")]
    top.end(("gap_s",))
    if not planned:
        top.fail("", "there is no [[step]]", "at least one is needed")
    if len(planned) * repetitions > _MOST_STEPS:
        top.fail("repetitions", "that is too many steps", f"at most {_MOST_STEPS} were expected")
    rng = random.Random(seed)
    steps: list[Step] = []
    for _ in range(repetitions):
        turn = list(planned)
        if order == "random":
            rng.shuffle(turn)
        for scenario, duration_s, intensity, ramp_s, own_seed in turn:
            number = own_seed if own_seed is not None else rng.randrange(2**31)
            steps.append(Step(scenario, duration_s, intensity, ramp_s, number, rng.uniform(*gap)))
    return ScenarioFile(name, tuple(steps))


def _planned(table: Table) -> tuple[Scenario, float, float, float, int | None]:
    name = table.text("scenario", None)
    try:
        scenario = scenario_named(name)
    except UsageError as error:
        table.fail("scenario", error.message.rstrip("."), error.fix.rstrip(".") or "a known id was expected")
    duration_s = _number(table, "duration_s", 30.0, 0.1, MAX_DURATION_S)
    intensity = _number(table, "intensity", 0.5, 0.0, 1.0)
    ramp_s = _number(table, "ramp_s", 0.0, 0.0, duration_s)
    seed = table.integer("seed", -1, -1, 2**31 - 1)
    table.end(("duration_s", "intensity", "ramp_s"))
    return scenario, duration_s, intensity, ramp_s, None if seed < 0 else seed


def _number(table: Table, key: str, default: float, low: float, high: float) -> float:
    value = table.data.get(key, default)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits:
        table.fail(
            key, f"`{key}` is {safe_text(value, 40)}", f"a number from {low:g} to {high:g} was expected"
        )
    return float(value)


def _gap(table: Table) -> tuple[float, float]:
    value = table.data.get("gap_s", list(_DEFAULT_GAP_S))
    pair = value if isinstance(value, list) else [value, value]
    numbers = [n for n in pair if isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n <= 3600]
    if len(pair) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
        table.fail(
            "gap_s", f"`gap_s` is {safe_text(value, 40)}", "seconds, or [from, to], up to 3600 were expected"
        )
    return float(numbers[0]), float(numbers[1])
