"""Finds the functions that are hooked, in a process that has loaded them."""

from __future__ import annotations

import sys
import types
from typing import Any


def locate(module: Any, qualname: Any) -> Any:
    """(owner, name, raw attribute) of a hooked function, or a reason."""
    mod = sys.modules.get(module)
    if mod is None:
        return None, "module not loaded"
    owner = mod
    parts = qualname.split(".")
    try:
        for part in parts[:-1]:
            owner = vars(owner)[part]
    except (KeyError, TypeError):  # TypeError: None where an import failed, or another thing without names
        return None, "no " + part + " in " + module
    name = parts[-1]
    for place in getattr(owner, "__mro__", (owner,)):
        names = getattr(place, "__dict__", ())
        if name in names:
            return (place, name, names[name]), ""
    return None, "no " + qualname + " in " + module


def function_at(file: Any, name: Any, line: Any) -> Any:
    """(owner, name, raw attribute) of the innermost function `name` around `line` of `file`, or a reason."""
    short = name.rpartition(".")[2]
    found, first = None, -1
    for mod in list(sys.modules.values()):
        names = getattr(mod, "__dict__", {})
        if names.get("__file__") != file:
            continue
        for owner in (mod, *(value for value in list(names.values()) if issubclass(type(value), type))):
            raw = vars(owner).get(short)
            code = getattr(innermost(raw), "__code__", None)
            if not isinstance(code, types.CodeType) or code.co_filename != file:
                continue
            if first < code.co_firstlineno <= line:
                found, first = (owner, short, raw), code.co_firstlineno
    return found, "" if found else "not found among the functions of the loaded modules"


def running_codes() -> Any:
    """The code objects of everything that runs now, in every thread."""
    codes = set()
    for top in sys._current_frames().values():
        frame: Any = top
        while frame is not None:
            codes.add(frame.f_code)
            frame = frame.f_back
    return codes


def innermost(raw: Any) -> Any:
    """The function behind static/class methods and decorators that set __wrapped__."""
    f = getattr(raw, "__func__", raw)
    for _ in range(16):
        inner = getattr(f, "__wrapped__", None)
        if inner is None:
            break
        f = inner
    return f
