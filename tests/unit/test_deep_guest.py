"""The guest in this very process, with a PyTorch that only remembers what was asked of it.

It is no proof of what CUDA does; it proves what we ask of it, and that we take it back.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prismtop.probe import agent, deep
from prismtop.sources.deep_events import unpacked

OPTIONS = {
    "batches": 3,
    "max_ns": 10**12,
    "operators": True,
    "python": False,
    "gpu": True,
    "stacks": False,
    "max_events": 1000,
    "teardown": True,
    "compare": 0,
    "budget": 0.07,
}


class FakeTorch:
    """`torch`, as far as the guest touches it; `calls` has what it was asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.markers: list[str] = []
        self.initialized, self.capturing, self.cupti, self.running = True, False, True, False
        self.known = ("trace_only", "disable_external_correlation")
        self.config: dict[str, object] = {}
        self.teardown: list[str | None] = []
        self.fails: dict[str, Exception] = {}
        low = SimpleNamespace(
            _profiler_enabled=lambda: False,
            _supported_activities=lambda: {"CPU", "CUDA"} if self.cupti else {"CPU"},
            _prepare_profiler=lambda *_: self.asked("prepare"),
            _enable_profiler=lambda *_: self.asked("enable"),
            _disable_profiler=self.disable,
            _enable_record_function=lambda on: self.asked(f"record_function {on}"),
        )
        kinds = SimpleNamespace(
            ProfilerActivity=SimpleNamespace(CPU="CPU", CUDA="CUDA"),
            ProfilerState=SimpleNamespace(KINETO="KINETO"),
            ProfilerConfig=lambda *made: made,
            _ExperimentalConfig=self.experimental,
        )
        torch: Any = ModuleType("torch")
        torch.__version__ = "2.9.1"
        torch._C = SimpleNamespace(_autograd=low, _profiler=kinds)
        torch.cuda = SimpleNamespace(
            is_initialized=lambda: self.initialized,
            is_current_stream_capturing=lambda: self.capturing,
            synchronize=lambda: self.asked("synchronize"),
        )
        profiler: Any = ModuleType("torch.autograd.profiler")
        profiler.kineto_available = lambda: True
        profiler._is_profiler_enabled = False
        profiler._run_on_profiler_start = lambda: self.asked("flag on")
        profiler._run_on_profiler_stop = lambda: self.asked("flag off")
        profiler.record_function = self.marker
        public: Any = ModuleType("torch.profiler")
        public.profile = lambda **_: SimpleNamespace(
            start=lambda: self.asked("public start"),
            stop=lambda: self.asked("public stop"),
            export_chrome_trace=lambda path: Path(path).write_text("{}"),
        )
        self.kinds, self.profiler = kinds, profiler
        for name, module in (
            ("torch", torch),
            ("torch.autograd.profiler", profiler),
            ("torch.profiler", public),
        ):
            monkeypatch.setitem(sys.modules, name, module)

    def asked(self, what: str) -> None:
        self.calls.append(what)
        if what in ("enable", "public start"):
            self.teardown.append(os.environ.get("TEARDOWN_CUPTI"))
        if what in self.fails:
            raise self.fails[what]

    def disable(self) -> object:
        self.asked("disable")
        return SimpleNamespace(save=lambda path: Path(path).write_text('{"traceEvents": []}'))

    def experimental(self, **wanted: object) -> object:
        if not set(wanted) <= set(self.known):
            raise TypeError("an unexpected keyword argument")
        self.config = dict(wanted)
        return SimpleNamespace()

    def marker(self, name: str) -> Any:
        self.markers.append(name)
        return threading.Lock()  # something that can be entered


class Probe:
    """The probe's side of a guest."""

    def __init__(self) -> None:
        self.q = [0] * 128
        self.config = {"nonce": "n" * 16}
        self.told: list[dict[str, Any]] = []

    def tell(self, told: dict[str, Any]) -> None:
        self.told.append(ast.literal_eval(repr(told)))


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTorch:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("TEARDOWN_CUPTI", raising=False)
    monkeypatch.setattr(deep, "FREE_BYTES", 0)
    return FakeTorch(monkeypatch)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = (list(gc.callbacks), sys.getprofile(), sorted(os.listdir("/proc/self/fd")))
    yield
    assert (list(gc.callbacks), sys.getprofile(), sorted(os.listdir("/proc/self/fd"))) == before


