"""What a deep capture amounts to, for `prismtop analyze`: as text, as JSON, and as rows for the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prismtop.deepdive.analysis import DeepAnalysis, NamedTime, RankWork
from prismtop.export.text_report import MISSING, table
from prismtop.model import Part
from prismtop.safe_text import safe_text

SHOWN = 12
"""Names of each table as text; JSON has all that are kept."""
_NAME = 64
_HOST = (
    ("operators", "operators_ns"),
    ("launching", "launches_ns"),
    ("syncs", "syncs_ns"),
    ("other calls", "runtime_ns"),
    ("Python, rest", "other_ns"),
    ("gc", "gc_ns"),
    ("run queue", "runqueue_ns"),
    ("off CPU", "off_cpu_ns"),
)
_DEVICE = (
    ("busy", "busy_ns"),
    ("idle", "idle_ns"),
    ("compute", "compute_ns"),
    ("collectives", "collective_ns"),
    ("exposed", "exposed_ns"),
    ("copies", "copy_ns"),
)
TABLES = (
    ("kernels", "kernels"),
    ("collectives", "collectives"),
    ("copies", "copies and memsets"),
    ("operators", "operators, self time on the host"),
)
"""Fields of `DeepAnalysis`, and their titles."""
Rows = list[tuple[str, ...]]


def deep_lines(deep: DeepAnalysis) -> Iterator[str]:
    """The part of a report that comes from operators and device events."""
    yield "deep capture"
    yield from (f"  {line}" for line in facts(deep))
    for title, header, rows in parts_tables(deep):
        yield ""
        yield title
        yield from table(header, rows, left=1)
    if deep.ranks:
        yield ""
        yield "ranks, ms in an average batch"
        yield from table(RANKS, rank_rows(deep.ranks), left=1)
    for name, title in TABLES:
        listed: tuple[NamedTime, ...] = getattr(deep, name)
        if listed:
            yield ""
            yield title
            yield from table(NAMES, name_rows(listed, SHOWN), left=1)
            if len(listed) > SHOWN:
                yield f"  and {len(listed) - SHOWN} more (--json has them)"


def capture_lines(captured: Mapping[str, Any] | None) -> Iterator[str]:
    """What a capture says of its layers and its cost. It stands in a file: nothing of it is trusted."""
    layers = captured.get("layers") if captured else None
    if captured is None or not isinstance(layers, list):
        return
    yield ""
    yield f"layers of capture {safe_text(captured.get('number'), 12)}"
    rows = []
    for layer in layers[:100]:
        if isinstance(layer, Mapping):
            pid = layer.get("pid")
            cells = (layer.get("name"), pid if pid else "", layer.get("state"), layer.get("events"))
            name, process, state, events = (
                MISSING if cell is None else safe_text(str(cell), 24) for cell in cells
            )
            rows.append((name, state, safe_text(str(layer.get("reason") or ""), 90), process, events))
    yield from table(("layer", "state", "how, or why not", "pid", "events"), rows, left=3)
    error = captured.get("clock_error_ns")
    if isinstance(error, int):
        yield f"clocks agree to {error / 1e3:.1f} us"
    times = [(name, captured.get(f"{name}_ms")) for name in ("before", "during", "after")]
    said = ", ".join(f"{name} {value:.3f}" for name, value in times if isinstance(value, (int, float)))
    if said:
        yield f"a batch took, ms: {said}"


def facts(deep: DeepAnalysis) -> Iterator[str]:
    """Sentences."""
    bounds = ", ".join(f"{count} {bound.value}-bound" for bound, count in sorted(deep.bounds.items()))
    yield f"{deep.batches} batches broken down" + (f": {bounds}" if bounds else "")
    yield from deep.findings
    if deep.reason:
        yield deep.reason
    if deep.late:
        yield deep.late


def parts_tables(deep: DeepAnalysis) -> Iterator[tuple[str, tuple[str, ...], Rows]]:
    """Titles, headers and rows of host and device time, ms in an average batch."""
    many = max(1, deep.batches)
    rows: Rows = []
    for stage, part in deep.parts.items():
        known = {name: max(1, many - deep.unknown.get((stage, name), 0)) for name in vars(part.host)}
        times = (_ms(vars(part.host)[field], known[field]) for _, field in _HOST)
        calls = part.host.launches
        each = MISSING if calls is None else f"{calls / known['launches']:.1f}"
        rows.append((stage or "all", _ms(part.wall_ns, many), *times, each))
    header = ("stage", "length", *(label for label, _ in _HOST), "launches")
    yield "model thread, ms in an average batch (of these: gc, run queue, off CPU)", header, rows
    rows = []
    for stage, part in deep.parts.items():
        device = part.device
        if device is not None:
            times = (_ms(vars(device)[field], many) for _, field in _DEVICE)
            more = (
                f"{device.gaps / many:.1f}",
                _ms(device.longest_gap_ns, 1),
                f"{device.kernels / many:.1f}",
            )
            rows.append((stage or "all", *times, *more))
    if rows:
        header = ("stage", *(label for label, _ in _DEVICE), "gaps", "longest gap", "kernels")
        yield "device, ms in an average batch", header, rows


NAMES = ("name", "calls", "total ms", "mean us", "longest us", "share")
RANKS = ("rank", "pid", "batches", "host before collective", "compute", "collectives", "exposed")


def name_rows(listed: Sequence[NamedTime], most: int) -> Rows:
    """Rows under `NAMES`."""
    whole = sum(one.total_ns for one in listed) or 1
    return [
        (
            safe_text(one.name, _NAME),
            str(one.calls),
            f"{one.total_ns / 1e6:.3f}",
            f"{one.total_ns / one.calls / 1e3:.1f}",
            f"{one.longest_ns / 1e3:.1f}",
            f"{100 * one.total_ns / whole:.1f} %",
        )
        for one in listed[:most]
    ]


def rank_rows(ranks: Sequence[RankWork]) -> Rows:
    """Rows under `RANKS`."""
    return [
        (
            MISSING if one.rank is None else str(one.rank),
            str(one.pid),
            str(one.batches),
            MISSING if one.pre_collective_ns is None else f"{one.pre_collective_ns / 1e6:.3f}",
            f"{one.compute_ns / 1e6:.3f}",
            f"{one.collective_ns / 1e6:.3f}",
            f"{one.exposed_ns / 1e6:.3f}",
        )
        for one in ranks
    ]


def deep_object(deep: DeepAnalysis) -> dict[str, Any]:
    """`analyze --json`, under `deepdive`. Milliseconds over all batches that were broken down; what a
    trace does not show is absent.
    """
    made: dict[str, Any] = {
        "batches": deep.batches,
        "bounds": {bound.value: count for bound, count in sorted(deep.bounds.items())},
        "parts_ms": {stage or "all": _part_object(part, deep.unknown) for stage, part in deep.parts.items()},
    }
    for name, _ in TABLES:
        made[name] = [
            {
                "name": safe_text(one.name),
                "calls": one.calls,
                "total_ms": round(one.total_ns / 1e6, 6),
                "longest_ms": round(one.longest_ns / 1e6, 6),
            }
            for one in getattr(deep, name)
        ]
    if deep.ranks:
        made["ranks"] = [_rank_object(one) for one in deep.ranks]
    if deep.findings:
        made["findings"] = [safe_text(line) for line in deep.findings]
    for name in ("late", "reason"):
        if getattr(deep, name):
            made[name] = safe_text(getattr(deep, name))
    return made


def _part_object(part: Part, unknown: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    host = {
        name.removesuffix("_ns"): round(value / 1e6, 6) if name.endswith("_ns") else value
        for name, value in vars(part.host).items()
        if value is not None
    }
    made: dict[str, Any] = {"wall": round(part.wall_ns / 1e6, 6), "host": host}
    partly = {
        name.removesuffix("_ns"): unknown[part.stage, name]
        for name, value in vars(part.host).items()
        if value is not None and unknown.get((part.stage, name))
    }
    if partly:
        made["unknown_batches"] = partly
    if part.device is not None:
        made["device"] = {
            name.removesuffix("_ns"): round(value / 1e6, 6) if name.endswith("_ns") else value
            for name, value in vars(part.device).items()
        }
    return made


def _rank_object(work: RankWork) -> dict[str, Any]:
    return {
        name.replace("_ns", "_ms"): round(value / 1e6, 6) if name.endswith("_ns") else value
        for name, value in vars(work).items()
        if value is not None
    }


def _ms(value: int | None, many: int) -> str:
    return MISSING if value is None else f"{value / many / 1e6:.3f}"
