"""The session turns what a source says into frames."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prismtop.errors import UnavailableError
from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Capture,
    CapturePhase,
    CaptureRequest,
    Cause,
    Clock,
    Frame,
    Severity,
)
from prismtop.session import Judgement, Session
from prismtop.sources.tick import SourceTick
from tests.factories import make_batch, make_group


class FakeSource:
    """Two batches a poll."""

    group = make_group()
    clock = Clock(0)

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0

    def poll(self) -> SourceTick:
        new: list[Batch] = [make_batch(self.made), make_batch(self.made + 1)]
        self.made += 2
        return replace(SourceTick(10**12 + self.made, AttachState.LIVE), batches=tuple(new))

    def close(self) -> tuple[str, ...]:
        self.closed += 1
        return ("something stays",)


def test_a_frame_holds_what_is_new_and_the_latest() -> None:
    session = Session(FakeSource(), history=3)
    session.tick()
    frame = session.tick()
    assert [batch.seq for batch in frame.new_batches] == [2, 3]
    assert [batch.seq for batch in frame.batches] == [1, 2, 3]
    assert frame.total_batches == 4


def test_figures_can_be_left_out() -> None:
    assert Session(FakeSource(), figures=False).tick().throughput is None


def an_alert(last_seq: int) -> Alert:
    return Alert(1, "shift", Severity.WARNING, 10**12, 10**12, 4242, 0, last_seq, 1, 1, "decode is slow")


class FakeJudge:
    """One alert, updated with every tick."""

    def __init__(self) -> None:
        self.ticks = 0

    def take(self, tick: SourceTick) -> Judgement:
        self.ticks += 1
        return Judgement(tick.batches, changed=(an_alert(self.ticks),))

    def close(self) -> tuple[str, ...]:
        return ()


class FakeDiagnoser:
    """Finds its cause at the first look, and nothing new after that."""

    def __init__(self) -> None:
        self.looked = False

    def take(self, frame: Frame) -> tuple[Alert, ...]:
        if self.looked:
            return ()
        self.looked = True
        return tuple(replace(alert, causes=(Cause("frontend", 0.9),)) for alert in frame.changed_alerts)


def test_an_alert_that_goes_on_keeps_the_causes_that_were_found() -> None:
    session = Session(FakeSource(), judge=FakeJudge(), diagnoser=FakeDiagnoser())
    for tick in (1, 2, 3):
        frame = session.tick()
        (changed,) = frame.changed_alerts
        assert changed.last_seq == tick
        assert [cause.id for cause in changed.causes] == ["frontend"]
        assert frame.alerts == (changed,)


def test_closing_twice_detaches_once_and_says_the_same() -> None:
    source = FakeSource()
    session = Session(source)
    assert (session.close(), session.close(), source.closed) == (("something stays",),) * 2 + (1,)


class FakeDiver:
    """Says that it disturbs, and what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.disturbs = ""
        self.capture = Capture(1, CaptureRequest(), CapturePhase.CAPTURING, 10**12)

    def preview(self, request: CaptureRequest, frame: Frame) -> Capture:
        self.calls.append(f"preview {request.batches}")
        return self.capture

    def start(self, request: CaptureRequest, frame: Frame) -> Capture:
        self.calls.append(f"start {request.batches}")
        return self.capture

    def cancel(self) -> Capture | None:
        self.calls.append("cancel")
        return self.capture

    def take(self, frame: Frame) -> Capture | None:
        return self.capture

    def warnings(self) -> tuple[str, ...]:
        return ("alert 1 began a capture",)

    def close(self) -> tuple[str, ...]:
        self.calls.append("close")
        return ("the capture was cancelled",)


def test_without_a_deep_diver_nothing_can_be_captured() -> None:
    session = Session(FakeSource())
    with pytest.raises(UnavailableError, match="cannot capture"):
        session.deepdive()
    with pytest.raises(UnavailableError, match="cannot capture"):
        session.preview_deepdive()
    assert session.cancel_deepdive() is None


def test_what_is_asked_reaches_the_deep_diver() -> None:
    diver = FakeDiver()
    session = Session(FakeSource(), deepdiver=diver)
    session.preview_deepdive(CaptureRequest(20))
    session.deepdive(CaptureRequest(30))
    session.cancel_deepdive()
    assert session.close() == ("the capture was cancelled", "something stays")
    assert diver.calls == ["preview 20", "start 30", "cancel", "close"]


def test_a_frame_says_how_the_capture_stands() -> None:
    diver = FakeDiver()
    frame = Session(FakeSource(), deepdiver=diver).tick()
    assert (frame.capture, frame.warnings) == (diver.capture, ("alert 1 began a capture",))


def test_batches_that_a_capture_slows_down_are_not_trusted() -> None:
    diver = FakeDiver()
    session = Session(FakeSource(), deepdiver=diver)
    before = session.tick().new_batches
    diver.disturbs = "captured by a DeepDive"
    after = session.tick().new_batches
    assert {batch.suspect for batch in before} == {""}
    assert {batch.suspect for batch in after} == {"captured by a DeepDive"}
