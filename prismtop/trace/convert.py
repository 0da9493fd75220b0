"""Traces in other forms: plain or compressed JSON, and batches as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from prismtop.errors import UsageError
from prismtop.model import STAGES, Batch, Clock
from prismtop.safe_text import safe_text
from prismtop.trace.container import WholeReader, decoded
from prismtop.trace.output import EventsFile, finite, new_file
from prismtop.trace.own import WORKLOAD

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")
COLUMNS = (
    "seq",
    "pid",
    "rank",
    "engine",
    "start_unix_us",
    "duration_us",
    "period_us",
    "mode",
    "origin",
    *(f"{stage}_us" for stage in STAGES),
    *WORKLOAD,
    "idle_before_us",
    "expected_us",
    "low_us",
    "high_us",
    "verdict",
    "suspect",
)


def convert(source: Path, target: Path) -> tuple[int, list[str]]:
    """Write `source` in the form that `target`'s name says; how many events or batches, and notes.

    .json is an array (an object when the trace has more than events), .json.gz the same in one gzip member,
    .csv one row for each batch.

    Raises:
        UsageError: `source` is no trace, `target` exists or its name says nothing known.
        UnavailableError: the disk is full.
    """
    name = target.name
    if name.endswith(".csv"):
        return _to_csv(source, target)
    if name.endswith((".json", ".json.gz")):
        return _to_json(source, target)
    raise UsageError(
        f"{safe_text(str(target))} names no known form.", fix="End it in .json, .json.gz or .csv."
    )


def _to_json(source: Path, target: Path) -> tuple[int, list[str]]:
    reader = WholeReader(source)
    blocks = reader.blocks()
    block = next(blocks, None)
    lost = 0
    with new_file(target) as file:
        out = EventsFile(file, as_object=reader.form == "object")
        while block is not None:
            content = decoded(block)
            lost += content.lost
            for _, event in content.events:
                out.put(finite(event)[0])
            block = next(blocks, None)
        out.close(reader.header)
    notes = list(reader.notes)
    if lost:
        notes.append(f"{lost} events could not be read and are left out")
    return out.events, notes


def _to_csv(source: Path, target: Path) -> tuple[int, list[str]]:
    from prismtop.trace.load import load

    trace = load([source])
    count = 0
    with new_file(target) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        rows = csv.writer(text)
        rows.writerow(COLUMNS)
        for batch in trace.batches():
            rows.writerow(csv_row(batch, trace.clock))
            count += 1
        text.flush()
        text.detach()
    return count, list(trace.notes)


def csv_row(batch: Batch, clock: Clock) -> list[str]:
    """One batch as cells; what was not observed is an empty one."""
    stages = batch.stage_ns()
    predicted = batch.prediction
    start_us, rest = divmod(batch.start_ns + clock.wall_minus_mono_ns, 1000)
    cells: Iterable[object] = (
        batch.seq,
        batch.pid,
        batch.rank,
        batch.engine,
        f"{start_us}.{rest:03d}",
        _us(batch.duration_ns),
        _us(batch.period_ns),
        batch.mode.value,
        batch.origin.value,
        *(_us(stages.get(stage)) for stage in STAGES),
        *(getattr(batch.workload, name) for name in WORKLOAD),
        _us(batch.idle_ns or None),
        *(_us(getattr(predicted, name, None)) for name in ("expected_ns", "low_ns", "high_ns")),
        predicted.verdict.value if predicted else None,
        batch.suspect,
    )
    return [csv_cell(cell) for cell in cells]


def csv_cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection): such a text begins with '."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = safe_text(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _us(ns: int | None) -> str | None:
    return None if ns is None else f"{ns // 1000}.{ns % 1000:03d}"
