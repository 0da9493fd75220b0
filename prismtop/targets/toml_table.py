"""Strict reading of a TOML table: types, allowed keys, and errors that say where and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from prismtop.safe_text import safe_text

_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\-]+)\s*\]\]?")
_KEY = re.compile(r"^\s*([\w\-]+)\s*=")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
Where = tuple["str | int", ...]
Fail = Callable[[Where, str, str], NoReturn]
"""(path of the key, the problem, what was expected) -> raises UsageError."""


class Lines:
    """Finds the line of a key, which tomllib does not tell."""

    def __init__(self, text: str) -> None:
        self._known: dict[Where, int] = {}
        table: list[str | int] = []
        counts: dict[str, int] = {}
        inside = ""
        for number, line in enumerate(text.splitlines(), 1):
            if inside:
                inside = "" if inside in line else inside
                continue
            if header := _HEADER.match(line):
                table = self._table(header[2].split("."), header[1] == "[[", counts)
                self._known.setdefault(tuple(table), number)
            elif key := _KEY.match(line):
                self._known.setdefault((*table, key[1]), number)
                inside = next((q for q in ('"""', "'''") if line.count(q) == 1), "")

    def of(self, path: Where) -> int:
        """Line (from 1) of a path such as ("hook", 2, "entry", "tokens"); of its nearest table otherwise."""
        return next((self._known[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._known), 1)

    @staticmethod
    def _table(names: list[str], is_array: bool, counts: dict[str, int]) -> list[str | int]:
        path: list[str | int] = []
        for position, name in enumerate(names):
            path.append(name)
            where = "/".join(map(str, path))
            if is_array and position == len(names) - 1:
                counts[where] = counts.get(where, -1) + 1
            if where in counts:
                path.append(counts[where])
        return path


class Table:
    """A table with strict reading: types, allowed keys, and errors that say where."""

    def __init__(self, data: Mapping[str, Any], path: Where, fail: Fail, trusted: bool) -> None:
        self.data = data
        self.path = path
        self.trusted = trusted
        self._fail = fail
        self._seen: set[str] = set()

    def fail(self, key: str, problem: str, expected: str) -> NoReturn:
        self._fail((*self.path, key) if key else self.path, problem, expected)

    def _get(self, key: str, default: object) -> Any:
        self._seen.add(key)
        if key not in self.data:
            if default is None:
                self.fail("", f"`{key}` is missing", f"`{key} = ...` is needed in this table")
            return default
        return self.data[key]

    def text(self, key: str, default: str | None = "") -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            self.fail(key, f"`{key}` is {_kind(value)}", "a string was expected")
        return value

    def choice(self, key: str, allowed: Iterable[str], default: str | None) -> str:
        value = self.text(key, default)
        if value not in (options := tuple(allowed)):
            names = ", ".join(option or '""' for option in options)
            self.fail(key, f"`{key}` is {safe_text(value, 40)!r}", f"one of {names} was expected")
        return value

    def flag(self, key: str) -> bool:
        value = self._get(key, False)
        if not isinstance(value, bool):
            self.fail(key, f"`{key}` is {_kind(value)}", "true or false was expected")
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(
                key, f"`{key}` is {safe_text(value, 40)}", f"an integer from {low} to {high} was expected"
            )
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = ()) -> tuple[str, ...]:
        """A string or a list of strings."""
        value = self._get(key, default)
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            self.fail(key, f"`{key}` is {_kind(value)}", "a string or a list of strings was expected")
        return tuple(value)

    def regex(self, key: str) -> str:
        pattern = self.text(key)
        if self.trusted:
            return pattern
        try:
            re.compile(pattern)
        except re.error as error:
            self.fail(key, f"`{key}` is no regular expression ({error})", "Python's `re` syntax was expected")
        return pattern

    def dotted(self, key: str) -> str:
        value = self.text(key, None)
        if not _DOTTED.fullmatch(value.replace("<locals>", "locals")):
            self.fail(key, f"`{key}` is {safe_text(value, 60)!r}", "a dotted Python name was expected")
        return value

    def specifier(self, key: str) -> str:
        value = self.text(key)
        if value and not self.trusted:
            from packaging.specifiers import InvalidSpecifier, SpecifierSet

            try:
                SpecifierSet(value)
            except InvalidSpecifier:
                self.fail(
                    key, f"`{key}` is {safe_text(value, 40)!r}", "a PEP 440 specifier such as >=0.9,<0.11"
                )
        return value

    def table(self, key: str) -> Table:
        value = self._get(key, {})
        if not isinstance(value, dict):
            self.fail(key, f"`{key}` is {_kind(value)}", f"a table [{key}] was expected")
        return Table(value, (*self.path, key), self._fail, self.trusted)

    def tables(self, key: str) -> list[Table]:
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.fail(key, f"`{key}` is {_kind(value)}", f"tables [[{key}]] were expected")
        return [
            Table(item, (*self.path, key, index), self._fail, self.trusted)
            for index, item in enumerate(value)
        ]

    def strings(self, allowed: Iterable[str] | None = None) -> Mapping[str, str]:
        """The whole table as name -> string."""
        names = tuple(allowed) if allowed is not None else tuple(self.data)
        self.end(names)
        return MappingProxyType({key: self.text(key) for key in self.data})

    def end(self, allowed: Iterable[str] = ()) -> None:
        """Refuse keys that nothing has read."""
        known = self._seen | set(allowed)
        for key in self.data:
            if key not in known:
                self.fail(key, f"`{safe_text(key, 40)}` is not known here", f"one of {one_of(known)}")


def _kind(value: object) -> str:
    names = {str: "a string", bool: "true or false", int: "an integer", float: "a number", list: "a list"}
    return names.get(type(value), "a table" if isinstance(value, dict) else type(value).__name__)


def one_of(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
