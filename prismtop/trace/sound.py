"""Whether what was decoded from a file has the types that its nouns promise: files are written by anybody."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

from prismtop.model import Batch, Breakdown, Counter, Stage, Workload

_LIMIT = 1 << 62
_WORKLOAD = tuple(f.name for f in dataclasses.fields(Workload) if f.name != "sampled")


def sound(noun: object) -> bool:
    """Whether every field of the noun has its declared type, numbers are finite and fit 64 bits."""
    if type(noun) is Batch:
        return _batch(noun)
    if type(noun) is Counter:
        return _counter(noun)
    return _fits(noun, type(noun))


def _whole(value: object) -> bool:
    return type(value) is int and -_LIMIT < value < _LIMIT


def _number(value: object) -> bool:
    return (type(value) is int and -_LIMIT < value < _LIMIT) or (
        type(value) is float and math.isfinite(value)
    )


def _batch(batch: Batch) -> bool:
    workload = batch.workload
    return (
        _whole(batch.start_ns)
        and _whole(batch.duration_ns)
        and batch.duration_ns >= 0
        and _whole(batch.pid)
        and _whole(batch.seq)
        and (batch.period_ns is None or _whole(batch.period_ns))
        and (batch.rank is None or _whole(batch.rank))
        and _whole(batch.idle_ns)
        and type(batch.engine) is str
        and type(batch.suspect) is str
        and all((value := getattr(workload, name)) is None or _number(value) for name in _WORKLOAD)
        and all(type(name) is str for name in workload.sampled)
        and all(map(_stage, batch.stages))
        and all(_fits(rank, type(rank)) for rank in batch.ranks)
        and (batch.prediction is None or _fits(batch.prediction, type(batch.prediction)))
        and (batch.breakdown is None or _fits(batch.breakdown, Breakdown))
    )


def _stage(stage: Stage) -> bool:
    return (
        type(stage.name) is str
        and type(stage.hook) is str
        and _whole(stage.start_ns)
        and _whole(stage.duration_ns)
        and _whole(stage.span_ns)
        and _whole(stage.pid)
        and _whole(stage.tid)
        and (stage.rank is None or _whole(stage.rank))
    )


def _counter(counter: Counter) -> bool:
    return (
        _whole(counter.time_ns)
        and _whole(counter.period_ns)
        and (counter.value is None or _number(counter.value))
        and all(
            type(text) is str
            for text in (
                counter.name,
                counter.device,
                counter.unit,
                counter.reason,
                counter.source,
                counter.text,
            )
        )
    )


@lru_cache(maxsize=64)
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((f.name, hints[f.name]) for f in dataclasses.fields(kind))


def _fits(value: object, kind: Any) -> bool:
    if kind is int:
        return _whole(value)
    if kind is float:
        return _number(value)
    if kind is Any or kind is object:
        return True
    if kind is None or kind is type(None):
        return value is None
    origin = typing.get_origin(kind)
    if origin is not None:
        return _GENERIC.get(origin, _unknown)(value, typing.get_args(kind))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return type(value) is kind and all(_fits(getattr(value, name), hint) for name, hint in _hints(kind))
    return isinstance(value, kind) and (isinstance(value, (str, Enum, bool)))


def _unknown(value: object, arguments: tuple[Any, ...]) -> bool:
    return False


def _union(value: object, arguments: tuple[Any, ...]) -> bool:
    return any(_fits(value, kind) for kind in arguments)


def _tuple(value: object, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, tuple):
        return False
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(item, arguments[0]) for item in value)
    return len(value) == len(arguments) and all(map(_fits, value, arguments))


def _mapping(value: object, arguments: tuple[Any, ...]) -> bool:
    return isinstance(value, Mapping) and all(
        _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
    )


_GENERIC: dict[Any, Callable[[object, tuple[Any, ...]], bool]] = {
    typing.Union: _union,
    types.UnionType: _union,
    tuple: _tuple,
    dict: _mapping,
    Mapping: _mapping,
}
