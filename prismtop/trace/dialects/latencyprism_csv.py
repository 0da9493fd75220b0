"""The processed CSVs of the LatencyPrism artifact: batches, per-cycle function statistics, counters.

| columns | what it is |
|---|---|
| `start_ts, duration_us, batch_size, ...` | one batch a row (vLLM) |
| `start_ts, duration_us, compute_batch_size, ..., compute_forward_mode` | one batch a row (SGLang) |
| `cycle, anchor_name, anchor_dur_us, cycle_start_ts, ...` | functions and kernels of a cycle, a row each |
| `counter_name, timestamp, value, hostname` | readings |

Times are Unix microseconds. The counters name no device: where a name has several readings of one time, they
are told apart by their order, as `unnamed 0`, `unnamed 1`, ...
"""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prismtop.errors import PrismtopError, UsageError
from prismtop.model import Batch, Counter, Mode, Origin, Stage, Workload
from prismtop.trace.dialects.found import Foreign
from prismtop.trace.lenient import number_of
from prismtop.trace.unpack import Unpacked

MAX_LINE = 1 << 20
MAX_TABLE = 32 << 20
MAX_ROWS = 2_000_000
_BATCHES = {"start_ts", "duration_us"}
_CYCLES = {"cycle", "anchor_dur_us", "cycle_start_ts"}
_COUNTERS = {"counter_name", "timestamp", "value"}
_SGLANG_MODES = {
    "1": Mode.PREFILL,
    "2": Mode.DECODE,
    "3": Mode.MIXED,
    "4": Mode.IDLE,
}  # ForwardMode, SGLang 0.5
_OF_PROCESS = re.compile(r"^(process_\w+?)_([\d.]+(?:e\+\d+)?)$")
_TIME = re.compile(r"^(\d{1,16})(?:\.(\d{1,9})\d*)?$")
_Row = dict[str, str]


def is_csv(head: bytes) -> bool:
    """Whether the first line of a file is that of one of these tables."""
    columns = _columns(head.split(b"\n", 1)[0])
    return columns >= _BATCHES or columns >= _CYCLES or columns >= _COUNTERS


def read_csv(path: Path) -> Foreign:
    """A CSV of the artifact.

    Raises:
        UsageError: it cannot be read, or has no row that makes sense.
    """
    source = Unpacked(path)
    rows = _rows(source)
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{source.name} has no rows.", fix="Name a table that holds batches or counters.")
    columns = set(first)
    batches: list[Batch] = []
    counters: list[Counter] = []
    number = 0
    if columns >= _COUNTERS:
        counters, number = _read_counters(_all(first, rows))
        skipped = number - len(counters)
    elif columns >= _CYCLES:
        batches, number = _read_cycles(_all(first, rows))
        skipped = 0
    else:
        batches, number = _read_batches(_all(first, rows))
        skipped = number - len(batches)
        batches = _with_modes(source, batches)
    if not batches and not counters:
        raise UsageError(
            f"{source.name} has no row that could be read.",
            fix="Name a table that holds batches or counters.",
        )
    times = [(b.start_ns, b.end_ns) for b in batches] + [(c.time_ns, c.time_ns) for c in counters]
    return Foreign(
        dialect="latencyprism-csv",
        engine=batches[0].engine if batches else "unknown",
        pid=batches[0].pid if batches else 0,
        rank=None,
        device="",
        batches=lambda: iter(batches),
        counters=lambda: iter(counters),
        count=len(batches),
        how="rows of the table" if batches else "no batches",
        start_ns=min(start for start, _ in times),
        end_ns=max(end for _, end in times),
        wall=True,
        notes=tuple(source.notes),
        events=number,
        skipped=skipped,
    )


def _columns(line: bytes) -> set[str]:
    return {
        name.strip().strip('"') for name in line[:4096].decode("utf-8", "replace").lstrip("\ufeff").split(",")
    }


def _rows(source: Unpacked) -> Iterator[_Row]:
    reader = csv.reader(_lines(source))
    try:
        names = [name.strip().lstrip("\ufeff") for name in next(reader, [])]
        for number, row in enumerate(reader):
            if number >= MAX_ROWS:
                source.notes.append(f"only the first {MAX_ROWS} rows were used")
                return
            yield dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise UsageError(f"{source.name} is not a table: {error}.", fix="Save it as CSV again.") from None


def _lines(source: Unpacked) -> Iterator[str]:
    rest = b""
    for piece in source.pieces():
        rest += piece.replace(b"\0", b"")
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace") + "\n"
        if len(rest) > MAX_LINE:
            raise UsageError(f"{source.name} has a line of more than 1 MiB: it is no table.")
    if rest:
        yield rest.decode("utf-8", "replace")


def _all(first: _Row, rest: Iterator[_Row]) -> Iterator[_Row]:
    yield first
    yield from rest


def _with_modes(source: Unpacked, batches: list[Batch]) -> list[Batch]:
    """The same batches with forward modes and tokens reconstructed as the latency model was measured with
    them; unchanged where that cannot be: without `prismtop.latency`, or for a table too large to be held.
    """
    try:
        tables = importlib.import_module("prismtop.latency.paper_csv")
    except ImportError:
        return batches
    if source.packed or source.path.stat().st_size > MAX_TABLE:
        return batches
    try:
        known = sorted(tables.read_table(source.path).batches, key=lambda batch: batch.start_ns)
    except PrismtopError:
        return batches
    if len(known) != len(batches):
        return batches
    return [
        replace(batch, mode=other.mode, workload=other.workload, suspect=other.suspect)
        if other.mode is not Mode.UNKNOWN
        else batch
        for batch, other in zip(batches, known, strict=True)
    ]


