"""Plain-text rows for a person: `prismtop watch` without `--json`.

Columns are aligned and fixed for a session: the stages are those that the hooks of this engine measure. On a
narrow terminal columns are left out, the least needed first. A value that the engine does not expose is
`n/a`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prismtop.model import STAGES, Batch, Clock, HookStatus

MISSING = "n/a"
_GAP = " "
_STAGE_NEED = {name: {"idle": 8, "stream": 8, "recv": 2, "sample": 2}.get(name, 1) for name in STAGES}


@dataclass(frozen=True)
class Column:
    """One column: heading, width in characters, how a batch is shown in it.

    Columns with `need` 0 are always shown; in a narrow terminal the highest is left out first.
    """

    title: str
    width: int
    show: Callable[[Batch, Clock], str]
    need: int = 0


def columns_for(hooks: Sequence[HookStatus], width: int | None) -> tuple[Column, ...]:
    """The columns for this engine in `width` characters (None: no limit, as into a pipe).

    Stages with an installed hook get a column; without any hook (external only, or not resolved yet) all do.
    """
    measured = {hook.stage for hook in hooks if hook.mechanism and hook.stage}
    stages = [name for name in STAGES if name in measured or not measured]
    columns = [
        Column("seq", 6, lambda b, _: str(b.seq)),
        Column("time", 12, _time, need=4),
        Column("rank", 4, lambda b, _: _count(b.rank), need=9),
        Column("mode", 7, lambda b, _: b.mode.value),
        Column("bs", 3, lambda b, _: _count(b.workload.batch_size)),
        Column("pre+dec", 8, _tokens, need=1),
        Column("ctx", 7, lambda b, _: _count(b.workload.context_tokens), need=3),
        Column("run", 4, lambda b, _: _count(b.workload.running), need=7),
        Column("queued", 6, lambda b, _: _count(b.workload.waiting), need=6),
        Column("kv%", 5, lambda b, _: _percent(b.workload.kv_usage), need=5),
        Column("ms", 7, lambda b, _: _ms(b.duration_ns)),
        Column("period", 7, lambda b, _: _ms(b.period_ns), need=3),
        *(Column(name, max(7, len(name)), _stage(name), need=_STAGE_NEED[name]) for name in stages),
        Column("note", 8, _note, need=10),
    ]
    if width is None:
        return tuple(columns)
    while sum(column.width + len(_GAP) for column in columns) - len(_GAP) > width:
        worst = max(columns, key=lambda column: column.need)
        if worst.need == 0:
            break
        columns.remove(worst)
    return tuple(columns)


def header(columns: Sequence[Column]) -> str:
    """The headings; times are in milliseconds."""
    return _GAP.join(column.title.rjust(column.width) for column in columns)


def row(batch: Batch, clock: Clock, columns: Sequence[Column]) -> str:
    """One batch. A value too wide for its column pushes the rest of the line, and is never cut."""
    return _GAP.join(column.show(batch, clock).rjust(column.width) for column in columns).rstrip()


def _time(batch: Batch, clock: Clock) -> str:
    seconds, rest = divmod(batch.start_ns + clock.wall_minus_mono_ns, 10**9)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{rest // 10**6:03d}"


def _stage(name: str) -> Callable[[Batch, Clock], str]:
    def show(batch: Batch, _: Clock) -> str:
        return _ms(batch.stage_ns().get(name))

    return show


def _note(batch: Batch, _: Clock) -> str:
    words = [] if batch.origin.value == "exact" else [batch.origin.value]
    if batch.suspect:
        words.append("suspect")
    return ",".join(words)


def _tokens(batch: Batch, _: Clock) -> str:
    return f"{_count(batch.workload.prefill_tokens)}+{_count(batch.workload.decode_tokens)}"


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _ms(ns: int | None) -> str:
    return MISSING if ns is None else f"{ns / 1e6:.2f}"
