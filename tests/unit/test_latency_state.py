"""What a model keeps between sessions, and what it makes of files that it should not believe."""

from __future__ import annotations

import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from prismtop.latency.judge import LatencyJudge
from prismtop.latency.state import Key, Store, gpu_names, key_of
from prismtop.model import AttachState, Batch, Group, Mode, ModelState
from prismtop.settings import Settings
from prismtop.sources.tick import SourceTick
from tests.factories import make_group, make_target
from tests.unit.latency_load import Load, Told, decode_ms, errors


def judge_of(directory: Path, group: Group | None = None) -> LatencyJudge:
    return LatencyJudge(Settings(), group or make_group(), inline=True, store=Store(directory))


def kept(directory: Path, batches: int = 400, group: Group | None = None) -> Load:
    """A session's state on disk; the load, to go on with."""
    load, judge = Load(), judge_of(directory, group)
    Told(judge).take(load.decode(batches))
    assert judge.close() == ()
    return load


def test_a_restored_model_is_right_from_the_first_batch(tmp_path: Path) -> None:
    load = kept(tmp_path)
    made = Told(judge_of(tmp_path)).take(load.decode(30))
    assert len(errors(made)) == 30
    assert median(errors(made)) < 0.02


def test_a_restored_model_judges_after_a_few_batches(tmp_path: Path) -> None:
    load, told = kept(tmp_path), Told(judge_of(tmp_path))
    told.take(load.decode(20))
    assert told.judge.card().state is ModelState.READY
    assert told.judge.card().origin == "restored"


def test_a_state_of_another_gpu_is_scaled_to_this_one(tmp_path: Path) -> None:
    kept(tmp_path, group=make_group(version="0.32.0"))
    slower = Load(seed=4, cost=lambda size, context: 3.0 * (20 + 0.05 * size + 1e-4 * context))
    told = Told(judge_of(tmp_path))
    made = told.take(slower.decode(60))
    assert median(errors(made[10:])) < 0.05
    assert told.judge.card().origin == "calibrated"
    assert not told.alerts


def test_an_engine_that_changed_since_raises_no_alert(tmp_path: Path) -> None:
    load, told = kept(tmp_path), Told(judge_of(tmp_path))
    told.take(load.decode(300, factor=1.5))
    assert not told.alerts
    assert median(errors(told.batches[-100:])) < 0.03


def cold(load: Load) -> list[Batch]:
    """The first batches of a process that has just begun."""
    return [batch for n in range(20) for batch in load.decode(1, factor=1.0 + 1.6 * (1 - n / 20))]


def test_a_process_that_begins_slowly_raises_no_alert_under_a_kept_model(tmp_path: Path) -> None:
    kept(tmp_path)
    load, told = Load(seed=6), Told(judge_of(tmp_path))
    told.take([*cold(load), *load.decode(600)])
    assert not told.alerts


def test_a_process_that_begins_slowly_is_predicted_right_once_it_is_warm(tmp_path: Path) -> None:
    kept(tmp_path)
    load, told = Load(seed=6), Told(judge_of(tmp_path))
    made = told.take([*cold(load), *load.decode(300)])
    assert median(errors(made[-220:])) < 0.03


def test_a_process_that_begins_slowly_is_judged_within_a_hundred_batches(tmp_path: Path) -> None:
    kept(tmp_path)
    load, told = Load(seed=6), Told(judge_of(tmp_path))
    told.take([*cold(load), *load.decode(80)])
    assert told.judge.card().state is ModelState.READY


def test_a_machine_that_is_noisier_now_raises_no_alert_under_a_kept_model(tmp_path: Path) -> None:
    kept(tmp_path)
    load, told = Load(seed=8, noise=0.1), Told(judge_of(tmp_path))
    told.take(load.decode(200))
    assert not told.alerts


def test_a_noisy_engine_is_judged_after_as_many_batches_as_a_quiet_one(tmp_path: Path) -> None:
    kept(tmp_path)
    load, told = Load(seed=8, noise=0.1), Told(judge_of(tmp_path))
    told.take(load.decode(60, factor=1.3))
    assert told.judge.card().state is ModelState.READY


def test_a_short_session_in_which_nothing_fits_loses_no_model(tmp_path: Path) -> None:
    kept(tmp_path)
    load, judge = Load(seed=6), judge_of(tmp_path)
    Told(judge).take([*load.decode(20, factor=1.5), *load.mixed(40)])
    judge.close()
    content = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert "decode" in content["regimes"]


def test_the_noise_of_a_machine_s_bad_minutes_is_kept(tmp_path: Path) -> None:
    load, judge = Load(noise=0.1), judge_of(tmp_path)
    told = Told(judge)
    told.take(load.decode(1500))
    load.noise = 0.01
    told.take(load.decode(1500))
    judge.close()
    content = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert content["regimes"]["decode"]["rough"] > 0.05


