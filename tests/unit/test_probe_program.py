"""The one text that the parts of the probe, and of a deep capture, become on their way into the target."""

from __future__ import annotations

import ast
import importlib
import types
from typing import Any

import pytest

from prismtop.probe import agent, program

NAMES = sorted(program.PARTS)


def functions(names: dict[str, Any]) -> dict[str, types.FunctionType]:
    """All functions and methods among some names, by their qualified name."""
    owners = [vars(value) for value in names.values() if isinstance(value, type)]
    found = (value for owner in (names, *owners) for value in owner.values())
    return {f.__qualname__: f for f in found if isinstance(f, types.FunctionType)}


def own(part: str) -> dict[str, types.FunctionType]:
    """The functions and methods that a part defines, as this process imports it."""
    module = importlib.import_module(f"prismtop.probe.{part}")
    return {name: f for name, f in functions(vars(module)).items() if f.__module__ == module.__name__}


def content(f: types.FunctionType) -> tuple[object, ...]:
    """What a function does, but for lines and for how the compiler calls a module's functions."""
    code = f.__code__
    values = [value for value in code.co_consts if not isinstance(value, types.CodeType)]
    return code.co_varnames, code.co_names, code.co_freevars, code.co_flags, values, f.__defaults__


def executed(name: str) -> dict[str, Any]:
    """The namespace that the target gets."""
    names: dict[str, Any] = {"__name__": "_prismtop_probe"}
    exec(compile(program.program(name), "<prismtop>", "exec"), names)
    return names


@pytest.mark.parametrize("name", NAMES)
def test_the_program_has_the_functions_of_its_parts_and_no_other(name: str) -> None:
    parts = {q: content(f) for part in program.PARTS[name] for q, f in own(part).items()}
    assert {q: content(f) for q, f in functions(executed(name)).items()} == parts


@pytest.mark.parametrize("name", NAMES)
def test_a_line_of_the_program_tells_the_part_and_its_line(name: str) -> None:
    there = functions(executed(name))
    for number, part in enumerate(program.PARTS[name], 1):
        for qualname, f in own(part).items():
            line = there[qualname].__code__.co_firstlineno
            assert divmod(line, program.BLOCK) == (number, f.__code__.co_firstlineno), qualname


@pytest.mark.parametrize("name", NAMES)
def test_the_program_imports_the_standard_library_only_and_no_typing(name: str) -> None:
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(program.program(name)))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not {module for module in imported if module.startswith(("prismtop", "typing"))}
    assert "time" in imported


@pytest.mark.parametrize("name", NAMES)
def test_the_program_is_read_by_the_oldest_python_that_a_target_may_have(name: str) -> None:
    assert ast.parse(program.program(name), feature_version=(3, 9)).body


def test_parts_that_give_a_name_two_meanings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(program.PARTS, "both", ("layout", "deep"))
    with pytest.raises(ValueError, match=r"FORKED is in layout\.py and in deep\.py"):
        program.program("both")


def test_every_constant_of_the_probe_can_be_had_from_its_last_part() -> None:
    there = {name for name in executed("agent") if not name.startswith("__")}
    assert there <= set(vars(agent))
