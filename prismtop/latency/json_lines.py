"""Reads batches and ground truth from the JSON lines of `prismtop watch --json`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from prismtop.errors import UsageError
from prismtop.latency.score import Truth
from prismtop.model import Batch, Mode, Origin, Stage, Workload
from prismtop.safe_text import safe_text

_INTEGERS = tuple(f.name for f in fields(Workload) if f.name not in ("sampled", "kv_usage"))


@dataclass(frozen=True)
class Lines:
    """What a file holds.

    Attributes:
        truths: None when no line is of type `ground_truth`.
        notes: sentences about lines that were left out.
    """

    engine: str
    batches: tuple[Batch, ...]
    truths: tuple[Truth, ...] | None
    notes: tuple[str, ...]


def looks_like_lines(path: Path) -> bool:
    """Whether the first line is an object with our version and type; False for what cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = json.loads(file.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "v" in first and "type" in first


def read_lines(path: Path) -> Lines:
    """Read a file; broken lines are left out and counted.

    Raises:
        UsageError: the file cannot be read, or no line is one of ours.
    """
    batches: list[Batch] = []
    truths: list[Truth] = []
    engine, bad, ours, labelled = "", 0, 0, False
    try:
        with path.open(encoding="utf-8") as file:
            for text in file:
                if not text.strip():
                    continue
                try:
                    line = json.loads(text, parse_float=Decimal)
                    kind = line["type"]
                    if kind == "batch":
                        batches.append(_batch(line, len(batches)))
                    elif kind == "ground_truth":
                        if line.get("kind") != "control":  # nothing is to be found in a workload shift
                            truths.append(_truth(line))
                        labelled = True
                    elif kind == "session":
                        engine = str(line.get("engine", ""))
                    ours += 1
                except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation, OverflowError):
                    bad += 1
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{safe_text(str(path))} cannot be read: {safe_text(str(error), 120)}.", fix="Check the file."
        ) from None
    if not ours:
        raise UsageError(
            f"{safe_text(str(path))} is no trace that prismtop can score.",
            fix="Give JSON lines of `prismtop watch --json`, a trace, or a LatencyPrism CSV.",
        )
    notes = (f"{bad} lines could not be read and were left out",) if bad else ()
    if not engine and batches:
        engine = batches[0].engine
    return Lines(engine, tuple(batches), tuple(truths) if labelled else None, notes)


def _ns(value: Any) -> int:
    """Microseconds, as written, to whole nanoseconds. Raises ValueError for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or not math.isfinite(value):
        raise ValueError(value)
    return int(Decimal(value) * 1000)


def _batch(line: dict[str, Any], count: int) -> Batch:
    work = line.get("workload") or {}
    start = _ns(line["t_us"])
    usage = work.get("kv_usage")
    stages, at = [], start
    for name, length in (line.get("stages") or {}).items():
        duration = _ns(length)
        stages.append(Stage(str(name), str(name), at, duration, int(line["pid"]), span_ns=duration))
        at += duration
    return Batch(
        pid=int(line["pid"]),
        engine=str(line.get("engine", "")),
        seq=int(line.get("seq", count)),
        start_ns=start,
        duration_ns=_ns(line["dur_us"]),
        period_ns=_ns(line["period_us"]) if "period_us" in line else None,
        mode=Mode(line.get("mode", "unknown")),
        stages=tuple(stages),
        workload=Workload(
            **{name: int(work[name]) for name in _INTEGERS if name in work},
            kv_usage=float(usage) if usage is not None else None,
            sampled=frozenset(map(str, work.get("sampled", ()))),
        ),
        origin=Origin(line.get("origin", "exact")),
        rank=line.get("rank"),
        idle_ns=_ns(line.get("idle_us", 0)),
        suspect=str(line.get("suspect", "")),
    )


def _truth(line: dict[str, Any]) -> Truth:
    start = _ns(line["t_us"])
    effect = line.get("effect")
    return Truth(
        start, start + _ns(line["dur_us"]), str(line.get("id", "")), None if effect is None else bool(effect)
    )
