"""Which activities a capture may switch on inside a process, each with its reason; and the stall to expect.

The rules are those that users of torch.profiler learnt on running servers. Pure functions of what is known
from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.model import CaptureRequest, Layer, LayerState
from prismtop.sources.deep_link import DeepFacts

FIRST_STALL_MS = 1000.0
"""First start with CUDA activities in a process: 850 to 1300 ms are Kineto's through `torch.profiler` on a
CPU (torch 2.13), and CUPTI may take longer (kineto#542); not measured on a GPU by us."""
START_STALL_MS = 9.0
"""Other starts: 1 to 6 ms measured, the first one without CUDA included, 1 to 9 reported."""
STOP_STALL_MS_PER_BATCH = 2.0
"""Stop and export hold the interpreter: 1.5 ms a batch measured, with 590 operator events in each."""
GRAPH_SAFE_CUDA = (12, 6)
"""Before it, a CUPTI teardown with CUDA graphs crashed (pytorch#112507, #101879, kineto#745), and graphs that
were captured before the profiler's first start hung or failed (pytorch#75504): always our case."""
OLDEST_TORCH = (1, 9)
"""torch.profiler with Kineto and `record_function` as they are used here."""

UNREADABLE = "?"


@dataclass(frozen=True)
class Admitted:
    """What may run in one process.

    Attributes:
        operators, gpu, python: what to switch on.
        layers: those and `gc`, each on, partial or off with its reason.
        stall_ms: how long the engine is expected to stand still, at the start and at the end together.
    """

    operators: bool
    gpu: bool
    python: bool
    layers: tuple[Layer, ...]
    stall_ms: float


def admit(facts: DeepFacts, request: CaptureRequest, pid: int) -> Admitted:
    """What a capture may do in process `pid`."""
    operators = _operators(facts)
    gpu = _gpu(facts, request, operators)
    python = _python(request, operators)
    layers = (
        Layer("operators", *operators, pid=pid),
        Layer("gpu", *gpu, pid=pid),
        Layer("python", *python, pid=pid),
        Layer("gc", LayerState.ON, "the interpreter's own callbacks", pid=pid),
    )
    runs = operators[0] is not LayerState.OFF
    start = FIRST_STALL_MS if gpu[0] is not LayerState.OFF and not facts.profiled else START_STALL_MS
    return Admitted(
        operators=runs,
        gpu=gpu[0] is not LayerState.OFF,
        python=python[0] is not LayerState.OFF,
        layers=layers,
        stall_ms=start + STOP_STALL_MS_PER_BATCH * request.batches if runs else 0.0,
    )


_State = tuple[LayerState, str]

PYTHON = "function calls of the model thread; each takes 0.3 (Python 3.12 and later) or 0.5 us longer"
"""Measured with 300 small functions a batch: 0.27 us with `sys.monitoring`, 0.53 us with `sys.setprofile`."""


def _operators(facts: DeepFacts) -> _State:
    if not facts.torch:
        return LayerState.OFF, "PyTorch is not loaded in this process"
    if facts.torch == UNREADABLE:
        return LayerState.ON, "torch.profiler of a PyTorch whose version cannot be read"
    if numbers(facts.torch) < OLDEST_TORCH:
        return LayerState.OFF, f"PyTorch {facts.torch} has no profiler that can be used here"
    return LayerState.ON, f"torch.profiler of PyTorch {facts.torch}"


def _gpu(facts: DeepFacts, request: CaptureRequest, operators: _State) -> _State:
    if request.gpu == "off":
        return LayerState.OFF, "switched off"
    if operators[0] is LayerState.OFF:
        return LayerState.OFF, f"it comes with torch.profiler: {operators[1]}"
    if not facts.cuda:
        return LayerState.OFF, "this process uses no CUDA"
    danger = _danger(facts)
    if not danger:
        return LayerState.ON, f"CUPTI through Kineto, CUDA {facts.cuda}"
    if request.gpu == "force":
        return LayerState.PARTIAL, f"forced, although {danger}"
    return LayerState.OFF, f"{danger}; --gpu force does it all the same"


def _danger(facts: DeepFacts) -> str:
    """Why GPU activities may hurt the target; empty when nothing speaks against them."""
    if facts.subscriber:
        return f"another CUPTI subscriber is there ({facts.subscriber}), and only one can be"
    if numbers(facts.cuda) >= GRAPH_SAFE_CUDA or facts.graphs is False:
        return ""
    graphs = "CUDA graphs are in use" if facts.graphs else "CUDA graphs may be in use"
    return f"{graphs}, and before CUDA 12.6 (here {facts.cuda}) profiling them can crash or hang the engine"


def _python(request: CaptureRequest, operators: _State) -> _State:
    if request.python == "off":
        return LayerState.OFF, "switched off"
    if request.python == "auto" and operators[0] is not LayerState.OFF:
        return LayerState.OFF, "the operators show what runs; --python on adds functions, at a cost"
    return LayerState.ON, PYTHON


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.13.0+cu130` is (2, 13, 0); empty when there are none."""
    made: list[int] = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        made.append(int(digits))
        if digits != part:
            break
    return tuple(made)