def _read_batches(rows: Iterator[_Row]) -> tuple[list[Batch], int]:
    made: list[Batch] = []
    jobs: list[str] = []
    number = 0
    for row in rows:
        number += 1
        start, length = _ns(row.get("start_ts")), _ns(row.get("duration_us"))
        if start is None or length is None:
            continue
        sglang = "compute_batch_size" in row
        prefix = "compute_" if sglang else ""
        size = _whole(row.get(f"{prefix}batch_size"))
        lengths = [number_of(row.get(f"{prefix}avg_{part}_length")) for part in ("input", "output")]
        longest = [number_of(row.get(f"{prefix}max_{part}_length")) for part in ("input", "output")]
        context = None if size is None or None in lengths else round(size * sum(x or 0 for x in lengths))
        mode = _SGLANG_MODES.get(row.get("compute_forward_mode", "").strip(), Mode.UNKNOWN)
        workload = Workload(
            batch_size=size,
            prefill_tokens=0 if mode is Mode.DECODE else None,
            decode_tokens=size if mode is Mode.DECODE else None,
            context_tokens=context,
            max_context=None if None in longest else round(sum(x or 0 for x in longest)),
        )
        engine = "sglang" if sglang else "vllm"
        made.append(Batch(0, engine, 0, start, length, mode=mode, workload=workload, origin=Origin.TRACE))
        jobs.append(row.get("job_name", ""))
    return _in_order(made, jobs), number


def _read_cycles(rows: Iterator[_Row]) -> tuple[list[Batch], int]:
    """A cycle is a batch; of its functions only time blocked on the device is a stage of the host."""
    cycles: dict[tuple[str, str], tuple[int, int, int, str]] = {}
    waits: dict[tuple[str, str], tuple[int, str]] = {}
    number = 0
    for row in rows:
        number += 1
        start, length = _ns(row.get("cycle_start_ts")), _ns(row.get("anchor_dur_us"))
        pid = _whole(row.get("pid"))
        if start is None or length is None or pid is None:
            continue
        key = (row.get("cycle", ""), row.get("pid", ""))
        cycles.setdefault(key, (start, length, pid, row.get("anchor_name", "")))
        blocked = _ns(row.get("duration"))
        if row.get("func_type") == "cpu_sync" and blocked is not None:
            waits[key] = (waits.get(key, (0, ""))[0] + blocked, row.get("simple_name", "")[:80])
    made = []
    for key, (start, length, pid, anchor) in cycles.items():
        stages: tuple[Stage, ...] = ()
        if key in waits:
            blocked, name = waits[key]
            blocked = min(blocked, length)
            stages = (Stage("wait", name, start, blocked, pid, span_ns=blocked),)
        engine = "vllm" if "EngineCore" in anchor else "sglang" if "Scheduler" in anchor else "unknown"
        made.append(Batch(pid, engine, 0, start, length, stages=stages, origin=Origin.TRACE))
    return _in_order(made, [""] * len(made)), number


def _in_order(batches: list[Batch], jobs: list[str]) -> list[Batch]:
    """By start, numbered, with periods inside a job."""
    order = sorted(range(len(batches)), key=lambda n: batches[n].start_ns)
    made: list[Batch] = []
    for seq, n in enumerate(order):
        batch = batches[n]
        period = None
        if made and jobs[order[seq - 1]] == jobs[n] and batch.end_ns > made[-1].end_ns:
            period = batch.end_ns - made[-1].end_ns
        made.append(replace(batch, seq=seq, period_ns=period))
    return made


def _read_counters(rows: Iterator[_Row]) -> tuple[list[Counter], int]:
    readings: list[tuple[int, str, str, float]] = []
    seen: dict[tuple[str, str, int], int] = {}
    several: set[tuple[str, str]] = set()
    places: list[int] = []
    number = 0
    for row in rows:
        number += 1
        at, value = _ns(row.get("timestamp")), number_of(row.get("value"))
        name, host = row.get("counter_name", "")[:200], row.get("hostname", "")[:200]
        if at is None or value is None or not name:
            continue
        place = seen.get((name, host, at), 0)
        seen[name, host, at] = place + 1
        if place:
            several.add((name, host))
        readings.append((at, name, host, value))
        places.append(place)
    made = []
    for (at, name, host, value), place in zip(readings, places, strict=True):
        found = _OF_PROCESS.match(name)
        device = host or "host"
        if found:
            name, device = found[1], f"pid {round(float(found[2]))}"
        elif (name, host) in several:
            device = f"{host} unnamed {place}".strip()
        made.append(Counter(name, device, "", at, value, source="trace"))
    made.sort(key=lambda counter: counter.time_ns)
    return made, number


def _ns(text: str | None) -> int | None:
    """Nanoseconds of microseconds in decimal, exactly; None when it is no such number."""
    found = _TIME.match((text or "").strip())
    if not found:
        return None
    whole, rest = int(found[1]), (found[2] or "")[:3].ljust(3, "0")
    return whole * 1000 + int(rest) if whole < 9_000_000_000_000_000 else None


def _whole(text: str | None) -> int | None:
    value = (text or "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
