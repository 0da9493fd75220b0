"""New trace files from old ones: written beside their final name, which they get when they are complete."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, cast

from prismtop.trace.segments import create, publish, refusal

_LEVEL = 6
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_SURROGATE = re.compile(r"\\ud[89ab][0-9a-f]{2}(?:\\ud[c-f][0-9a-f]{2})?|\\ud[c-f][0-9a-f]{2}")


@contextmanager
def new_file(path: Path, level: int = _LEVEL) -> Iterator[BinaryIO]:
    """A file that only its owner can read, compressed when its name ends in .gz; on an error nothing stays.

    Args:
        level: of the compression.

    Raises:
        PrismtopError: it cannot be created, `path` exists, or the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if os.path.lexists(path):
            raise FileExistsError(17, "File exists")
        fd = create(part)
    except OSError as error:
        raise refusal(path, error) from None
    try:
        with os.fdopen(fd, "wb") as raw:
            if path.name.endswith(".gz"):
                with gzip.GzipFile("", "wb", level, raw, mtime=0) as packed:
                    yield cast(BinaryIO, io.BufferedWriter(cast(Any, packed), 1 << 16))
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        publish(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise refusal(path, error) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class EventsFile:
    """The events of a new trace: an array, or an object when there is something to say beside them.

    Attributes:
        events: written so far.
    """

    def __init__(self, file: BinaryIO, *, as_object: bool = False) -> None:
        self.events = 0
        self._file = file
        self._object = as_object
        file.write(b'{"traceEvents":[\n' if as_object else b"[\n")

    def put(self, event: Mapping[str, Any]) -> None:
        """Add one event; its numbers must be finite."""
        text = _SURROGATE.sub(_paired, _encode(event))
        self._file.write((",\n" if self.events else "").encode() + text.encode())
        self.events += 1

    def close(self, header: Mapping[str, Any] | None = None) -> None:
        """End the list; in an object `header` follows it."""
        self._file.write(b"\n]")
        if self._object:
            for key, value in (header or {}).items():
                made, _ = finite(value)
                pair = _SURROGATE.sub(_paired, f",\n{_encode(key)}:{_encode(made)}")
                self._file.write(pair.encode())
            self._file.write(b"}")
        self._file.write(b"\n")
        self._file.flush()


def finite(value: Any, depth: int = 0) -> tuple[Any, int]:
    """`value` with numbers that are not finite as texts, and how many there were."""
    if isinstance(value, float):
        return (value, 0) if isfinite(value) else (str(value), 1)
    if depth > 100 or not isinstance(value, (dict, list)):
        return value, 0
    if isinstance(value, dict):
        pairs = {key: finite(inner, depth + 1) for key, inner in value.items()}
        return {key: made for key, (made, _) in pairs.items()}, sum(n for _, n in pairs.values())
    items = [finite(inner, depth + 1) for inner in value]
    return [made for made, _ in items], sum(n for _, n in items)


def stem(path: Path) -> str:
    """A trace's file name without .json, .gz or both."""
    name = path.name.removesuffix(".gz")
    return name.removesuffix(".json") or "trace"


def _paired(match: re.Match[str]) -> str:
    return match[0] if len(match[0]) == 12 else "\\ufffd"
