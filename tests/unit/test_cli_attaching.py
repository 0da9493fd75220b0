"""From settings and a group to the options of an attach; gdb only with consent."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

import prismtop.attach.preflight as preflight_module
import prismtop.sources.live as live
from prismtop.attach.preflight import WayIn
from prismtop.commands.attaching import open_session
from prismtop.errors import UnavailableError
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


@pytest.mark.parametrize("wanted", [True, False])
def test_counters_are_sampled_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, asked_for: list[AttachOptions], wanted: bool
) -> None:
    import prismtop.counters.sampler as sampler

    made: list[object] = []

    def fake(settings: object, group: object) -> object:
        made.append(group)
        return SimpleNamespace(read=tuple, close=lambda: None)

    monkeypatch.setattr(sampler, "make_sampler", fake)
    context, _, _ = make_context()
    group = make_group()
    open_session(context, group, {}, counters=wanted)
    assert made == ([group] if wanted else [])
