"""Trace events out of JSON text as it is found in the field.

A block of events is decoded at once; when that fails each event is tried alone, then with the defects
repaired that real profilers write: bare `inf` and `nan` (kineto#105), raw control characters in strings
(pytorch#130622), unescaped Windows paths (pytorch#98432), bytes that are no UTF-8. What is left is skipped
and counted, never guessed.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

MAX_DEPTH = 100
"""Nested deeper, an event is skipped: the deepest seen in real traces is 7."""
MAX_US = 9.2e15  # int64 nanoseconds
_BARE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:inf(?:inity)?|nan)\b', re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE = re.compile(rb'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])|\\', re.DOTALL)
_loose = json.JSONDecoder(strict=False)


class Event:
    """One trace event, its fields as they stood in the file; what was absent is None."""

    __slots__ = ("args", "cat", "dur", "id", "name", "ph", "pid", "tid", "ts")

    def __init__(self, fields: dict[str, Any]) -> None:
        get = fields.get
        self.ph: object = get("ph")
        self.name: object = get("name")
        self.cat: object = get("cat")
        self.ts: object = get("ts")
        self.dur: object = get("dur")
        self.pid: object = get("pid")
        self.tid: object = get("tid")
        self.id: object = get("id")
        self.args: object = get("args")


def _fast_decoder() -> Callable[[bytes], list[Event]] | None:
    """msgspec's typed decoder; None where it has no build for this Python, and all is read by `json` then."""
    try:
        msgspec: Any = importlib.import_module("msgspec")
    except ImportError:
        return None
    fields = [(name, object, None) for name in Event.__slots__ if name != "args"]
    made: Any = msgspec.defstruct("_Event", [*fields, ("args", msgspec.Raw, msgspec.Raw(b""))], gc=False)
    decode = msgspec.json.Decoder(list[made]).decode
    return cast("Callable[[bytes], list[Event]]", decode)


_fast = _fast_decoder()
FAST = _fast is not None
"""Whether msgspec decodes."""


Split = Callable[[bytes], Sequence[tuple[int, int]]]


def decode_block(data: bytes, split: Split, nested: Split) -> tuple[list[Event], int]:
    """The events in `data`, and how many could not be read.

    Args:
        data: whole JSON objects with commas or white space between them.
        split: start and end of each object, used when the block does not decode as a whole.
        nested: start and end of the objects and lists inside each object.
    """
    whole = b"[" + data + b"]"
    if _fast is not None:
        try:
            return _fast(whole), 0
        except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors
            pass
    else:
        made = _without_arguments(data, nested(data))
        if made is not None:
            return made, 0
    try:
        fields = json.loads(whole)
    except (ValueError, RecursionError):
        fields = None
    if fields is not None:
        made = [Event(one) for one in fields if isinstance(one, dict)]
        return made, len(fields) - len(made)
    events, skipped = [], 0
    for start, end in split(data):
        one = decode_object(data[start:end])
        if one is None:
            skipped += 1
        else:
            events.append(Event(one))
    return events, skipped


def _without_arguments(data: bytes, inner: Sequence[tuple[int, int]]) -> list[Event] | None:
    """The events with their arguments left as text, which is what costs most; None when that fails."""
    parts: list[bytes] = []
    texts: list[bytes] = []
    at = 0
    for start, end in inner:
        parts.append(data[at:start])
        if data[start - 8 : start].rstrip().endswith(b'"args":'):
            parts.append(b'"\\u0001%d"' % len(texts))
            texts.append(data[start:end])
        else:
            parts.append(b"null")
        at = end
    parts.append(data[at:])
    try:
        fields = json.loads(b"[" + b"".join(parts) + b"]")
    except (ValueError, RecursionError):
        return None
    made = []
    for one in fields:
        event = Event(one)
        place = event.args
        if (
            type(place) is str
            and place[:1] == "\x01"
            and place[1:].isdecimal()
            and int(place[1:]) < len(texts)
        ):
            event.args = texts[int(place[1:])]
        made.append(event)
    return made


def decode_object(data: bytes) -> dict[str, Any] | None:
    """One JSON object, its known defects repaired; None when it cannot be read."""
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        return None
    for repair in (_as_is, _repaired):
        try:
            made = _loose.decode(repair(data))
        except (ValueError, RecursionError):
            continue
        return made if isinstance(made, dict) else None
    return None


def arguments(event: Event) -> dict[str, Any]:
    """The event's arguments; empty when it has none that can be read.

    A JSON text in `args.args`, as LatencyPrism writes it, is promoted.
    """
    made: object = event.args
    if not isinstance(made, dict):
        if made is None or isinstance(made, (str, int, float, list)):
            return {}
        made = decode_object(bytes(cast("bytes", made)))
        if made is None:
            return {}
    nested = made.get("args")
    if isinstance(nested, str) and nested.lstrip()[:1] == "{":
        inner = decode_object(nested.encode("utf-8", "surrogatepass"))
        if inner is not None:
            return {**{key: value for key, value in made.items() if key != "args"}, **inner}
    return cast("dict[str, Any]", made)


def ns_of(value: object) -> int | None:
    """Nanoseconds of a time in microseconds; None when it is no finite number that fits 64 bits.

    Texts that hold a number count. Whole and fractional part are taken apart, because a double that holds an
    absolute time has no room for a product with 1000.
    """
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return None
    if type(value) is float:
        if not -MAX_US < value < MAX_US:  # a NaN is in no range
            return None
        rest, whole = math.modf(value)
        return int(whole) * 1000 + round(rest * 1000)
    if type(value) is int and -MAX_US < value < MAX_US:
        return value * 1000
    return None


def text_of(value: object, limit: int = 512) -> str:
    """A name as text, cut to `limit`; empty when there is none. NOT safe to print."""
    return value[:limit] if isinstance(value, str) else "" if value is None else str(value)[:limit]


def number_of(value: object) -> float | None:
    """A finite number; None for anything else, booleans included."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def _as_is(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _repaired(data: bytes) -> str:
    data = _BAD_ESCAPE.sub(lambda m: m[0] if len(m[0]) > 1 else b"\\\\", data)
    return _BARE.sub(lambda m: m[0] if m[0][:1] == b'"' else b"null", data).decode("utf-8", "replace")


def _depth(data: bytes) -> int:
    """Depth of brackets, those inside strings included: an upper bound."""
    deepest = depth = 0
    for byte in data:
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
