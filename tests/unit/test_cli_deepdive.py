"""`prismtop deepdive`: what it says first, when it asks, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.cli import build_parser
from prismtop.commands import deepdive
from prismtop.commands.context import Context, Interrupted
from prismtop.errors import EXIT_OK, UnavailableError, UsageError
from prismtop.model import Alert, Capture, CapturePhase, CaptureRequest, Cause, Frame, Severity
from prismtop.settings import Settings
from tests.factories import make_frame, make_group
from tests.unit.doubles import FakeReporter, FakeSignals, make_context
from tests.unit.test_deepdive_report import DONE, PLANNED


class FakeSession:
    """A capture goes through `phases`, one a tick."""

    def __init__(self) -> None:
        self.frame = make_frame(60)
        self.phases: list[Capture] = [
            PLANNED,
            replace(PLANNED, phase=CapturePhase.CAPTURING, batches=20),
            DONE,
            replace(DONE, after_ms=8.0, residual=False),
        ]
        self.alerts: tuple[Alert, ...] = ()
        self.calls: list[str] = []
        self.refuses: Exception | None = None

    def tick(self) -> Frame:
        self.calls.append("tick")
        capture = None
        if "deepdive" in self.calls:
            capture = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
        return replace(self.frame, capture=capture, alerts=self.alerts)

    def preview_deepdive(self, request: CaptureRequest) -> Capture:
        if self.refuses:
            raise self.refuses
        self.calls.append("preview")
        return replace(PLANNED, request=request)

    def deepdive(self, request: CaptureRequest) -> Capture:
        self.calls.append("deepdive")
        return PLANNED

    def cancel_deepdive(self) -> Capture:
        self.calls.append("cancel")
        return replace(PLANNED, phase=CapturePhase.CANCELLED)

    def close(self) -> tuple[str, ...]:
        self.calls.append("close")
        return ()


class Asking(FakeReporter):
    """Somebody who thinks for two ticks."""

    def confirm(self, question: str, meanwhile: Callable[[], object] | None = None) -> bool | None:
        assert meanwhile is not None
        meanwhile()
        meanwhile()
        return super().confirm(question)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    made = FakeSession()
    monkeypatch.setattr(deepdive, "open_session", lambda *args, **options: made)
    monkeypatch.setattr(deepdive, "only_group", lambda *args: make_group())
    return made


def context_with(answer: bool | None = None, **changes: Any) -> tuple[Context, Any, FakeReporter]:
    return make_context(reporter=Asking(answer), **changes)


def run(context: Context, agreed: bool = False, **request: Any) -> int:
    return deepdive.run(context, (), CaptureRequest(**request), agreed=agreed)


def test_it_says_what_it_will_cost_before_it_begins(session: FakeSession) -> None:
    context, _, report = context_with(True)
    assert run(context) == EXIT_OK
    assert "stands still for about 1 s" in report.said[0]
    assert report.said[1].split() == ["operators", "on", "torch.profiler", "(2", "processes)"]
    assert [call for call in session.calls if call != "tick"] == ["preview", "deepdive", "close"]


def test_the_result_is_said(session: FakeSession) -> None:
    context, out, report = context_with(True)
    run(context)
    said = "\n".join(report.said)
    assert "50 batches in /t/x.json.gz (4.8 MB)" in said
    assert "no slowdown has stayed" in said
    assert "prismtop replay /t/x.json.gz" in said
    assert out.getvalue() == ""


def test_the_probe_is_kept_alive_while_somebody_thinks(session: FakeSession) -> None:
    context, _, _ = context_with(True)
    run(context)
    between = session.calls[session.calls.index("preview") : session.calls.index("deepdive")]
    assert between == ["preview", "tick", "tick"]


def test_a_no_captures_nothing(session: FakeSession) -> None:
    context, _, report = context_with(False)
    assert run(context) == EXIT_OK
    assert "deepdive" not in session.calls
    assert report.said[-1] == "nothing was captured"


@pytest.mark.parametrize("answer", [None, True])
def test_without_a_terminal_the_command_was_the_answer(session: FakeSession, answer: bool | None) -> None:
    context, _, _ = context_with(answer)
    run(context)
    assert "deepdive" in session.calls


def test_yes_asks_nobody(session: FakeSession) -> None:
    context, _, report = context_with(False)
    run(context, agreed=True)
    assert (report.asked, "deepdive" in session.calls) == ([], True)


def test_json_is_one_document(session: FakeSession) -> None:
    context, out, _ = context_with(json=True)
    assert run(context) == EXIT_OK
    made = json.loads(out.getvalue())
    assert (made["type"], made["phase"], made["path"]) == ("capture", "done", "/t/x.json.gz")
    assert made["residual_slowdown"] is False


def test_a_capture_that_failed_is_an_error(session: FakeSession) -> None:
    session.phases = [replace(PLANNED, phase=CapturePhase.FAILED, error="the engine ended.")]
    context, out, _ = context_with(json=True)
    with pytest.raises(UnavailableError, match="the capture failed: the engine ended"):
        run(context)
    assert json.loads(out.getvalue())["error"] == "the engine ended."


def test_ctrl_c_cancels_it(session: FakeSession) -> None:
    session.phases = [PLANNED]
    context, _, report = make_context(reporter=Asking(True), signals=FakeSignals(interrupt_at=6))
    with pytest.raises(Interrupted):
        run(context)
    assert session.calls[-2:] == ["cancel", "close"]
    assert "cancelled" in report.said[-1]


def test_a_refusal_is_the_error_of_the_command(session: FakeSession) -> None:
    session.refuses = UnavailableError("the engine is watched from outside only.")
    context, _, _ = context_with(True)
    with pytest.raises(UnavailableError, match="from outside only"):
        run(context)
    assert session.calls[-1] == "close"


def test_read_only_refuses_before_the_engine_is_touched(session: FakeSession) -> None:
    context, _, _ = context_with(True)
    with pytest.raises(UsageError, match="read-only"):
        run(replace(context, settings=Settings(readonly=True)))
    assert session.calls == []


def test_from_outside_only_is_refused_before_the_engine_is_touched(session: FakeSession) -> None:
    context, _, _ = context_with(True)
    with pytest.raises(UsageError, match="starts inside the engine"):
        run(replace(context, settings=Settings(external_only=True)))
    assert session.calls == []


def test_a_taken_name_refuses_before_the_engine_is_touched(session: FakeSession, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("")
    context, _, _ = context_with(True)
    with pytest.raises(UsageError, match="exists already"):
        run(context, path=str(tmp_path / "x.json"))
    assert session.calls == []


def test_the_causes_of_an_open_alert_are_said(session: FakeSession) -> None:
    cause = Cause("cpu_contention", 0.9, "other processes take its CPU", ("run queue 3 ms",))
    alert = Alert(2, "shift", Severity.WARNING, 5, 4, 1, 1, 2, 3, 4, "decode +38 %", causes=(cause,))
    session.alerts = (alert, replace(alert, id=1, closed_ns=9))
    context, _, report = context_with(True)
    run(context)
    said = "\n".join(report.said)
    assert "alert 2 is open: decode +38 %" in said
    assert "1. cpu_contention 0.90" in said
    assert "alert 1" not in said


def test_the_command_line_makes_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(deepdive, "run", lambda *args, **more: seen.append((args[1:], more)) or 0)
    line = "deepdive --pid 7 --batches 20 --max-seconds 4 --all-ranks --gpu off --python on --uprobes --yes"
    args = build_parser().parse_args([*line.split(), "-o", "f.json"])
    context, _, _ = make_context()
    args.run(context, args)
    request = CaptureRequest(20, 4.0, "f.json", "on", "off", True, True, "command")
    assert seen == [(((7,), request), {"agreed": True})]


@pytest.mark.parametrize("wrong", ["--batches 0", "--batches 5000", "--max-seconds 100", "--gpu maybe"])
def test_numbers_out_of_range_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        build_parser().parse_args(["deepdive", *wrong.split()])
