"""The table of `watch`."""

from __future__ import annotations

import pytest

from prismtop.export import table
from prismtop.model import Clock, HookStatus, Workload
from tests.factories import make_batch

CLOCK = Clock(0)
HOOKS = tuple(
    HookStatus(name, name, 1, "monitoring") for name in ("schedule", "prepare", "launch", "wait", "post")
)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_rows_fit_the_terminal_and_line_up_with_their_headings(width: int) -> None:
    columns = table.columns_for(HOOKS, width)
    heading, row = table.header(columns), table.row(make_batch(), CLOCK, columns)
    assert len(heading) <= width
    assert len(row) <= len(heading)
    for name in ("ms", "post"):
        assert row[heading.index(name) + len(name) - 1] != " "


def test_eighty_columns_show_mode_size_tokens_time_and_every_measured_stage() -> None:
    heading = table.header(table.columns_for(HOOKS, 80)).split()
    assert heading == ["seq", "mode", "bs", "pre+dec", "ms", "schedule", "prepare", "launch", "wait", "post"]


def test_a_pipe_gets_every_column() -> None:
    heading = table.header(table.columns_for(HOOKS, None)).split()
    assert {"time", "rank", "queued", "kv%", "period", "note"} <= set(heading)


def test_stages_that_no_hook_measures_have_no_column() -> None:
    hooks = (*HOOKS, HookStatus("sample", "sample", 1, "", "module not loaded"))
    assert "sample" not in table.header(table.columns_for(hooks, None))


def test_a_value_that_is_not_exposed_is_not_available_and_not_zero() -> None:
    columns = table.columns_for(HOOKS, None)
    row = table.row(make_batch(workload=Workload(), period_ns=None, stages=()), CLOCK, columns).split()
    shown = dict(zip(table.header(columns).split(), row, strict=False))
    assert {shown[name] for name in ("bs", "ctx", "queued", "kv%", "period", "wait")} == {"n/a"}


def test_stage_times_are_milliseconds() -> None:
    columns = table.columns_for(HOOKS, 80)
    assert table.row(make_batch(), CLOCK, columns).split()[-2:] == ["5.00", "0.40"]


def test_a_doubtful_batch_is_marked() -> None:
    columns = table.columns_for(HOOKS, None)
    assert table.row(make_batch(suspect="a stage was lost"), CLOCK, columns).endswith("suspect")
