"""The constructor of a frozen dataclass in half of its time: batches, their stages, workloads and predictions
are made a thousand times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

_Fields = ParamSpec("_Fields")
_Made = TypeVar("_Made")
_new = object.__new__


def by_keyword(cls: Callable[_Fields, _Made]) -> Callable[_Fields, _Made]:
    """As `cls`, every argument given by its name. Of those left out the class itself must have the default
    (no `default_factory`); `__post_init__` is not called.
    """

    def made(*_: _Fields.args, **fields: _Fields.kwargs) -> _Made:
        one: _Made = _new(cls)  # type: ignore[arg-type]
        one.__dict__.update(fields)
        return one

    return made


def from_fields(cls: type[_Made]) -> Callable[[Mapping[str, object]], _Made]:
    """Makes a `cls` of a mapping of all its fields, which it copies: for one who makes the same one again and
    again with little changed. Nobody checks the fields; `__post_init__` is not called.
    """

    def made(fields: Mapping[str, object]) -> _Made:
        one = _new(cls)
        one.__dict__.update(fields)
        return one

    return made