def run(*, until: str = "ready", **changes: Any) -> tuple[deep.Guest, Probe]:
    """A guest that is given boundaries until it is in that phase."""
    probe = Probe()
    guest = deep.Guest(probe, {**OPTIONS, **changes})
    end = time.monotonic() + 20
    while guest.phase != until:
        assert time.monotonic() < end, probe.told[-1]
        if guest.phase in ("waiting", "starting", "capturing"):
            guest.tick(time.monotonic_ns())
        else:
            time.sleep(0.001)
    while until == "ready" and probe.told[-1]["phase"] != until:
        time.sleep(0.001)
    return guest, probe


def layer(probe: Probe, name: str) -> tuple[str, str]:
    return next((state, reason) for found, state, reason in probe.told[-1]["layers"] if found == name)


def test_the_device_is_waited_for_before_the_profiler_is_stopped(torch: FakeTorch) -> None:
    guest, probe = run()
    assert torch.calls == ["prepare", "enable", "flag on", "synchronize", "flag off", "disable"]
    assert len(torch.markers) == 6
    assert layer(probe, "gpu") == ("on", "CUPTI through Kineto")
    assert torch.config == {"trace_only": True, "disable_external_correlation": False}
    assert set(probe.told[-1]["files"]) == {"profile", "events"}
    assert guest.end("cancelled")


def test_cupti_is_asked_to_let_go_for_the_window_only(torch: FakeTorch) -> None:
    guest, _ = run()
    assert torch.teardown == ["1"]
    assert "TEARDOWN_CUPTI" not in os.environ
    guest.end("cancelled")


def test_a_teardown_that_the_engine_chose_stays(torch: FakeTorch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEARDOWN_CUPTI", "0")
    guest, _ = run()
    assert torch.teardown == ["0"]
    assert os.environ["TEARDOWN_CUPTI"] == "0"
    guest.end("cancelled")


def test_cupti_is_not_asked_where_letting_go_crashes(torch: FakeTorch) -> None:
    guest, _ = run(teardown=False)
    assert torch.teardown == [None]
    guest.end("cancelled")


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"initialized": False}, "uses no CUDA device"), ({"cupti": False}, "built without CUPTI")],
)
def test_without_a_device_the_operators_remain(
    change: dict[str, bool], reason: str, torch: FakeTorch
) -> None:
    vars(torch).update(change)
    guest, probe = run()
    assert layer(probe, "gpu")[0] == "off"
    assert reason in layer(probe, "gpu")[1]
    assert layer(probe, "operators")[0] == "on"
    assert "synchronize" not in torch.calls
    assert torch.config["disable_external_correlation"] is True
    guest.end("cancelled")


def test_nothing_begins_or_ends_while_a_cuda_graph_is_captured(torch: FakeTorch) -> None:
    torch.capturing = True
    guest = deep.Guest(Probe(), OPTIONS)
    for _ in range(5):
        assert guest.tick(time.monotonic_ns())
    assert guest.phase == "starting"
    assert torch.calls == []
    torch.capturing = False
    guest.tick(time.monotonic_ns())
    assert guest.phase == "capturing"
    torch.capturing = True
    for _ in range(10):
        assert guest.tick(time.monotonic_ns())
    assert "synchronize" not in torch.calls
    torch.capturing = False
    assert not guest.tick(time.monotonic_ns())
    while guest.phase == "exporting":
        time.sleep(0.001)
    guest.end("cancelled")


def test_a_pytorch_with_other_signatures_is_profiled_by_its_public_interface(torch: FakeTorch) -> None:
    torch.kinds.ProfilerConfig = None
    guest, probe = run()
    assert torch.calls == ["public start", "synchronize", "public stop"]
    assert layer(probe, "operators")[0] == "on"
    assert probe.told[-1]["files"]["profile"][1] == 2
    guest.end("cancelled")


@pytest.mark.parametrize("known", [(), ("disable_external_correlation",)])
def test_options_that_an_older_pytorch_does_not_know_are_left_out(
    known: tuple[str, ...], torch: FakeTorch
) -> None:
    torch.known = known
    guest, probe = run(gpu=False)
    assert tuple(torch.config) == known
    assert layer(probe, "operators")[0] == "on"
    guest.end("cancelled")


