"""The expressions of engine profiles: a checked subset of Python, evaluated inside the target by the probe.

An expression may read what the hooked function sees (its parameters, `self`, `ret`) and count or sum it. It
cannot assign, import, call anything but the functions and methods listed here, or reach a dunder attribute.
Every comprehension's iterable is wrapped into `_cap(...)`, which the probe provides: at most 512 items of a
large batch are looked at, so that a hook's cost is bounded. An expression must never touch a GPU tensor's
contents: that would make the engine's thread wait for the device. None means: not known here.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text

FUNCTIONS = frozenset(
    {"len", "sum", "min", "max", "abs", "int", "float", "bool", "id", "hash", "str", "getattr"}
)
"""Built-in functions that an expression may call; the probe provides exactly these, and `_cap`."""

METHODS = frozenset({"available_size", "get", "values", "items", "keys", "evictable_size", "startswith"})
"""Methods that an expression may call, by name: they have no side effect in the engines that have them."""

CAP = "_cap"
MAX_LENGTH = 1000
_FIX_CALLS = f"Call one of {', '.join(sorted(FUNCTIONS))}, or a method out of {', '.join(sorted(METHODS))}."

_PLAIN_NODES = (
    ast.Expression, ast.Load, ast.Store, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub,
    ast.UAdd, ast.Invert, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd,
    ast.BitOr, ast.BitXor, ast.RShift, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
    ast.Is, ast.IsNot, ast.In, ast.NotIn, ast.IfExp, ast.Tuple, ast.List, ast.Subscript, ast.Slice,
    ast.GeneratorExp, ast.ListComp, ast.comprehension, ast.keyword,
)  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        source: Python source (valid for 3.9 and up) for `compile(source, ..., "eval")`, iterables capped.
        names: names it reads besides the allowed functions: parameters of the hooked function, `self`, `ret`.
        per_request: whether it loops over something, so that its cost grows with the batch.
    """

    source: str
    names: frozenset[str]
    per_request: bool


class _Check(ast.NodeVisitor):
    def __init__(self, where: str) -> None:
        self.where = where
        self.bound: set[str] = set()
        self.read: set[str] = set()
        self.loops = False

    def refuse(self, what: str, fix: str) -> UsageError:
        return UsageError(f"{self.where}: {what}.", fix=fix)

    def generic_visit(self, node: ast.AST) -> None:
        if not isinstance(node, _PLAIN_NODES):
            raise self.refuse(
                f"{type(node).__name__} is not allowed in an expression",
                "Use attributes, subscripts, arithmetic, comparisons, conditions and generator expressions.",
            )
        super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise self.refuse("a constant must be a number, a string or None", "Remove it.")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise self.refuse("an integer constant does not fit in 64 bits", "Use a smaller one.")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id.startswith("__") or node.id == CAP:
            raise self.refuse(f"the name {node.id!r} is reserved", "Use a parameter's name, `self` or `ret`.")
        if isinstance(node.ctx, ast.Store):
            if node.id in FUNCTIONS or node.id in ("self", "ret"):
                raise self.refuse(f"a loop variable may not be called {node.id!r}", "Rename it.")
            self.bound.add(node.id)
        else:
            self.read.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr.startswith("__"):
            raise self.refuse(f"the attribute {node.attr!r} is reserved", "Read a plain attribute.")
        if not isinstance(node.ctx, ast.Load):
            raise self.refuse("an expression may not assign", "Read a value instead.")
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            name = node.func.id
            if name not in FUNCTIONS:
                raise self.refuse(f"calling {name}() is not allowed", _FIX_CALLS)
            if name == "getattr":
                self._check_getattr(node)
        elif isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name not in METHODS:
                raise self.refuse(f"calling .{name}() is not allowed", _FIX_CALLS)
            self.visit(node.func.value)
        else:
            raise self.refuse("only a named function or method may be called", _FIX_CALLS)
        for keyword in node.keywords:
            if keyword.arg != "default" or name not in ("min", "max"):
                raise self.refuse(f"{name}() takes no keyword here", "Only min() and max() take `default=`.")
            self.visit(keyword.value)
        for argument in node.args:
            self.visit(argument)

    def _check_getattr(self, node: ast.Call) -> None:
        second = node.args[1] if len(node.args) == 3 else None
        if not (isinstance(second, ast.Constant) and isinstance(second.value, str)):
            raise self.refuse(
                "getattr() needs a literal name and a default", 'Write getattr(object, "name", default).'
            )
        if second.value.startswith("__"):
            raise self.refuse(f"the attribute {second.value!r} is reserved", "Read a plain attribute.")

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.loops = True
        if node.is_async:
            raise self.refuse("an asynchronous loop is not allowed", "Use a plain `for`.")
        targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
        if not all(isinstance(target, ast.Name) for target in targets):
            raise self.refuse("a loop variable must be a plain name", "Write `for x in ...`.")
        self.generic_visit(node)


class _CapIterables(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.Call:
        """`sum([x for ...])` takes two thirds of the time of `sum(x for ...)`. With two loops the list could
        be long: `CAP` items each."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in ("sum", "min", "max") and len(node.args) == 1:
            loop = node.args[0]
            if isinstance(loop, ast.GeneratorExp) and len(loop.generators) == 1:
                node.args = [ast.ListComp(elt=loop.elt, generators=loop.generators)]
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        node.iter = ast.Call(func=ast.Name(id=CAP, ctx=ast.Load()), args=[node.iter], keywords=[])
        return node


def compile_expression(text: str, *, where: str) -> Expression:
    """Check `text` and return it ready for the probe.

    Args:
        text: the expression as written in the profile, at most 1000 characters.
        where: what to name in an error, for example `vllm.toml:31: hook schedule, exit.tokens`.

    Raises:
        UsageError: `text` is no Python expression, or uses something outside the allowed subset.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"{where}: it is longer than {MAX_LENGTH} characters.", fix="Shorten it.")
    try:
        tree = ast.parse(re.sub(r"\s*\n\s*", " ", text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UsageError(
            f"{where}: {safe_text(text, 80)!r} is not a Python expression ({reason}).",
            fix="Write one expression over the function's parameters, `self` or `ret`.",
        ) from None
    check = _Check(where)
    check.visit(tree)
    capped = ast.fix_missing_locations(_CapIterables().visit(tree))
    return Expression(
        source=ast.unparse(capped),
        names=frozenset(check.read - check.bound - FUNCTIONS),
        per_request=check.loops,
    )
