"""What `analyze`, `replay` and the details of a batch show of a deep capture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import prismtop.cli as cli
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import write_trace
from prismtop.model import Layer, LayerState
from prismtop.trace.load import load
from prismtop.tui.look import UNICODE
from prismtop.tui.panels import details
from tests.factories import MS, make_batch, make_frame
from tests.unit.deep_profiles import (
    MONO,
    PID,
    TID,
    US,
    Fetched,
    Kineto,
    batch_times,
    cuda_profile,
    eight_ms_batch,
    frames_of,
    make_capture,
    real_cpu_frames,
    real_cpu_profile,
)

HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e[red]"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def hostile_kernel(kineto: Kineto) -> None:
    kineto.launch(HOSTILE, MONO + 7 * MS, (MONO + 7 * MS + 50 * US, MONO + 7 * MS + 250 * US))


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "deep.json.gz"
    profile = cuda_profile(before=hostile_kernel).write(tmp_path / "profile.json")
    layers = (*make_capture().layers, Layer("uprobes", LayerState.OFF, HOSTILE))
    write_trace(
        path,
        frames=frames_of([eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(6))]),
        fetched=[Fetched(PID, profile)],
        layers=[LayerEvent("scheduler", "slice", "runq", MONO + MS, MS, PID, TID)],
        capture=make_capture(layers=layers, before_ms=8.0, during_ms=8.4),
    )
    return path


@pytest.fixture
def cpu_only(tmp_path: Path) -> Path:
    frames, facts = real_cpu_frames()
    fetched = [Fetched(facts["pid"], real_cpu_profile(tmp_path))]
    path = tmp_path / "cpu.json"
    write_trace(path, frames=frames, fetched=fetched, layers=(), capture=make_capture(layers=()))
    return path


def output(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert cli.main([str(word) for word in argv]) == 0
    return capsys.readouterr().out


def test_analyze_prints_kernels_collectives_operators_and_layers(
    deep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = output(capsys, "analyze", deep).splitlines()
    text = "\n".join(lines)
    assert "6 batches broken down: 6 host-bound" in text
    kernel = next(line for line in lines if line.startswith("void cutlass::gemm"))
    assert kernel.split()[-6:-4] == ["6", "18.000"]
    assert next(line for line in lines if line.startswith("ncclDevKernel")).split()[1:3] == ["6", "6.000"]
    assert next(line for line in lines if line.startswith("aten::linear")).split()[1:3] == ["6", "0.660"]
    assert any(line.split() == ["scheduler", "off", "perf", "is", "not", "installed", "1"] for line in lines)
    assert "a batch took, ms: before 8.000, during 8.400" in text


def test_analyze_json_has_the_same_figures(deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(output(capsys, "analyze", "--json", deep))
    found = made["deepdive"]
    assert (found["batches"], found["bounds"]) == (6, {"host": 6})
    assert found["parts_ms"]["all"]["device"]["collective"] == 6.0
    assert found["parts_ms"]["launch"]["host"]["launches"] == 18
    assert found["parts_ms"]["all"]["host"]["launches"] == 19
    assert "gc" not in found["parts_ms"]["all"]["host"]  # no layer showed it
    assert [one["name"] for one in found["collectives"]] == ["ncclDevKernel_AllReduce_Sum_bf16"]
    assert made["captures"][0]["clock_error_ns"] == 3_500


def test_a_cpu_only_capture_says_why_there_is_no_device_time(
    cpu_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output(capsys, "analyze", cpu_only)
    assert "no device events in this trace" in text
    assert "aten::addmm" in text
    assert "kernels" not in text


def test_what_is_in_a_profile_reaches_no_terminal_and_no_page(
    deep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    for argv in (("analyze", deep), ("analyze", "--json", deep), ("analyze", "--html", page, deep)):
        text = output(capsys, *argv)
        assert "\x1b" not in text
        assert "\u202e" not in text
    html = page.read_text()
    assert "<script>" not in html
    assert "Deep capture" in html
    assert "cutlass::gemm" in html


def test_a_recording_without_a_capture_says_nothing_of_devices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = frames_of([eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(6))])
    write_trace(tmp_path / "plain.json", frames=frames, fetched=(), layers=(), capture=make_capture())
    made = json.loads(output(capsys, "analyze", "--json", tmp_path / "plain.json"))
    assert "deepdive" not in made


def test_replay_headless_reads_it(deep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in output(capsys, "replay", "--headless", "--json", deep).splitlines()]
    assert [line["seq"] for line in lines if line["type"] == "batch"] == list(range(6))


def test_replay_does_not_read_what_is_not_our_own(tmp_path: Path) -> None:
    """The other layers are most of such a file."""
    profile = cuda_profile(200).write(tmp_path / "profile.json")
    path = tmp_path / "deep.json"
    frames = frames_of([eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(6))])
    write_trace(path, frames=frames, fetched=[Fetched(PID, profile)], layers=(), capture=make_capture())
    index = load([path]).stories[0].index
    assert sum(index.lengths) < path.stat().st_size / 5
    assert index.batches == 6


def details_of(path: Path, seq: int, width: int = 80) -> list[str]:
    batch = list(load([path]).batches())[seq]
    shown = details.lines(batch, (), make_frame(), width, 10.0, UNICODE)
    return ["".join(text for text, _ in line) for line in shown]


def test_details_split_launch_and_wait_within_80_cells(deep: Path) -> None:
    shown = details_of(deep, 2)
    assert max(map(len, shown)) <= 80
    start = next(number for number, line in enumerate(shown) if line.startswith(" captured of pid 4242"))
    assert "limited by the host" in shown[start]
    rows = {line.split()[0]: line.split()[1:] for line in shown[start + 2 : start + 5]}
    assert rows["batch"] == ["8.00", "3.71", "4.29", "3.16", "3.10", "1.00", "0.600", "0.010", "3"]
    assert set(rows) == {"batch", "launch", "wait"}


def test_details_of_a_cpu_only_batch_call_nothing_gpu_time(cpu_only: Path) -> None:
    text = "\n".join(details_of(cpu_only, 3))
    assert "device n/a: no device events in this trace" in text
    assert "busy" not in text


def test_details_of_a_batch_that_was_not_captured_have_no_such_table() -> None:
    batch = replace(make_batch(), breakdown=None)
    shown = details.lines(batch, (), make_frame(), 80, 10.0, UNICODE)
    assert not any("captured of" in text for line in shown for text, _ in line)
