"""Alerts begin captures: by severity, rarely, once per episode, never unasked in production."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.deepdive.escalate import Memory, OnAlert, Rule, key_of, refusal, rule_of
from prismtop.errors import UnavailableError
from prismtop.model import Alert, Capture, CapturePhase, CaptureRequest, Frame, Severity
from prismtop.settings import Settings
from tests.factories import make_frame, make_group, make_target


class FakeDiver:
    """Notes what it is asked to start; a capture runs for as long as `running`."""

    def __init__(self) -> None:
        self.started: list[CaptureRequest] = []
        self.running = False
        self.refuses = False
        self.disturbs = ""

    def preview(self, request: CaptureRequest, frame: Frame) -> Capture:
        return Capture(1, request, CapturePhase.PREPARING, frame.time_ns)

    def start(self, request: CaptureRequest, frame: Frame) -> Capture:
        if self.refuses:
            raise UnavailableError("the disk is full.")
        self.started.append(request)
        self.running = True
        return self.preview(request, frame)

    def cancel(self) -> Capture | None:
        return None

    def take(self, frame: Frame) -> Capture | None:
        if not self.started and not self.running:
            return None
        phase = CapturePhase.CAPTURING if self.running else CapturePhase.DONE
        return Capture(1, CaptureRequest(), phase, frame.time_ns)

    def warnings(self) -> tuple[str, ...]:
        return ()

    def close(self) -> tuple[str, ...]:
        return ("closed",)


class Clock:
    def __init__(self) -> None:
        self.s = 1_000_000.0

    def __call__(self) -> float:
        return self.s


class Watch:
    """An `OnAlert` over a `FakeDiver`."""

    def __init__(self, path: Path, *severities: Severity, key: str = "a") -> None:
        self.diver = FakeDiver()
        self.clock = Clock()
        self.rule = Rule(severities or (Severity.WARNING, Severity.CRITICAL), 3600.0, CaptureRequest(20))
        self.on_alert = OnAlert(self.diver, self.rule, Memory(path / "deepdive.json"), key, self.clock)

    def alert(self, number: int, severity: Severity = Severity.CRITICAL, **changes: object) -> None:
        made = Alert(number, "shift", severity, 5, 4, 4242, 1, 2, 3, 4, "decode +38 %")
        frame = replace(make_frame(), changed_alerts=(replace(made, **changes),))  # type: ignore[arg-type]
        self.on_alert.take(frame)

    @property
    def why(self) -> list[str]:
        return [request.why for request in self.diver.started]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def test_an_alert_begins_a_capture(watch: Watch) -> None:
    watch.alert(3)
    assert [(request.why, request.batches) for request in watch.diver.started] == [("alert 3", 20)]
    assert watch.on_alert.warnings() == ("alert 3 began a capture of 20 batches",)
    assert watch.on_alert.warnings() == ()


def test_an_episode_begins_at_most_one(watch: Watch) -> None:
    watch.alert(3)
    watch.diver.running = False
    watch.clock.s += 7200
    watch.alert(3)
    assert watch.why == ["alert 3"]


def test_within_the_cool_down_nothing_begins(watch: Watch) -> None:
    watch.alert(3)
    watch.diver.running = False
    watch.clock.s += 600
    watch.alert(4)
    assert watch.why == ["alert 3"]
    assert "the last one was 10 min ago, and there is one in 60 min" in watch.on_alert.warnings()[-1]
    watch.clock.s += 3600
    watch.alert(5)
    assert watch.why == ["alert 3", "alert 5"]


def test_the_cool_down_outlives_a_restart(watch: Watch, tmp_path: Path) -> None:
    watch.alert(3)
    again = Watch(tmp_path)
    again.alert(1)
    assert again.why == []


def test_another_engine_has_a_cool_down_of_its_own(watch: Watch, tmp_path: Path) -> None:
    watch.alert(3)
    other = Watch(tmp_path, key="b")
    other.alert(1)
    assert other.why == ["alert 1"]


def test_a_milder_alert_begins_nothing_until_it_is_severe(tmp_path: Path) -> None:
    watch = Watch(tmp_path, Severity.CRITICAL)
    watch.alert(3, Severity.WARNING)
    assert watch.why == []
    watch.alert(3, Severity.CRITICAL)
    assert watch.why == ["alert 3"]


def test_a_closed_alert_begins_nothing(watch: Watch) -> None:
    watch.alert(3, closed_ns=9)
    assert watch.why == []


def test_a_capture_that_runs_covers_the_alert(watch: Watch) -> None:
    watch.diver.running = True
    watch.alert(3)
    watch.diver.running = False
    watch.alert(3)
    assert watch.why == []


def test_a_capture_that_cannot_begin_is_said_and_not_tried_again(watch: Watch) -> None:
    watch.diver.refuses = True
    watch.alert(3)
    assert watch.on_alert.warnings() == ("alert 3 began no capture: the disk is full.",)
    watch.diver.refuses = False
    watch.alert(4)
    assert watch.why == []


def test_what_cannot_be_remembered_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    watch = Watch(tmp_path / "state")
    watch.alert(3)
    assert watch.why == []
    assert "began no capture" in watch.on_alert.warnings()[0]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": "b"}', '{"a": true}'])
def test_a_damaged_memory_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "deepdive.json").write_text(text)
    watch = Watch(tmp_path)
    watch.alert(3)
    assert watch.why == ["alert 3"]


def test_everything_else_is_that_of_the_one_below(watch: Watch) -> None:
    frame = make_frame()
    assert watch.on_alert.take(frame) is None
    assert watch.on_alert.preview(CaptureRequest(7), frame).request.batches == 7
    assert watch.on_alert.start(CaptureRequest(8), frame).request.batches == 8
    assert (watch.on_alert.cancel(), watch.on_alert.disturbs, watch.on_alert.close()) == (
        None,
        "",
        ("closed",),
    )


def test_by_default_alerts_begin_nothing() -> None:
    assert rule_of(Settings()) is None


def test_the_settings_make_the_rule() -> None:
    settings = Settings(
        deepdive_on_alert="critical", deepdive_cooldown_min=5, deepdive_batches=30, deepdive_max_s=4
    )
    rule = rule_of(settings)
    assert rule == Rule((Severity.CRITICAL,), 300.0, CaptureRequest(batches=30, max_s=4))


@pytest.mark.parametrize(
    ("origin", "production", "refused"),
    [
        ("file /etc/x", "PRISMTOP_PRODUCTION is set", True),
        ("flag", "PRISMTOP_PRODUCTION is set", False),
        ("env PRISMTOP_DEEPDIVE_ON_ALERT", "PRISMTOP_PRODUCTION is set", False),
        ("file /etc/x", "", False),
    ],
)
def test_in_production_only_this_very_start_can_ask_for_it(
    origin: str, production: str, refused: bool
) -> None:
    settings = Settings(deepdive_on_alert="warning", origins={"deepdive_on_alert": origin})
    assert bool(refusal(settings, lambda: production)) is refused


def test_read_only_refuses() -> None:
    settings = Settings(deepdive_on_alert="warning", readonly=True, origins={"deepdive_on_alert": "flag"})
    assert "read-only" in refusal(settings, lambda: "")


def test_an_engine_is_the_same_after_its_restart() -> None:
    one, other = make_group(make_target(10)), make_group(make_target(20))
    assert key_of(one) == key_of(other)
    assert key_of(one) != key_of(make_group(make_target(10, model="another")))
