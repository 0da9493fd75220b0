"""Two traces against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import prismtop.cli as cli
from prismtop.diagnosis.captures import KEPT, Capture, Spread, evidence_of
from prismtop.diagnosis.ranking import NAMED, rank
from prismtop.model import Batch, Counter
from tests.factories import make_batch
from tests.unit.diagnosis_world import NOTHING, SECOND, Fault, World, make_counter
from tests.unit.test_diagnosis_live import FAULTS, THREAD
from tests.unit.trace_files import recording

ROLES = {4242: "engine_core", 77: "frontend", 78: "tokenizer_worker"}


def nouns(fault: Fault = NOTHING, *, pid: int = 4242) -> Iterator[Batch | Counter]:
    """A trace of 20 s, all of it with the fault."""
    for frame in World(fault, quiet_s=0, fault_s=20, after_s=0).frames():
        yield from frame.new_batches
        for reading in frame.new_counters[:]:
            device = reading.device.replace("4242", str(pid))
            yield make_counter(reading.name, reading.value, reading.time_ns, device)


def diagnose(before: Sequence[object], after: Sequence[object], pid: int = 4242) -> list[tuple[str, float]]:
    roles = {**ROLES, pid: "engine_core"}
    evidence = evidence_of(Capture(ROLES).read(before), Capture(roles).read(after))
    return [(cause.id, cause.score) for cause in rank(evidence)]


@pytest.mark.parametrize("cause", ["cpu_contention", "gpu_clock_limited", "pcie_saturation", "kv_cache_full"])
def test_a_fault_in_the_second_trace_is_named_first(cause: str) -> None:
    first, score = diagnose(list(nouns()), list(nouns(FAULTS[cause])))[0]
    assert (first, score >= NAMED) == (cause, True)


def test_the_same_trace_twice_names_nothing() -> None:
    assert diagnose(list(nouns()), list(nouns()))[0][0] == "unknown"


def test_processes_of_two_runs_are_matched_by_role_although_their_pids_differ() -> None:
    after = list(nouns(FAULTS["cpu_contention"], pid=999))
    assert diagnose(list(nouns()), after, pid=999)[0][0] == "cpu_contention"


def test_predictions_of_the_second_trace_do_not_hide_that_it_is_slower() -> None:
    known = Fault(**{**vars(FAULTS["cpu_contention"]), "expected": True})
    assert diagnose(list(nouns()), list(nouns(known)))[0][0] == "cpu_contention"


def test_another_workload_is_a_change_of_the_workload() -> None:
    named = [
        id_
        for id_, score in diagnose(list(nouns()), list(nouns(FAULTS["workload_change"])))
        if score >= NAMED
    ]
    assert named == ["workload_change"]


def test_a_long_trace_is_kept_in_part_and_evenly() -> None:
    spread: Spread[int] = Spread()
    for number in range(50 * KEPT):
        spread.add(lambda number=number: number)  # type: ignore[misc]
    gaps = {after - before for before, after in zip(spread.items, spread.items[1:], strict=False)}
    assert len(spread.items) <= KEPT
    assert len(gaps) == 1
    assert spread.items[-1] >= 49 * KEPT


def test_readings_of_several_threads_become_the_highest_of_each_round() -> None:
    def readings(high: float) -> list[object]:
        made: list[object] = [make_batch()]
        for second in range(10):
            made.append(make_counter("thread_runq_wait_ratio", 0.01, second * SECOND, "pid 4242 tid 1"))
            made.append(make_counter("thread_runq_wait_ratio", high, second * SECOND + 1, THREAD))
        return made

    evidence = evidence_of(Capture(ROLES).read(readings(0.02)), Capture(ROLES).read(readings(0.5)))
    (effect,) = evidence.effects["thread_runq_wait_ratio"]
    assert (effect.before, effect.after, effect.device) == (0.02, 0.5, "engine_core")


def test_two_recordings_are_compared_by_diagnose_and_by_diff(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = []
    for name, fault in (("before", NOTHING), ("after", FAULTS["cpu_contention"])):
        frames = list(World(fault, quiet_s=0, fault_s=20, after_s=0).frames())
        paths.append(str(recording(tmp_path / f"{name}.json", frames)))
    for command, code in (("diagnose", 0), ("diff", 1)):
        assert cli.main([command, *paths, "--json"]) == code
        causes = json.loads(capsys.readouterr().out)["causes"]
        assert causes[0]["id"] == "cpu_contention"


def test_a_file_that_is_no_trace_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"hello": "world"}))
    code = cli.main(["diagnose", str(path), str(path)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("prismtop: ")
    assert "Traceback" not in err