def test_a_profiler_that_does_not_start_is_stopped_and_the_rest_goes_on(torch: FakeTorch) -> None:
    torch.fails["enable"] = RuntimeError("CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED")
    guest, probe = run()
    assert torch.calls[-1] == "disable"
    assert layer(probe, "operators")[0] == layer(probe, "gpu")[0] == "off"
    assert "MULTIPLE_SUBSCRIBERS" in layer(probe, "operators")[1]
    assert layer(probe, "gc")[0] == "on"
    assert set(probe.told[-1]["files"]) == {"events"}
    assert "TEARDOWN_CUPTI" not in os.environ
    guest.end("cancelled")


def test_a_profiler_that_does_not_stop_is_said_to_have_failed(torch: FakeTorch) -> None:
    torch.fails["synchronize"] = RuntimeError("CUDA error: device-side assert triggered")
    guest, probe = run()
    assert torch.calls[-1] == "disable"
    assert layer(probe, "operators")[0] == "off"
    assert "device-side assert" in layer(probe, "operators")[1]
    guest.end("cancelled")


def test_another_thread_may_not_stop_it_but_the_models_does_at_its_next_boundary(torch: FakeTorch) -> None:
    guest, probe = run(until="capturing")
    answers: list[bool] = []
    other = threading.Thread(target=lambda: answers.append(guest.end("cancelled")))
    other.start()
    other.join()
    assert answers == [False]
    assert "disable" not in torch.calls
    assert not guest.tick(time.monotonic_ns())
    assert torch.calls[-1] == "disable"
    assert probe.told[-1]["phase"] == "cancelled"


def test_a_child_asks_nothing_of_the_device(torch: FakeTorch) -> None:
    guest, probe = run(until="capturing")
    told = len(probe.told)
    assert guest.end(agent.FORKED)
    assert torch.calls[3:] == ["record_function False"]
    assert len(probe.told) == told  # the status is its parent's
    assert "TEARDOWN_CUPTI" not in os.environ


def clocked(monkeypatch: pytest.MonkeyPatch, before: int, with_operators: int, without: int) -> Any:
    """A guest whose thread's clock goes on by so many microseconds a batch, as the recording goes."""
    used = [0]
    monkeypatch.setattr(time, "thread_time_ns", lambda: used[0])
    guest = deep.Guest(Probe(), {**OPTIONS, "gpu": False, "batches": 51, "compare": 6})

    def batch() -> None:
        if guest.phase != "capturing":
            used[0] += 1000 * before
        else:
            used[0] += 1000 * (without if guest.operators.silent else with_operators)
        guest.tick(time.monotonic_ns())

    while guest.phase in ("waiting", "starting", "capturing"):
        batch()
    end = time.monotonic() + 60
    while guest.phase != "ready":
        assert time.monotonic() < end, guest.error
        time.sleep(0.001)
    assert guest.end("cancelled")
    return guest


