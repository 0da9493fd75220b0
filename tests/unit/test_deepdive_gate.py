"""Which activities a capture may switch on in a process, with the reason of each."""

from __future__ import annotations

import pytest

from prismtop.deepdive.gate import FIRST_STALL_MS, LATER_STALL_MS, Admitted, admit, numbers
from prismtop.model import CaptureRequest, Layer, LayerState
from prismtop.sources.deep_link import DeepFacts

ON, PARTIAL, OFF = LayerState.ON, LayerState.PARTIAL, LayerState.OFF


def facts(**changes: object) -> DeepFacts:
    """A server with PyTorch 2.13 and CUDA 13.0, whose CUDA graphs were captured."""
    fields: dict[str, object] = {"torch": "2.13.0+cu130", "cuda": "13.0", "graphs": True}
    return DeepFacts(**{**fields, **changes})  # type: ignore[arg-type]


def layer(admitted: Admitted, name: str) -> Layer:
    return next(each for each in admitted.layers if each.name == name)


@pytest.mark.parametrize(
    ("cuda", "graphs", "gpu", "state", "reason"),
    [
        ("13.0", True, "auto", ON, "CUDA 13.0"),
        ("12.6", True, "auto", ON, "CUDA 12.6"),
        ("12.5", True, "auto", OFF, "CUDA graphs are in use"),
        ("12.5", None, "auto", OFF, "CUDA graphs may be in use"),
        ("12.5", False, "auto", ON, "CUDA 12.5"),
        ("11.8", True, "force", PARTIAL, "forced, although CUDA graphs are in use"),
        ("13.0", True, "off", OFF, "switched off"),
        ("13.0", True, "force", ON, "CUDA 13.0"),
        ("", False, "auto", OFF, "uses no CUDA"),
        ("", False, "force", OFF, "uses no CUDA"),
    ],
)
def test_graphs_before_cuda_12_6_keep_gpu_activities_out(
    cuda: str, graphs: bool | None, gpu: str, state: LayerState, reason: str
) -> None:
    admitted = admit(facts(cuda=cuda, graphs=graphs), CaptureRequest(gpu=gpu), 1)
    found = layer(admitted, "gpu")
    assert (found.state, admitted.gpu) == (state, state is not OFF)
    assert reason in found.reason


@pytest.mark.parametrize(("gpu", "state"), [("auto", OFF), ("force", PARTIAL), ("off", OFF)])
def test_another_subscriber_keeps_gpu_activities_out_unless_they_are_forced(
    gpu: str, state: LayerState
) -> None:
    admitted = admit(facts(subscriber="libnsys"), CaptureRequest(gpu=gpu), 1)
    assert layer(admitted, "gpu").state is state
    assert ("libnsys" in layer(admitted, "gpu").reason) is (gpu != "off")


def test_what_is_refused_leaves_the_rest() -> None:
    admitted = admit(facts(cuda="12.1"), CaptureRequest(), 1)
    assert {each.name: each.state for each in admitted.layers} == {
        "operators": ON, "gpu": OFF, "python": OFF, "gc": ON,
    }  # fmt: skip
    assert "--gpu force" in layer(admitted, "gpu").reason


def test_without_torch_functions_are_shown_and_nothing_stalls() -> None:
    admitted = admit(facts(torch="", cuda=""), CaptureRequest(), 1)
    assert (admitted.operators, admitted.gpu, admitted.python, admitted.stall_ms) == (False, False, True, 0.0)
    assert layer(admitted, "operators").reason == "PyTorch is not loaded in this process"


@pytest.mark.parametrize(
    ("torch", "python", "wanted"),
    [("2.13.0", "auto", False), ("2.13.0", "on", True), ("", "off", False), ("", "on", True)],
)
def test_functions_are_shown_where_they_are_asked_for(torch: str, python: str, wanted: bool) -> None:
    assert admit(facts(torch=torch), CaptureRequest(python=python), 1).python is wanted


@pytest.mark.parametrize(("profiled", "stall"), [(False, FIRST_STALL_MS), (True, LATER_STALL_MS)])
def test_only_the_first_start_in_a_process_stalls_it_long(profiled: bool, stall: float) -> None:
    assert admit(facts(profiled=profiled), CaptureRequest(), 1).stall_ms == stall


def test_a_torch_of_an_unreadable_version_is_taken_for_one_of_these_years() -> None:
    assert admit(facts(torch="?"), CaptureRequest(), 1).operators


def test_an_old_torch_is_left_alone() -> None:
    admitted = admit(facts(torch="1.8.1"), CaptureRequest(), 1)
    assert (admitted.operators, admitted.gpu, admitted.python) == (False, False, True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2.13.0+cu130", (2, 13, 0)), ("12.6", (12, 6)), ("2.1.0a0+git", (2, 1, 0)), ("", ()), ("nightly", ())],
)
def test_versions_are_compared_by_their_numbers(text: str, wanted: tuple[int, ...]) -> None:
    assert numbers(text) == wanted
