"""Reads the batch tables of the LatencyPrism artifact (arXiv 2601.09258): vLLM and SGLang.

The vLLM table has one row a scheduler step, but neither a forward mode nor the prompt tokens of a step: both
are reconstructed from the next row of the same job, as `shared/latency-model.md` section 0 describes (a live
probe reads them before the step). A step is taken for mixed when a request appears after it, or while fewer
requests run than the job keeps in flight.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from prismtop.errors import UsageError
from prismtop.model import Batch, Mode, Origin, Workload
from prismtop.safe_text import safe_text

TOKEN_BUDGET = 2048
"""Scheduled tokens of one step in the artifact's vLLM deployment."""
SLACK_SHARE, SLACK_TOKENS = 0.006, 0.3
"""What rounding of the averages in the table may hide, of a sum over a batch."""
LAST = "the last batch of a job: what it carried cannot be told without the next"
_JOB = re.compile(r"in(\d+)_out(\d+)_conc(\d+)")
_SGLANG_MODES = {1: Mode.PREFILL, 2: Mode.DECODE, 3: Mode.MIXED, 4: Mode.IDLE}
_VLLM_COLUMNS = {"start_ts", "duration_us", "batch_size", "avg_input_length", "avg_output_length"}
_SGLANG_COLUMNS = {f"compute_{name}" for name in ("batch_size", "avg_input_length", "forward_mode")}


@dataclass(frozen=True)
class Table:
    """What a file holds.

    Attributes:
        engine: vllm or sglang.
        batches: in file order.
        jobs: the job of each batch, where the file names it.
        bad_rows: rows that hold no usable numbers, left out.
        anomalous: per batch whether the file labels it (column `anomaly`); None without labels.
    """

    engine: str
    batches: tuple[Batch, ...]
    jobs: tuple[str, ...]
    bad_rows: int
    anomalous: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class _Row:
    job: str
    start_us: float
    duration_us: float
    size: int
    inputs: float
    outputs: float
    longest: float
    mode: int
    anomaly: bool


