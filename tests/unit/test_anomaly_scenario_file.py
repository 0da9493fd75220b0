"""Scenario files: what is read, and every bad input in one sentence with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismtop.anomaly.catalogue import SCENARIOS
from prismtop.anomaly.scenario_file import parse, read
from prismtop.anomaly.schedule import CONTROL_EVERY, make_schedule
from prismtop.errors import UsageError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "scenarios"
STEP = '[[step]]\nscenario = "freeze_bursts"\n'


def test_a_step_has_the_values_of_the_file() -> None:
    text = STEP + "duration_s = 5\nintensity = 0.7\nramp_s = 1.5\nseed = 9\n"
    (step,) = parse(text, "x.toml").steps
    assert (step.duration_s, step.intensity, step.ramp_s, step.seed) == (5.0, 0.7, 1.5, 9)


def test_repetitions_run_the_whole_list_again() -> None:
    assert len(parse("repetitions = 3\n" + STEP, "x.toml").steps) == 3


def test_gaps_lie_in_their_range() -> None:
    steps = parse("gap_s = [2, 3]\nrepetitions = 20\n" + STEP, "x.toml").steps
    assert all(2 <= step.gap_s <= 3 for step in steps)


def test_one_seed_gives_one_order() -> None:
    text = (
        'order = "random"\nseed = 4\nrepetitions = 5\n'
        + STEP
        + '[[step]]\nscenario = "cgroup_cpu_throttling"\n'
    )
    assert parse(text, "a").steps == parse(text, "b").steps


def test_another_seed_gives_another_order() -> None:
    text = 'order = "random"\nseed = {}\nrepetitions = 8\n' + STEP + '[[step]]\nscenario = "disk_pressure"\n'
    orders = {tuple(s.scenario.id for s in parse(text.format(n), "a").steps) for n in range(5)}
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"no \[\[step\]\]"),
        ("nonsense", "not valid TOML"),
        ("colour = 1\n" + STEP, "x.toml:1: `colour` is not known"),
        (STEP + "duration = 5\n", "x.toml:3: `duration` is not known"),
        ('[[step]]\nscenario = "freeze_burst"\n', "x.toml:2: there is no scenario"),
        ("[[step]]\nduration_s = 5\n", "`scenario` is missing"),
        (STEP + "duration_s = 0\n", "x.toml:3: `duration_s` is 0"),
        (STEP + "duration_s = 601\n", "number from 0.1 to 600"),
        (STEP + "duration_s = nan\n", "`duration_s` is nan"),
        (STEP + "duration_s = true\n", "`duration_s` is True"),
        (STEP + 'intensity = "high"\n', "`intensity` is high"),
        (STEP + "duration_s = 2\nramp_s = 3\n", "x.toml:4: `ramp_s` is 3"),
        ("gap_s = [3, 2]\n" + STEP, "x.toml:1: `gap_s`"),
        ("gap_s = [1]\n" + STEP, "`gap_s`"),
        ('order = "sorted"\n' + STEP, "one of random, given"),
        ("repetitions = 0\n" + STEP, "x.toml:1: `repetitions` is 0"),
        ("step = 3\n", "tables"),
        (STEP + "seed = 1.5\n", "`seed` is 1.5"),
    ],
)
def test_bad_input_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(text, "x.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read(file)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "x.toml")


def test_an_endless_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="larger"):
        read(file)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path) -> None:
    assert read(file).steps


def test_there_are_examples() -> None:
    assert len(list(EXAMPLES.glob("*.toml"))) >= 3


def test_a_schedule_runs_every_fault_before_one_comes_twice() -> None:
    faults = [one for one in SCENARIOS if not one.control][:4]
    steps = make_schedule(faults, 4, 1, 5.0, 10.0)
    assert {step.scenario.id for step in steps} == {one.id for one in faults}


def test_a_schedule_has_controls_between_the_faults() -> None:
    steps = make_schedule(SCENARIOS, 12, 1, 5.0, 10.0)
    assert [n for n, step in enumerate(steps) if step.scenario.control] == [
        n for n in range(12) if n % CONTROL_EVERY == CONTROL_EVERY - 1
    ]
