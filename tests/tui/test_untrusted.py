"""Text of the target is shown as harmless characters, in every widget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prismtop.model import EngineMetrics, HookStatus, ProbeCost
from prismtop.tui.look import UNICODE
from prismtop.tui.panels import picker
from tests.factories import make_batch
from tests.tui.harness import Clock, screen_text, still
from tests.tui.hostile import FORBIDDEN, HOSTILE, hostile_group
from tests.tui.synthetic import SyntheticSession


def harmless(text: str) -> bool:
    return not any(character in text.replace("\n", "") for character in FORBIDDEN if character != "\n")


@pytest.mark.parametrize("keys", [(), ("p",), ("p", "end"), ("enter",), ("f1",)], ids="-".join)
async def test_every_screen_is_harmless(keys: tuple[str, ...]) -> None:
    clock = Clock()
    session = SyntheticSession(clock, what=hostile_group())
    async with still(120, 40, session=session, clock=clock) as (app, pilot):
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
            )
        )
        await pilot.press(*keys)
        await pilot.pause()
        shown = screen_text(app)
        assert harmless(shown)
        assert "owned" in shown or keys == ("f1",)


async def test_a_reason_why_metrics_are_missing_is_harmless() -> None:
    clock = Clock()
    session = SyntheticSession(clock)
    async with still(120, 40, session=session, clock=clock) as (app, pilot):
        app.show(replace(session.tick(), metrics=EngineMetrics(reason=HOSTILE)))
        await pilot.press("p")
        await pilot.pause()
        assert harmless(screen_text(app))


async def test_markup_is_shown_as_it_is_written() -> None:
    clock = Clock()
    session = SyntheticSession(clock, what=hostile_group())
    async with still(200, 60, session=session, clock=clock) as (app, pilot):
        await pilot.press("p")
        await pilot.pause()
        assert "[bold red]markup[/]" in screen_text(app)


def test_the_picker_is_harmless() -> None:
    lines = [*picker.rows([hostile_group()] * 2, 0, 120, UNICODE), *picker.notes(hostile_group(), 120)]
    assert harmless("".join(text for line in lines for text, _ in line))