def test_sessions_on_a_machine_whose_speed_changes_leave_a_state_that_can_be_used(tmp_path: Path) -> None:
    speeds = random.Random(5).choices((0.5, 0.8, 1.0, 1.3, 2.0, 4.0), k=30)
    for seed, speed in enumerate((*speeds, 1.0)):
        load = Load(seed=seed, noise=0.1, cost=lambda size, context: speed * decode_ms(size, context))  # noqa: B023
        told, made = Told(judge_of(tmp_path)), []
        for _ in range(20):
            made += told.take([*load.mixed(2, speed), *load.decode(5)])
        assert told.judge.close() == ()
    for mode in (Mode.MIXED, Mode.DECODE):
        assert median(errors([batch for batch in made if batch.mode is mode])) < 0.2


def test_another_engine_starts_from_nothing(tmp_path: Path) -> None:
    kept(tmp_path)
    told = Told(judge_of(tmp_path, make_group(engine="sglang")))
    told.take(Load().decode(5))
    assert told.judge.card().origin == "fresh"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "\x00\xff",
        lambda text: "[]",
        lambda text: text.replace('"schema": 2', '"schema": 99'),
        lambda text: text.replace('"unit_ns": ', '"unit_ns": -'),
        lambda text: text.replace('"rows": ', '"rows": "x'),
        lambda text: text.replace('"rough": ', '"rough": -'),
        lambda text: re.sub(r'"regimes": .*', '"regimes": []}', text),
        lambda text: re.sub(r'"regimes": .*', '"regimes": {"decode": []}}', text),
        lambda text: text.replace('"sizes": [', '"sizes": [1e999, '),
        lambda text: re.sub(r'"levels": {[^}]*}', '"levels": []', text),
        lambda text: re.sub(r'"buckets": {[^}]*}', '"buckets": []', text),
        lambda text: text.replace('"moment": [', '"moment": [NaN, '),
        lambda text: text.replace('"gram": [[', '"gram": [[1e999, '),
        lambda text: "[" * 100_000,
    ],
)
def test_a_damaged_file_is_set_aside_with_a_sentence(tmp_path: Path, damage: Any) -> None:
    load = kept(tmp_path)
    path = next(tmp_path.glob("*.json"))
    path.write_text(damage(path.read_text()), encoding="utf-8")
    judge = judge_of(tmp_path)
    tick = SourceTick(time_ns=load.at_ns, state=AttachState.LIVE, batches=tuple(load.decode(5)))
    warnings = judge.take(tick).warnings
    assert len(warnings) == 1
    assert "set aside" in warnings[0]
    assert path.with_suffix(".bad").exists()
    assert judge.card().origin == "fresh"


def test_a_file_under_a_foreign_name_is_not_taken_for_this_engine(tmp_path: Path) -> None:
    kept(tmp_path)
    path = next(tmp_path.glob("*.json"))
    other = make_group(version="9.9")
    os.rename(path, tmp_path / key_of(other, gpu_names()).file_name)
    told = Told(judge_of(tmp_path, other))
    told.take(Load().decode(5))
    assert told.judge.card().origin == "fresh"


def test_buckets_that_do_not_fit_are_not_used(tmp_path: Path) -> None:
    load = kept(tmp_path)
    path = next(tmp_path.glob("*.json"))
    content = json.loads(path.read_text())
    content["regimes"]["decode"]["buckets"] = {"1": 3}
    path.write_text(json.dumps(content))
    judge = judge_of(tmp_path)
    tick = SourceTick(time_ns=load.at_ns, state=AttachState.LIVE, batches=tuple(load.decode(5)))
    assert any("not used" in warning for warning in judge.take(tick).warnings)


def test_what_is_kept_holds_no_prompt_and_is_ours_alone(tmp_path: Path) -> None:
    kept(tmp_path / "models")
    path = next((tmp_path / "models").glob("*.json"))
    assert path.stat().st_mode & 0o077 == 0
    assert set(json.loads(path.read_text())) == {"schema", "key", "schedule", "sizes", "basis", "regimes"}


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the directory should be")
    judge = judge_of(tmp_path / "models")
    Told(judge).take(Load().decode(50))
    sentences = judge.close()
    assert len(sentences) == 1
    assert "could not be kept" in sentences[0]


def test_a_session_without_batches_writes_nothing(tmp_path: Path) -> None:
    assert judge_of(tmp_path).close() == ()
    assert not list(tmp_path.iterdir())


def test_every_part_of_the_key_makes_another_file() -> None:
    key = Key("vllm", "0.33", "Qwen", "H200", "TP2")
    names = {replace(key, **{name: "other"}).file_name for name in key.__dict__} | {key.file_name}
    assert len(names) == 6


def test_the_key_counts_the_ranks() -> None:
    group = make_group(*(make_target(pid, ranks=(("TP", pid),), model="Qwen") for pid in range(4)))
    assert key_of(group, ("A100", "A100")) == Key("vllm", "0.33.0", "Qwen", "A100", "TP4")


def test_an_engine_name_cannot_leave_the_directory() -> None:
    assert "/" not in Key("../../etc", "", "", "", "").file_name


def test_gpu_names_come_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    assert gpu_names(tmp_path) == ("NVIDIA H200",)
    assert gpu_names(tmp_path / "none") == ()
