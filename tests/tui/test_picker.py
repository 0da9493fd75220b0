"""The picker: several engines, one choice."""

from __future__ import annotations

import pytest

from prismtop.model import Group
from prismtop.tui.picker import PickerApp
from tests.factories import make_group, make_target
from tests.tui.harness import same_as_snapshot, screen_text, settings

GROUPS = (
    make_group(make_target(4242, ports=(8000,), model="Qwen/Qwen3-32B")),
    make_group(
        *(make_target(5000 + i, engine="sglang", role="scheduler", ranks=(("TP", i),)) for i in range(4)),
        engine="sglang", version="0.5.3",
    ),
    make_group(
        make_target(6000, way_in="external", refusal="Yama forbids it: kernel.yama.ptrace_scope is 1."),
        engine="transformers", version=None,
    ),
)  # fmt: skip


async def chosen(*keys: str) -> Group | None:
    app = PickerApp(GROUPS, settings())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(*keys)
        await pilot.pause()
    return app.chosen


async def test_enter_takes_the_selected_engine() -> None:
    assert await chosen("down", "enter") is GROUPS[1]


async def test_a_digit_takes_that_engine() -> None:
    assert await chosen("3") is GROUPS[2]


@pytest.mark.parametrize("key", ["q", "escape", "f10", "ctrl+c"])
async def test_leaving_takes_none(key: str) -> None:
    assert await chosen("down", key) is None


async def test_end_and_home_go_to_both_ends() -> None:
    assert await chosen("end", "enter") is GROUPS[2]
    assert await chosen("end", "home", "enter") is GROUPS[0]


async def test_a_digit_without_an_engine_does_nothing() -> None:
    assert await chosen("9") is None


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_picker_screen(size: tuple[int, int]) -> None:
    app = PickerApp(GROUPS, settings())
    async with app.run_test(size=size) as pilot:
        await pilot.press("down", "down")
        await pilot.pause()
        same_as_snapshot(f"picker-{size[0]}x{size[1]}-default", screen_text(app))


async def test_many_engines_scroll() -> None:
    app = PickerApp(GROUPS * 20, settings())
    async with app.run_test(size=(80, 12)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        assert ">" in screen_text(app)