def test_operators_that_cost_much_are_left_out_of_most_batches(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = clocked(monkeypatch, before=1000, with_operators=1200, without=1000)
    share = guest.operators.share
    assert share.cost() == pytest.approx(0.2)
    assert share.recorded / share.seen * 0.2 <= OPTIONS["budget"] + 0.01
    assert share.recorded >= 10
    name, state, reason = guest.operators.layers()[0]
    assert (name, state) == ("operators", "partial")
    assert reason.startswith(f"in {share.recorded} of 51 batches: one takes 20 % longer with them")
    assert torch.calls.count("record_function False") == torch.calls.count("record_function True") >= 2
    assert torch.calls[-1] == "disable"  # after the last of them


def test_a_cost_that_cannot_be_theirs_does_not_leave_them_out_of_nearly_all(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = clocked(monkeypatch, before=1000, with_operators=9000, without=1000)
    assert guest.operators.share.recorded >= 10


def test_operators_that_cost_little_are_in_every_batch(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = clocked(monkeypatch, before=1000, with_operators=1030, without=1000)
    assert guest.operators.layers()[0][1] == "on"
    assert "record_function False" not in torch.calls


def test_of_long_batches_few_are_risked_before_the_cost_is_known(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = clocked(monkeypatch, before=10_000, with_operators=15_000, without=10_000)
    assert guest.operators.share.recorded == 3  # the first has the profiler's start in it


def test_long_batches_have_a_smaller_budget(torch: FakeTorch, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = clocked(monkeypatch, before=10_000, with_operators=10_500, without=10_000)
    share = guest.operators.share
    assert share.cost() == pytest.approx(0.05)
    assert 10 <= share.recorded <= 17


def test_operators_that_cost_long_batches_little_are_in_every_one(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = clocked(monkeypatch, before=10_000, with_operators=10_100, without=10_000)
    assert guest.operators.layers()[0][1] == "on"


def test_what_python_functions_cost_a_batch_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [0]
    monkeypatch.setattr(time, "thread_time_ns", lambda: used[0])
    options = {**OPTIONS, "operators": False, "gpu": False, "python": True, "batches": 20, "compare": 6}
    guest = deep.Guest(Probe(), options)

    def batch() -> None:
        used[0] += 1_300_000 if guest.phase == "capturing" else 1_000_000
        guest.tick(time.monotonic_ns())

    while guest.phase in ("waiting", "starting", "capturing"):
        batch()
    name, _, reason = guest.calls.layer()
    assert name == "python"
    assert reason.endswith("on the model thread; a batch takes 30 % longer with them")
    guest.end("cancelled")


def test_calls_end_no_later_than_the_room_for_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    guest, probe = run(operators=False, gpu=False, python=True, max_events=5, batches=50)
    packed = os.pread(guest.files[-1], 1 << 20, 0)
    guest.end("cancelled")
    begin, end = probe.told[-2]["window"]
    made = [event for event in map(json.loads, unpacked(packed)) if event["layer"] == "python"]
    last = max(abs(ns) for ns in struct.unpack_from("5q", packed.partition(b"\n")[2]))
    assert begin < last < end
    assert max(event["t0"] + event["dur"] for event in made) == last


def test_a_load_that_became_heavier_is_not_taken_for_their_cost(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = clocked(monkeypatch, before=1000, with_operators=3030, without=3000)
    share = guest.operators.share
    assert 0 < len(guest.operators.gaps) <= 3  # it takes some without them to see that
    assert guest.operators.layers()[0][1] == "partial"
    assert share.recorded > 20


def test_a_window_is_closed_from_outside_when_its_time_is_over_and_not_before(
    torch: FakeTorch,
) -> None:
    guest = deep.Guest(Probe(), {**OPTIONS, "batches": 100})
    for _ in range(3):
        guest.tick(time.monotonic_ns())
    guest.close_window()
    assert guest.phase == "capturing"
    guest.options["max_ns"] = 0
    elsewhere = threading.Thread(target=guest.close_window)
    elsewhere.start()
    elsewhere.join()
    assert guest.phase == "capturing"  # the profiler ends on the thread that started it
    inside: dict[str, Any] = {"guest": guest}
    code = "def _pt_w():\n    guest.close_window()\n_pt_w()\n"
    exec(compile(code, deep.OURS, "exec"), inside)
    assert guest.phase == "capturing"  # in the middle of a batch
    torch.capturing = True
    guest.close_window()
    assert guest.phase == "capturing"
    torch.capturing = False
    guest.close_window()
    assert guest.phase in ("exporting", "ready")
    assert "disable" in torch.calls
    assert not guest.tick(time.monotonic_ns())
    while guest.phase != "ready":
        time.sleep(0.001)
    assert guest.end("cancelled")


def test_a_full_temporary_folder_is_not_filled_further(
    torch: FakeTorch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "FREE_BYTES", 1 << 62)
    guest, probe = run()
    assert torch.calls == []
    assert layer(probe, "operators")[0] == "off"
    assert "temporary folder has less than" in layer(probe, "operators")[1]
    guest.end("cancelled")


def test_an_export_that_fails_leaves_no_file_and_says_why(torch: FakeTorch, tmp_path: Path) -> None:
    torch.disable = lambda: None  # type: ignore[method-assign, assignment, return-value]

    class Result:
        def save(self, path: str) -> None:
            Path(path).write_text("half")
            raise OSError(28, "No space left on device")

    sys.modules["torch"]._C._autograd._disable_profiler = Result
    guest, probe = run(until="failed")
    assert "No space left" in probe.told[-1]["error"]
    assert list(tmp_path.iterdir()) == []
    guest.end("cancelled")
