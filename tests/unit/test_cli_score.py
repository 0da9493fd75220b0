"""`prismtop score` on a trace of our own: batches and injected faults come from the same file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.cli import main
from prismtop.trace.events import Encoder
from prismtop.trace.own import GroundTruth
from tests.factories import MS, make_batch, make_frame
from tests.unit.trace_files import write

START = 10**12
STEP = 8 * MS


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config and cache of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def labelled(path: Path, *, slow: range, effect: str) -> Path:
    """400 decode batches of 8 ms, some of them of 16, and one injected fault over just those."""
    encoder = Encoder(make_frame())
    lines, now, first, last = encoder.header(), START, 0, 0
    for seq in range(400):
        took = STEP * (2 if seq in slow else 1)
        batch = make_batch(seq, start_ns=now, duration_ns=took, period_ns=took, stages=())
        lines = [*lines, *encoder.events_of(replace(make_frame(), time_ns=now + took, new_batches=(batch,)))]
        first, last = (first or now, now + took) if seq in slow else (first, last)
        now += took
    lines = [*lines, *encoder.ground_truth(
        GroundTruth("cpu_squeeze", first, last - first, make_batch(0).pid, {"effect_check": effect})
    )]  # fmt: skip
    return write(path, "[\n" + ",\n".join(lines) + "\n]")


def score_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["score", "--json", str(path)]) == 0
    made: dict[str, object] = json.loads(capsys.readouterr().out)
    return made


def test_a_fault_that_doubles_every_step_is_found_batch_by_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = score_of(labelled(tmp_path / "t.json", slow=range(300, 340), effect="slower"), capsys)
    assert made["batches"] == 400
    assert made["recall"] == 1.0
    assert isinstance(made["episodes"], dict)
    assert (made["episodes"]["hits"], made["episodes"]["misses"]) == (1, 0)


def test_a_fault_that_had_no_effect_is_no_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = labelled(tmp_path / "t.json", slow=range(300, 301), effect="no effect")
    made = score_of(path, capsys)
    assert isinstance(made["episodes"], dict)
    assert made["episodes"]["misses"] == 0
