"""A short campaign on the demo engine: everything is injected, labelled, undone, and scored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prismtop.anomaly.catalogue import scenario
from prismtop.anomaly.journal import all_journals
from prismtop.anomaly.undo import VARIABLE
from prismtop.latency.json_lines import read_lines
from prismtop.targets.procfs import pids, read_environ

ROOT = Path(__file__).resolve().parents[2]
ONLY = ("freeze_bursts", "cgroup_cpu_throttling", "prompt_length_shift")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path, str]:
    here = tmp_path_factory.mktemp("campaign")
    argv = ["anomaly", "campaign", "--episodes", "4", "--seed", "3", "--duration", "1", "--gap", "2"]
    argv += ["--warmup", "12", "--yes", "--json", "-o", str(here / "out.jsonl")]
    for name in ONLY:
        argv += ["--only", name]
    done = subprocess.run(
        [sys.executable, "-m", "prismtop", *argv],
        cwd=ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(here)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), here, done.stderr


def test_every_episode_was_injected_and_undone(campaign: tuple[dict[str, object], Path, str]) -> None:
    said, _, _ = campaign
    assert said["score"]["rollbacks_ok"] == len(said["episodes"]) == 4  # type: ignore[index,arg-type]
    assert said["failures"] == []


def test_faults_and_controls_took_turns(campaign: tuple[dict[str, object], Path, str]) -> None:
    said, _, _ = campaign
    kinds = [one["kind"] for one in said["episodes"]]  # type: ignore[attr-defined]
    assert kinds == ["fault", "fault", "fault", "control"]


def test_each_episode_lasted_about_as_long_as_planned(campaign: tuple[dict[str, object], Path, str]) -> None:
    said, _, _ = campaign
    assert all(one["duration_s"] > 0.6 for one in said["episodes"])  # type: ignore[attr-defined]


def test_the_output_is_what_score_reads(campaign: tuple[dict[str, object], Path, str]) -> None:
    said, here, _ = campaign
    lines = read_lines(here / "out.jsonl")
    assert len(lines.batches) == said["batches"]
    assert lines.truths is not None
    assert {truth.id for truth in lines.truths} <= {name for name in ONLY if not scenario(name).control}


def test_nothing_is_left_behind(campaign: tuple[dict[str, object], Path, str]) -> None:
    _, here, _ = campaign
    assert all_journals(here / "prismtop" / "anomaly") == []
    marked = [pid for pid in pids() if read_environ(pid, "XDG_STATE_HOME") == str(here)]
    assert [pid for pid in marked if read_environ(pid, VARIABLE)] == []
