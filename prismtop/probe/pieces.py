"""Compiles the probe in pieces: what it starts with, and the rest, which the target unpacks when it needs it.

Unpacking all of it took longer than everything else that happens on the engine's thread at an attach. Runs
here, or as the text of a program in an interpreter like the target's, which reads and writes the same
marshalled code: standard library only, Python 3.9 syntax, no import of prismtop.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import marshal
import sys
import types

MYPY = False
if MYPY:
    from typing import Any

PORTABLE = 4
"""marshal's format of Python 3.4 to 3.13, which all later ones read."""
_STUB = "def {0}(*a, **k):\n return later({1!r}, a, k)"


def code_of(text: Any) -> Any:
    """Code of a source text or tree, without docstrings."""
    return compile(text, "<prismtop>", "exec", dont_inherit=True, optimize=2)


def compiled(text: Any) -> bytes:
    """A text in one piece, marshalled."""
    return marshal.dumps(code_of(text))


def in_pieces(first: Any, probe: Any, hooks: Any, later: Any, whole: Any) -> bytes:
    """The probe in pieces, marshalled: (code of `first`, core of the probe, the rest by name).

    Args:
        first: source of what starts the probe.
        probe, hooks: sources.
        later: functions and methods of the probe (`Class.method`) that become pieces; in their place are
            functions that fetch them (`agent.later`).
        whole: classes that become pieces (`agent.whole`).
    """
    tree, parts = _lean(ast.parse(probe)), {}
    for node in list(tree.body):
        if isinstance(node, ast.ClassDef) and node.name in whole:
            tree.body.remove(node)
            parts[node.name] = marshal.dumps(code_of(ast.Module([node], [])))
    core = marshal.dumps(_thin(code_of(tree), "", later, parts))
    parts.update(
        (c.co_name, marshal.dumps(c)) for c in code_of(hooks).co_consts if isinstance(c, types.CodeType)
    )
    return marshal.dumps((compiled(first), core, parts), PORTABLE)


def _lean(tree: Any) -> Any:
    """Without the annotations of functions: the target would make a tuple of each."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    return tree


def _thin(code: Any, owner: Any, later: Any, parts: Any) -> Any:
    made = []
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            name = owner + const.co_name
            if name in later:
                parts[name] = marshal.dumps(const)
                const = code_of(_STUB.format(const.co_name, name)).co_consts[0]
            elif not owner and not const.co_flags & 2:  # CO_NEWLOCALS: a class body has none
                const = _thin(const, name + ".", later, parts)
        made.append(const)
    return code.replace(co_consts=tuple(made))


if __name__ == "__main__":
    minor, *wanted = json.load(sys.stdin)
    if ".".join(map(str, sys.version_info[:2])) != minor:
        sys.exit("another Python than the target's")
    answer = compiled(*wanted) if len(wanted) == 1 else in_pieces(*wanted)
    sys.stdout.buffer.write(importlib.util.MAGIC_NUMBER + answer)
