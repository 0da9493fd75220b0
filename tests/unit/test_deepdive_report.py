"""A capture in sentences, and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from prismtop.deepdive import report
from prismtop.export import jsonl
from prismtop.model import Capture, CapturePhase, CaptureRequest, Clock, Layer, LayerState

PLANNED = Capture(
    1,
    CaptureRequest(),
    CapturePhase.PREPARING,
    10**12,
    layers=(
        Layer("operators", LayerState.ON, "torch.profiler", pid=1),
        Layer("operators", LayerState.ON, "torch.profiler", pid=2),
        Layer("gpu", LayerState.OFF, "no CUDA", pid=1),
        Layer("scheduler", LayerState.PARTIAL, "schedstat"),
    ),
    expected_stall_ms=1000.0,
)
DONE = replace(
    PLANNED,
    phase=CapturePhase.DONE,
    batches=50,
    stall_ms=1042.0,
    before_ms=8.0,
    during_ms=8.8,
    path="/t/x.json.gz",
    size_bytes=4_800_000,
    clock_error_ns=3900,
    layers=tuple(replace(layer, events=7) for layer in PLANNED.layers),
)


@pytest.mark.parametrize(
    ("stall", "sentence"),
    [
        (1000.0, "the engine stands still for about 1 s in all"),
        (9.0, "the engine stands still for less than 9 ms"),
        (0.0, "the engine does not stand still"),
        (None, "the engine stands still for an unknown time"),
    ],
)
def test_the_expected_stall_is_said_first(stall: float | None, sentence: str) -> None:
    assert sentence in report.expected(replace(PLANNED, expected_stall_ms=stall))


def test_that_functions_cost_batches_of_mere_python_more_is_said_before() -> None:
    functions = Layer("python", LayerState.ON, "function calls")
    assert "mostly Python" not in report.expected(PLANNED)
    assert "mostly Python" in report.expected(replace(PLANNED, layers=(*PLANNED.layers, functions)))


def test_ranks_that_do_not_say_the_same_are_told_apart() -> None:
    layers = [Layer("gc", LayerState.ON, f"rank {rank}", pid=100 + rank, events=rank) for rank in (0, 1)]
    assert report.layer_lines(layers) == [
        ("gc", "on 0", "rank 0 (process 100)"),
        ("gc", "on 1", "rank 1 (process 101)"),
    ]


def test_ranks_that_say_the_same_are_one_line() -> None:
    assert report.layer_lines(PLANNED.layers) == [
        ("operators", "on", "torch.profiler (2 processes)"),
        ("scheduler", "partial", "schedstat"),
        ("gpu", "off", "no CUDA"),
    ]
    assert report.layer_lines(DONE.layers)[0] == ("operators", "on 14", "torch.profiler (2 processes)")


def test_the_result_has_the_file_and_what_it_cost() -> None:
    assert report.result_lines(DONE) == [
        "50 batches in /t/x.json.gz (4.8 MB)",
        "the engine stood still for 1,042 ms at start and stop",
        "mean batch 8 ms before, 8.8 ms in the window (+10.0 %)",
        "clocks agree to 3.9 us",
    ]


def test_what_was_not_measured_is_said() -> None:
    lines = report.result_lines(replace(DONE, stall_ms=None, before_ms=None))
    assert lines[1].startswith("stall n/a")
    assert lines[2].startswith("slowdown n/a")


@pytest.mark.parametrize(
    ("after", "residual", "sentence"),
    [
        (8.1, False, "mean batch 8.1 ms afterwards: no slowdown has stayed"),
        (9.6, True, "mean batch 9.6 ms afterwards: a slowdown of 20 % HAS STAYED"),
        (9.6, None, "mean batch 9.6 ms afterwards: whether a slowdown has stayed cannot be told"),
        (None, None, ""),
    ],
)
def test_a_slowdown_that_stays_is_reported(after: float | None, residual: bool | None, sentence: str) -> None:
    assert report.residual_text(replace(DONE, after_ms=after, residual=residual)).startswith(sentence)


@pytest.mark.parametrize("phase", list(CapturePhase))
def test_every_phase_has_words(phase: CapturePhase) -> None:
    assert report.told(replace(PLANNED, phase=phase))


def test_json_leaves_out_what_was_not_measured() -> None:
    made = json.loads(jsonl.capture_line(PLANNED, Clock(0)))
    assert made["type"] == "capture"
    assert not {"stall_ms", "before_ms", "residual_slowdown", "path", "error"} & made.keys()
    assert made["layers"][3] == {"name": "scheduler", "state": "partial", "reason": "schedstat"}


def test_json_has_what_was() -> None:
    made = json.loads(jsonl.capture_line(replace(DONE, after_ms=8.0, residual=False), Clock(0)))
    assert (made["phase"], made["stall_ms"], made["residual_slowdown"]) == ("done", 1042.0, False)
    assert (made["path"], made["bytes"], made["clock_error_us"]) == ("/t/x.json.gz", 4_800_000, 3.9)
    assert made["layers"][0]["events"] == 7