def is_table(path: Path) -> bool:
    """Whether the file's first line names the columns of such a table. Raises OSError."""
    return _engine_of(_header(path)) is not None


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        UsageError: the file cannot be read, is not such a table, or has no usable row.
    """
    try:
        header = _header(path)
        engine = _engine_of(header)
        if engine is None:
            raise UsageError(
                f"{safe_text(str(path))} is not a batch table of LatencyPrism: columns "
                f"{', '.join(sorted(_VLLM_COLUMNS - set(header)))} are missing.",
                fix="Give a trace, or a table like its normal_vllm.csv.",
            )
        rows, bad = _rows(path, "compute_" if engine == "sglang" else "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{safe_text(str(path))} cannot be read: {safe_text(str(error))}.", fix="Check the file."
        ) from None
    if not rows:
        raise UsageError(f"{safe_text(str(path))} has no usable row.", fix="Check the file.")
    batches: list[Batch] = []
    for _, group in groupby(rows, key=lambda row: row.job):
        batches.extend(_batches(list(group), engine, len(batches)))
    labelled = "anomaly" in header
    return Table(
        engine,
        tuple(batches),
        tuple(row.job for row in rows),
        bad,
        tuple(row.anomaly for row in rows) if labelled else None,
    )


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _engine_of(header: Sequence[str]) -> str | None:
    names = set(header)
    if names >= _VLLM_COLUMNS:
        return "vllm"
    return "sglang" if names >= _SGLANG_COLUMNS | {"start_ts", "duration_us"} else None


def _rows(path: Path, prefix: str) -> tuple[list[_Row], int]:
    rows, bad = [], 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for entry in csv.DictReader(file):
            row = _row(entry, prefix)
            if row is None:
                bad += 1
            else:
                rows.append(row)
    return rows, bad


def _row(entry: dict[str, str], prefix: str) -> _Row | None:
    def number(name: str, default: str | None = None) -> float:
        value = float(entry.get(name) or (default if default is not None else "nan"))
        if not math.isfinite(value):
            raise ValueError(name)
        return value

    try:
        row = _Row(
            job=entry.get("job_name") or "",
            start_us=number("start_ts"),
            duration_us=number("duration_us"),
            size=int(number(prefix + "batch_size")),
            inputs=number(prefix + "avg_input_length"),
            outputs=number(prefix + "avg_output_length"),
            longest=number(prefix + "max_input_length", "0") + number(prefix + "max_output_length", "0"),
            mode=int(number("compute_forward_mode", "0")),
            anomaly=bool(int(number("anomaly", "0"))),
        )
    except (TypeError, ValueError, OverflowError):
        return None
    usable = row.duration_us > 0 and row.size >= 0 and row.inputs >= 0 and row.outputs >= 0
    return row if usable and 0 <= row.start_us < 9e15 else None


def _batches(rows: Sequence[_Row], engine: str, seq: int) -> Iterator[Batch]:
    """The batches of one job."""
    job = _JOB.search(rows[0].job)
    shape = (int(job[1]), int(job[2]), int(job[3])) if job else None
    before: _Row | None = None
    for n, row in enumerate(rows):
        after = rows[n + 1] if n + 1 < len(rows) else None
        mode, work = _sglang(row) if engine == "sglang" else _vllm(row, after, shape)
        start_ns = round(row.start_us * 1000)
        duration_ns = max(1, round(row.duration_us * 1000))
        period_ns = None
        if before is not None and row.start_us >= before.start_us and not _waited(before, row):
            period_ns = start_ns + duration_ns - round((before.start_us + before.duration_us) * 1000)
        yield Batch(
            pid=0,
            engine=engine,
            seq=seq + n,
            start_ns=start_ns,
            duration_ns=duration_ns,
            period_ns=period_ns if period_ns is None or period_ns > 0 else None,
            mode=mode,
            workload=work,
            origin=Origin.TRACE,
            suspect=LAST if after is None and engine == "vllm" else "",
        )
        before = row


def _waited(before: _Row, row: _Row) -> bool:
    """Whether the engine had nothing to do before this row: its only request finished, and another came."""
    return before.size == row.size == 1 and row.outputs <= before.outputs


def _vllm(row: _Row, after: _Row | None, shape: tuple[int, int, int] | None) -> tuple[Mode, Workload]:
    context = round(row.size * (row.inputs + row.outputs))
    if shape is None:
        return Mode.UNKNOWN, Workload(batch_size=row.size, context_tokens=context)
    prompt, output, concurrency = shape
    if row.size == 1 == concurrency and row.outputs >= output:
        # Everything was generated: the step that only takes the finished request out.
        return Mode.IDLE, Workload(batch_size=row.size, prefill_tokens=0, decode_tokens=0)
    new = _new_requests(row, after, output) if after else 0
    if new or (after and row.size < concurrency):
        prefill = min(new * prompt, max(0, TOKEN_BUDGET - row.size)) if new else None
        work = Workload(
            batch_size=row.size + new,
            prefill_tokens=prefill,
            decode_tokens=row.size,
            context_tokens=context,
            new_requests=new,
        )
        return Mode.MIXED, work
    return Mode.DECODE, Workload(
        batch_size=row.size,
        prefill_tokens=0,
        decode_tokens=row.size,
        context_tokens=context,
        running=row.size,
    )


def _new_requests(row: _Row, after: _Row, output: int) -> int:
    """Requests whose prompt was computed in this step: those that appear in the next row, beyond those that
    replaced finished ones. A request that finishes takes `output` tokens out of the sum of outputs.
    """
    grown = after.size - row.size
    missing = grown - (after.size * after.outputs - row.size * row.outputs - row.size)
    slack = SLACK_SHARE * (row.size + after.size) + SLACK_TOKENS
    finished = math.ceil((missing - slack) / output) if missing > slack and output else 0
    return max(0, grown + finished)


def _sglang(row: _Row) -> tuple[Mode, Workload]:
    mode = _SGLANG_MODES.get(row.mode, Mode.UNKNOWN)
    context = round(row.size * (row.inputs + row.outputs))
    if mode is Mode.PREFILL:
        # Without what the prefix cache served, which the table does not say.
        return mode, Workload(
            batch_size=row.size,
            prefill_tokens=round(row.size * row.inputs),
            decode_tokens=0,
            context_tokens=context,
            new_requests=row.size,
        )
    if mode is Mode.DECODE:
        return mode, Workload(
            batch_size=row.size, prefill_tokens=0, decode_tokens=row.size, context_tokens=context
        )
    return mode, Workload(batch_size=row.size, context_tokens=context)
