"""Small trace files, one for each thing that a viewer may or may not like, with what it does.

What `perfetto` and `chrome` say was measured with the real ones and is measured again by
`tests/integration/test_viewers.py` where they are installed.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OK, REJECTED, HANGS, INCOMPLETE = "ok", "rejected", "hangs", "incomplete"


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        data: its bytes.
        rules: what `prismtop trace check` must find.
        perfetto, chrome: what the viewer does with it. INCOMPLETE: it opens, with an error or with less than
            there is.
        kept: slices and counter samples after a repair; None where nothing can be repaired.
        suffix: of its name.
    """

    data: bytes
    rules: frozenset[str]
    perfetto: str
    chrome: str
    kept: int | None
    suffix: str = ".json"

    def write(self, directory: Path, name: str) -> Path:
        path = directory / f"{name}{self.suffix}"
        path.write_bytes(self.data)
        return path


def slice_event(**changes: Any) -> dict[str, Any]:
    return {"name": "n", "cat": "c", "ph": "X", "ts": 10, "dur": 5, "pid": 1, "tid": 1, **changes}


def counter_event(**changes: Any) -> dict[str, Any]:
    return {"name": "ctr", "ph": "C", "ts": 10, "pid": 1, "tid": 1, "args": {"value": 1}, **changes}


TWO = (slice_event(), slice_event(ts=20))
LINES = tuple((json.dumps(event) + ",\n").encode() for event in TWO)


def array(*events: dict[str, Any]) -> bytes:
    return json.dumps(events).encode()


def _case(
    data: bytes,
    rules: str = "",
    perfetto: str = OK,
    chrome: str = OK,
    kept: int | None = 2,
    suffix: str = ".json",
) -> Case:
    return Case(data, frozenset(rules.split()), perfetto, chrome, kept, suffix)


def _cut_gzip() -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    made = packer.compress(b"[\n" + LINES[0]) + packer.flush(zlib.Z_SYNC_FLUSH)
    return made + packer.compress(LINES[1]) + packer.flush(zlib.Z_SYNC_FLUSH)


_OPEN = b"[\n" + LINES[0] + LINES[1][:-2]
CASES: dict[str, Case] = {
    "array": _case(array(*TWO)),
    "array_open": _case(_OPEN),
    "array_open_comma": _case(b"[\n" + b"".join(LINES)),
    "array_cut": _case(_OPEN[:-20], "array-cut", INCOMPLETE, REJECTED, 1),
    "object": _case(json.dumps({"traceEvents": TWO, "displayTimeUnit": "ms"}).encode()),
    "object_open": _case(b'{"traceEvents":' + _OPEN, "object-cut", REJECTED, REJECTED),
    "object_cut": _case(b'{"traceEvents":' + _OPEN[:-20], "object-cut", REJECTED, REJECTED, 1),
    "gzip": _case(gzip.compress(array(*TWO)), suffix=".json.gz"),
    "gzip_two_members": _case(
        gzip.compress(b"[\n" + LINES[0]) + gzip.compress(LINES[1]),
        "gzip-members",
        chrome=INCOMPLETE,
        suffix=".json.gz",
    ),
    "gzip_cut": _case(
        gzip.compress(array(*TWO))[:-12], "gzip-cut", REJECTED, REJECTED, kept=1, suffix=".json.gz"
    ),
    "gzip_no_trailer": _case(_cut_gzip(), "gzip-cut", REJECTED, OK, suffix=".json.gz"),
    "gzip_padded": _case(
        gzip.compress(array(*TWO)) + bytes(512), "gzip-tail", REJECTED, OK, suffix=".json.gz"
    ),
    "lines": _case(b"".join(line[:-2] + b"\n" for line in LINES), "lines", INCOMPLETE, REJECTED),
    "empty_array": _case(b"[]", "no-events", REJECTED, OK, 0),
    "after_end": _case(array(*TWO) + b"\nmore", "after-end", OK, REJECTED),
    "bom": _case(b"\xef\xbb\xbf" + array(*TWO), "bom", REJECTED, OK),
    "two_commas": _case(b"[" + LINES[0] + b"," + LINES[1][:-2] + b"]", "between", REJECTED, REJECTED),
    "raw_control": _case(array(*TWO).replace(b'"c"', b'"c\x01"'), "not-json", OK, REJECTED),
    "windows_path": _case(array(*TWO).replace(b'"c"', b'"torch\\cuda\\x.py"'), "not-json", OK, REJECTED),
    "bare_inf": _case(
        array(*TWO)[:-1] + b',{"ph":"X","ts":40,"dur":1,"pid":1,"tid":1,"name":"n","args":{"bw":inf}}]',
        "not-json",
        OK,
        REJECTED,
        3,
    ),
    "nan_counter": _case(
        array(*TWO, counter_event(args={"value": float("nan")})), "nan-counter", HANGS, REJECTED
    ),
    "infinite_counter": _case(
        array(*TWO, counter_event(args={"value": float("inf")})), "nan-counter", HANGS, REJECTED
    ),
    "nan_length": _case(array(*TWO, slice_event(ts=40, dur=float("nan"))), "nan-time", REJECTED, REJECTED, 3),
    "nan_argument": _case(array(*TWO, slice_event(ts=40, args={"a": float("nan")})), "nan", OK, REJECTED, 3),
    "counter": _case(array(counter_event(), counter_event(ts=20, args={"value": 2.5}))),
    "counter_text": _case(
        array(counter_event(), counter_event(args={"value": 1, "hostname": "a"})), "counter-value", INCOMPLETE
    ),
    "counter_null": _case(
        array(counter_event(), counter_event(args={"value": None})), "counter-value", INCOMPLETE, kept=1
    ),
    "counter_true": _case(
        array(counter_event(), counter_event(args={"value": True})), "counter-value", INCOMPLETE, kept=1
    ),
    "overlap": _case(array(slice_event(dur=10), slice_event(ts=15, dur=10)), "overlap", INCOMPLETE),
    "nested": _case(array(slice_event(dur=10), slice_event(ts=15, dur=5))),
    "child_first": _case(array(slice_event(dur=5), slice_event(dur=10)), "", OK),
    "other_thread": _case(array(slice_event(dur=10), slice_event(ts=15, dur=10, tid=2))),
    "unsorted": _case(array(slice_event(ts=100), slice_event())),
    "no_length": _case(
        array(*TWO, {k: v for k, v in slice_event(ts=50).items() if k != "dur"}), "length", INCOMPLETE, kept=3
    ),
    "text_time": _case(array(slice_event(ts="10.5", dur="2"), slice_event(ts=20))),
    "text_process": _case(array(slice_event(pid="hostA(1)"), slice_event(pid="hostA(1)", ts=20))),
    "no_time": _case(array(*TWO, {k: v for k, v in slice_event().items() if k != "ts"}), "time", INCOMPLETE),
    "begin_end": _case(array(*TWO, slice_event(ph="B", ts=30), slice_event(ph="E", ts=31)), kept=3),
    "begin_only": _case(array(*TWO, slice_event(ph="B", ts=30)), kept=3),
    "end_only": _case(array(*TWO, slice_event(ph="E", ts=31)), "unmatched-end", OK, INCOMPLETE),
    "surrogate": _case(b"[" + LINES[0][:-3] + rb',"args":{"a":"\ud800"}},' + LINES[1][:-2] + b"]"),
    "bad_utf8": _case(array(*TWO).replace(b'"c"', b'"c\xff"')),
    "deep": _case(
        array(slice_event(args={"a": json.loads("[" * 60 + "]" * 60)}), slice_event(ts=20)),
    ),
}
