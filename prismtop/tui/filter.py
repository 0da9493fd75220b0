"""What is typed into search and filter: a text, or an expression such as `dur>20 & mode==decode`.

Expressions are Python's comparisons with `&`, `|`, `!` (or `and`, `or`, `not`) over the names of
`prismtop.tui.fields`; they are parsed by `ast` and compiled by hand from a short list of nodes, so nothing
that is typed is ever executed. A value that a batch does not have matches no comparison.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prismtop.errors import UsageError
from prismtop.model import Batch
from prismtop.safe_text import safe_text
from prismtop.tui.fields import ALIASES, BY_NAME, Field, Value, field_named

MAX_LENGTH = 200
_Get = Callable[[Batch], Value]
_OPERATORS = re.compile(r"[<>=]")
_BETWEEN = re.compile(r"[|&!() ]+")
_TRUTHS = frozenset(("slow", "suspect"))
_JOINTS = frozenset(("and", "or", "not"))
_TOKEN = re.compile(r"""("[^"]*"|'[^']*')|(&&?|\|\|?)|(!(?!=))|((?<![<>=!])=(?!=))|([<>=!]=)""")
_UNIT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(us|ms|s|k|M|%)(?![\w])")
_FACTORS = {"us": "0.001", "ms": "1", "s": "1000", "k": "1000", "M": "1000000", "%": "1"}
_SHORT_MODES = {"dec": "decode", "pre": "prefill", "mix": "mixed", "?": "unknown"}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_HELP = "For example: dur>20 & mode==decode, over>30, kv>=80 | wait>0, slow."


@dataclass(frozen=True)
class Filter:
    """A compiled filter.

    Attributes:
        text: as it was typed.
        matches: whether a batch passes.
    """

    text: str
    matches: Callable[[Batch], bool]


def compile_filter(text: str) -> Filter | None:
    """Compile what was typed; None when it is blank.

    Raises:
        UsageError: it compares something, and is no valid expression over a batch's fields.
    """
    text = text.strip()
    if not text:
        return None
    if len(text) > MAX_LENGTH:
        raise UsageError(f"The filter is longer than {MAX_LENGTH} characters.", fix="Shorten it.")
    if _OPERATORS.search(text) or _needs_no_comparison(text):
        get = _compiled(_parsed(text))
        return Filter(text, lambda batch: get(batch) is True)
    wanted = text.lower()
    return Filter(text, lambda batch: wanted in _haystack(batch))


def _needs_no_comparison(text: str) -> bool:
    """`slow`, `!(slow | suspect)`; with any other word in it, it is a text to look for."""
    words = {word for word in _BETWEEN.split(text) if word} - _JOINTS
    return bool(words) and words <= _TRUTHS


def _haystack(batch: Batch) -> str:
    words = [str(batch.seq), batch.mode.value, batch.origin.value, f"pid {batch.pid}", batch.suspect]
    words += [stage.name for stage in batch.stages] + [stage.hook for stage in batch.stages]
    if batch.rank is not None:
        words.append(f"rank {batch.rank}")
    return "\n".join(words).lower()


def _parsed(text: str) -> ast.expr:
    def python(match: re.Match[str]) -> str:
        quoted, joint, negation, equals, kept = match.groups()
        if joint:
            return " and " if joint[0] == "&" else " or "
        return quoted or kept or (" not " if negation else "==" if equals else "")

    source = _UNIT.sub(lambda m: f"({m[1]}*{_FACTORS[m[2]]})", _TOKEN.sub(python, text))
    try:
        return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(f"{safe_text(text, 60)!r} is no expression.", fix=_HELP) from None


def _compiled(node: ast.expr) -> _Get:
    if isinstance(node, ast.BoolOp):
        return _joined(node)
    if isinstance(node, ast.UnaryOp):
        return _unary(node)
    if isinstance(node, ast.Compare):
        return _compared(node)
    if isinstance(node, ast.BinOp):
        return _calculated(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        value = node.value
        return lambda batch: value
    if isinstance(node, ast.Name):
        return _field(node.id).value
    raise UsageError(f"{type(node).__name__} is not allowed in a filter.", fix=_HELP)


def _joined(node: ast.BoolOp) -> _Get:
    parts = [_compiled(value) for value in node.values]
    if isinstance(node.op, ast.And):
        return lambda batch: all(part(batch) is True for part in parts)
    return lambda batch: any(part(batch) is True for part in parts)


def _unary(node: ast.UnaryOp) -> _Get:
    inner = _compiled(node.operand)
    if isinstance(node.op, ast.Not):
        return lambda batch: inner(batch) is not True
    if not isinstance(node.op, ast.USub):
        raise UsageError(f"{type(node.op).__name__} is not allowed in a filter.", fix=_HELP)

    def negative(batch: Batch) -> Value:
        value = inner(batch)
        return -value if isinstance(value, (int, float)) else None

    return negative


def _compared(node: ast.Compare) -> _Get:
    operands = [node.left, *node.comparators]
    worded = next((f for f in map(_worded, operands) if f), None)
    values = [_word(operand, worded) if worded else _compiled(operand) for operand in operands]
    operations = []
    for kind in node.ops:
        if type(kind) not in _COMPARE:
            raise UsageError(f"{type(kind).__name__} is not allowed in a filter.", fix=_HELP)
        operations.append(_COMPARE[type(kind)])

    def holds(batch: Batch) -> bool:
        found = [value(batch) for value in values]
        pairs = zip(operations, found, found[1:], strict=False)
        return all(_holds(operation, one, other) for operation, one, other in pairs)

    return holds


def _holds(operation: Callable[[Any, Any], bool], one: Value, other: Value) -> bool:
    if one is None or other is None:
        return False
    try:
        return bool(operation(one, other))
    except TypeError:  # a word against a number
        return False


def _calculated(node: ast.BinOp) -> _Get:
    operation = _ARITHMETIC.get(type(node.op))
    if operation is None:
        raise UsageError(f"{type(node.op).__name__} is not allowed in a filter.", fix=_HELP)
    left, right = _compiled(node.left), _compiled(node.right)

    def value(batch: Batch) -> Value:
        one, other = left(batch), right(batch)
        if isinstance(one, (int, float)) and isinstance(other, (int, float)):
            try:
                return operation(one, other)
            except (ZeroDivisionError, OverflowError):
                return None
        return None

    return value


def _worded(node: ast.expr) -> Field | None:
    found = field_named(node.id) if isinstance(node, ast.Name) else None
    return found if found is not None and found.words else None


def _word(node: ast.expr, field: Field) -> _Get:
    """An operand beside a field of words: that field, or one of its words, quoted or not."""
    text = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
    if not isinstance(text, str):
        raise UsageError(f"{field.name} is compared with a word.", fix=f"One of {', '.join(field.words)}.")
    if field_named(text) is field:
        return field.value
    word = _SHORT_MODES.get(text, text) if field.name == "mode" else text
    if word not in field.words:
        raise UsageError(
            f"{field.name} is never {safe_text(text, 40)}.", fix=f"It is one of {', '.join(field.words)}."
        )
    return lambda batch: word


def _field(name: str) -> Field:
    found = field_named(name)
    if found is None:
        import difflib

        near = difflib.get_close_matches(name, [*BY_NAME, *ALIASES], n=1)
        raise UsageError(
            f"There is no field {safe_text(name, 40)}" + (f"; did you mean {near[0]}?" if near else "."),
            fix=f"Fields: {', '.join(BY_NAME)}.",
        )
    return found
