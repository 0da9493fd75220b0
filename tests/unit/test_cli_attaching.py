"""From settings and a group to the options of an attach; gdb only with consent."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

import prismtop.attach.preflight as preflight_module
import prismtop.sources.live as live
from prismtop.attach.preflight import WayIn
from prismtop.commands.attaching import open_session
from prismtop.commands.context import Interrupted
from prismtop.commands.screen import open_screen
from prismtop.errors import UnavailableError, UsageError
from prismtop.settings import Settings
from prismtop.sources.live import AttachOptions
from tests.factories import make_group, make_target
from tests.unit.doubles import FakeReporter, make_context


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[AttachOptions]:
    """The options that `attach` was called with, instead of an attach."""
    seen: list[AttachOptions] = []

    def attach(group: object, profile: object, options: AttachOptions, progress: object) -> object:
        seen.append(options)
        return SimpleNamespace(close=tuple)

    monkeypatch.setattr(live, "attach", attach)
    return seen


def best_way(monkeypatch: pytest.MonkeyPatch, way: WayIn) -> None:
    monkeypatch.setattr(preflight_module, "preflight", lambda pid, **_: SimpleNamespace(best=way))


def test_settings_are_the_options(asked_for: list[AttachOptions]) -> None:
    context, _, _ = make_context()
    settings = Settings(
        probe_budget=0.01,
        lease_s=20.0,
        metrics=False,
        metrics_interval_s=2.0,
        attach_timeout_s=1.0,
        allow_gdb=True,
    )
    open_session(replace(context, settings=settings), make_group(), {})
    assert asked_for == [
        AttachOptions(
            allow_gdb=True, budget=0.01, lease_s=20.0, metrics=False, metrics_interval_s=2.0, timeout_s=1.0
        )
    ]


def test_nobody_is_asked_when_a_better_way_in_exists(asked_for: list[AttachOptions]) -> None:
    context, _, report = make_context(reporter=FakeReporter(answer=True))
    open_session(context, make_group(), {})
    assert (report.asked, asked_for[0].allow_gdb) == ([], False)


@pytest.mark.parametrize(("answer", "allowed"), [(True, True), (False, False), (None, False)])
def test_gdb_is_used_only_after_a_yes(
    monkeypatch: pytest.MonkeyPatch, asked_for: list[AttachOptions], answer: bool | None, allowed: bool
) -> None:
    best_way(monkeypatch, WayIn.GDB)
    context, _, report = make_context(reporter=FakeReporter(answer))
    open_session(context, make_group(make_target(way_in="external")), {})
    assert "pauses it for 0.2 to 4 s" in report.asked[0]
    assert asked_for[0].allow_gdb is allowed


def test_gdb_is_not_offered_where_it_would_not_help(
    monkeypatch: pytest.MonkeyPatch, asked_for: list[AttachOptions]
) -> None:
    best_way(monkeypatch, WayIn.EXTERNAL)
    context, _, report = make_context(reporter=FakeReporter(answer=True))
    open_session(context, make_group(make_target(way_in="external")), {})
    assert (report.asked, asked_for[0].allow_gdb) == ([], False)


def test_nobody_is_asked_about_gdb_when_nothing_may_be_put_into_the_target(
    monkeypatch: pytest.MonkeyPatch, asked_for: list[AttachOptions]
) -> None:
    best_way(monkeypatch, WayIn.GDB)
    context, _, report = make_context(reporter=FakeReporter(answer=True))
    outside = replace(context, settings=Settings(external_only=True))
    open_session(outside, make_group(make_target(way_in="external")), {})
    assert report.asked == []
    assert (asked_for[0].external_only, asked_for[0].allow_gdb) == (True, False)


def test_a_refused_attach_is_the_error_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnavailableError("the target is stopped.", fix="Resume it.")

    monkeypatch.setattr(live, "attach", refuse)
    context, _, _ = make_context()
    with pytest.raises(UnavailableError, match="the target is stopped"):
        open_session(context, make_group(), {})


@pytest.mark.parametrize(
    "changes",
    [{"on_alert": "notify 'half"}, {"alert_webhook": "ftp://nowhere"}],
)
def test_who_is_told_of_alerts_is_checked_before_the_attach(
    asked_for: list[AttachOptions], changes: dict[str, str]
) -> None:
    context, _, _ = make_context()
    with pytest.raises(UsageError):
        open_session(replace(context, settings=Settings(**changes)), make_group(), {})  # type: ignore[arg-type]
    assert asked_for == []


@pytest.mark.parametrize("raised", [Interrupted(2), RuntimeError("no model")])
def test_what_fails_after_the_attach_lets_go_of_the_target(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    import prismtop.latency.judge as judge

    closed: list[str] = []

    def close() -> tuple[str, ...]:
        closed.append("source")
        return ("a thread is still there",)

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(live, "attach", lambda *_: SimpleNamespace(close=close))
    monkeypatch.setattr(judge, "make_judge", fail)
    context, _, report = make_context()
    with pytest.raises(type(raised)):
        open_session(context, make_group(), {})
    assert (closed, report.said) == (["source"], ["a thread is still there"])


@pytest.mark.parametrize(
    ("changes", "terminal"),
    [
        ({"theme": "prismtpo"}, True),
        ({"keys": {"quit": ["notakey"]}}, True),
        ({"panels": "+nothing"}, True),
        ({}, False),
    ],
)
def test_what_the_screen_would_refuse_is_refused_before_the_attach(
    monkeypatch: pytest.MonkeyPatch,
    asked_for: list[AttachOptions],
    changes: dict[str, object],
    terminal: bool,
) -> None:
    import prismtop.tui.base as base

    stream = SimpleNamespace(isatty=lambda: terminal, encoding="utf-8")
    monkeypatch.setattr(base, "sys", SimpleNamespace(__stdin__=stream, __stderr__=stream, platform="linux"))
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    context, _, _ = make_context()
    context = replace(context, settings=Settings(**changes))  # type: ignore[arg-type]
    with pytest.raises(UsageError if terminal else UnavailableError):
        open_screen(context, make_group(), {})
    assert asked_for == []


@pytest.mark.parametrize(
    ("changes", "production", "wanted", "made", "said"),
    [
        ({}, "", False, None, False),
        ({}, "", True, "DeepDive", False),
        ({"deepdive_on_alert": "warning"}, "", False, "OnAlert", False),
        ({"deepdive_on_alert": "warning"}, "PRISMTOP_PRODUCTION is set", False, None, True),
        ({"deepdive_on_alert": "warning"}, "PRISMTOP_PRODUCTION is set", True, "DeepDive", True),
        ({"deepdive_on_alert": "warning", "readonly": True}, "", True, "DeepDive", True),
    ],
)
def test_captures_can_be_had_where_a_person_or_an_alert_may_ask_for_them(
    monkeypatch: pytest.MonkeyPatch,
    asked_for: list[AttachOptions],
    changes: dict[str, object],
    production: str,
    wanted: bool,
    made: str | None,
    said: bool,
) -> None:
    monkeypatch.setattr("prismtop.anomaly.scope.production_marker", lambda pid: production)
    context, _, report = make_context()
    context = replace(context, settings=Settings(**changes))  # type: ignore[arg-type]
    session = open_session(context, make_group(), {}, deepdive=wanted)
    diver = session._deepdiver
    assert (None if diver is None else type(diver).__name__) == made
    assert any("alerts begin no capture" in sentence for sentence in report.said) is said


@pytest.mark.parametrize(
    ("wanted", "on_alert", "sampled"), [(True, "", 1), (False, "", 0), (False, "cat", 1)]
)
def test_counters_are_sampled_only_where_they_are_wanted_or_an_alert_needs_its_cause(
    monkeypatch: pytest.MonkeyPatch,
    asked_for: list[AttachOptions],
    wanted: bool,
    on_alert: str,
    sampled: int,
) -> None:
    import prismtop.counters.sampler as sampler

    made: list[object] = []

    def fake(settings: object, group: object) -> object:
        made.append(group)
        return SimpleNamespace(read=tuple, close=lambda: None)

    monkeypatch.setattr(sampler, "make_sampler", fake)
    context, _, _ = make_context()
    group = make_group()
    settings = Settings(on_alert=on_alert)
    open_session(replace(context, settings=settings), group, {}, counters=wanted)
    assert made == [group] * sampled
