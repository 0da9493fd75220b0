"""Text of the target is shown as harmless characters, in every widget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual import events

from prismtop.model import (
    Alert,
    Cause,
    Counter,
    EngineMetrics,
    Headroom,
    HookStatus,
    Layer,
    LayerState,
    ModelCard,
    ModelState,
    ProbeCost,
    Recording,
    Replay,
    Severity,
    SloStatus,
    SloTargets,
)
from prismtop.tui.app import Answered
from prismtop.tui.controls import Controls
from prismtop.tui.look import UNICODE
from prismtop.tui.panels import picker
from tests.factories import make_batch
from tests.tui.harness import Clock, screen_text, settle, still, tap
from tests.tui.hostile import FORBIDDEN, HOSTILE, hostile_group
from tests.tui.synthetic import SyntheticSession, finished_capture


def harmless(text: str) -> bool:
    return not any(character in text.replace("\n", "") for character in FORBIDDEN if character != "\n")


KEYS = [
    (), ("p",), ("p", "end"), ("enter",), ("f1",), ("A",), ("C",), ("C", "end"), ("m",), ("m", "end"), ("t",),
    ("f2",),
    ("f6",), ("colon",), ("d",), ("D",), ("R",), ("tab", "tab"),
]  # fmt: skip


@pytest.mark.parametrize("keys", KEYS, ids="-".join)
async def test_every_screen_is_harmless(keys: tuple[str, ...]) -> None:
    clock = Clock()
    session = SyntheticSession(clock, what=hostile_group())
    controls = Controls(start_recording=lambda: HOSTILE, deepdive=lambda: HOSTILE)
    async with still(120, 40, session=session, clock=clock, controls=controls) as (app, pilot):
        frame = session.tick()
        stage = replace(frame.batches[-1].stages[0], hook=HOSTILE)
        worst = make_batch(999, clock.ns, suspect=HOSTILE, stages=(stage,))
        app.show(
            replace(
                frame,
                note=HOSTILE,
                batches=(*frame.batches, worst),
                warnings=(HOSTILE,),
                hooks=(
                    HookStatus(HOSTILE, HOSTILE, 1, "", HOSTILE),
                    HookStatus("x", "", 1, HOSTILE, HOSTILE),
                ),
                costs=(ProbeCost(4242, dropped=(HOSTILE,)),),
                metrics=EngineMetrics(url=HOSTILE, values={HOSTILE: 1.0}),
                target_states={member.id: HOSTILE for member in frame.group.members},
                model=ModelCard(ModelState.STALE, HOSTILE, (HOSTILE,), (HOSTILE,), origin=HOSTILE,
                                regimes=(HOSTILE,)),
                alerts=(
                    Alert(9, HOSTILE, Severity.CRITICAL, clock.ns, clock.ns, 1, 1, 2, 3, 4, HOSTILE,
                          causes=(Cause(HOSTILE, 0.5, HOSTILE, (HOSTILE,), (HOSTILE,), HOSTILE),)),
                ),
                slo=SloStatus(SloTargets(ttft_ms=5.0), 10.0, headroom=Headroom(reason=HOSTILE)),
                counters=(
                    Counter(HOSTILE, HOSTILE, HOSTILE, clock.ns, 1.0, source=HOSTILE),
                    Counter("gpu_clock_limits_bitmask", "gpu 0", "bitmask", clock.ns, 1.0, text=HOSTILE),
                    Counter("x_ratio", HOSTILE, "ratio", clock.ns, reason=HOSTILE),
                ),
                counter_history={},
                capture=replace(
                    finished_capture(), path=HOSTILE, notes=(HOSTILE,),
                    layers=(Layer(HOSTILE, LayerState.ON, HOSTILE, 5),),
                ),
                recording=Recording(HOSTILE, clock.ns, error=HOSTILE),
                replay=Replay(HOSTILE, clock.ns, clock.ns - 1, clock.ns + 1),
            )
        )  # fmt: skip
        await tap(pilot, *keys)
        shown = screen_text(app)
        assert harmless(shown)
        assert "owned" in shown or keys == ("f1",)


async def test_a_failure_with_text_of_the_target_in_it_is_harmless() -> None:
    async with still() as (app, pilot):
        app.on_answered(Answered("recording", OSError(HOSTILE)))
        await settle(pilot)
        shown = screen_text(app)
        assert "recording failed" in shown
        assert harmless(shown)


@pytest.mark.parametrize("kind", ["json", "csv"])
async def test_exported_files_are_harmless(kind: str, tmp_path: Path) -> None:
    clock = Clock()
    session = SyntheticSession(clock, what=hostile_group())
    async with still(session=session, clock=clock, export_dir=str(tmp_path)) as (app, _pilot):
        frame = session.tick()
        app.show(replace(frame, batches=(make_batch(1, clock.ns, engine=HOSTILE, suspect=HOSTILE),)))
        app.export(kind)
        (written,) = tmp_path.iterdir()
        assert written.name.isascii()
        assert harmless(written.read_text(encoding="utf-8"))


async def test_what_is_pasted_into_a_prompt_is_harmless() -> None:
    async with still() as (app, pilot):
        await tap(pilot, "slash")
        app.screen.post_message(events.Paste(HOSTILE))
        await settle(pilot)
        assert harmless(screen_text(app))


async def test_a_reason_why_metrics_are_missing_is_harmless() -> None:
    clock = Clock()
    session = SyntheticSession(clock)
    async with still(120, 40, session=session, clock=clock) as (app, pilot):
        app.show(replace(session.tick(), metrics=EngineMetrics(reason=HOSTILE)))
        await tap(pilot, "p")
        assert harmless(screen_text(app))


async def test_markup_is_shown_as_it_is_written() -> None:
    clock = Clock()
    session = SyntheticSession(clock, what=hostile_group())
    async with still(200, 60, session=session, clock=clock) as (app, pilot):
        await tap(pilot, "p")
        assert "[bold red]markup[/]" in screen_text(app)


def test_the_picker_is_harmless() -> None:
    lines = [*picker.rows([hostile_group()] * 2, 0, 120, UNICODE), *picker.notes(hostile_group(), 120)]
    assert harmless("".join(text for line in lines for text, _ in line))
