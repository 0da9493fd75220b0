"""One installed hook, by `sys.monitoring`, by setting an attribute, or by swapping a code object."""

from __future__ import annotations

import sys
import time
import types
from _thread import get_ident
from typing import Any

from prismtop.probe.layout import *
from prismtop.probe.lookup import function_at, innermost, locate, running_codes
from prismtop.probe.on_demand import piece, whole
from prismtop.probe.ring import packer

COPIED = ("__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__", "__dict__")


class Hook:
    """One installed hook; `remove` restores what was there, if it is still ours."""

    def __init__(self, agent: Any, spec: Any) -> None:
        self.agent = agent
        self.spec = spec
        self.mechanism = self.reason = ""
        self.place: Any = None
        self.function: Any = None
        self.code: Any = None
        self.old: Any = None
        self.new: Any = None
        self.ring = agent.mm, agent.count, agent.mask

    def install(self, mechanisms: Any) -> Any:
        """Go in, by the first mechanism that works, or have a reason."""
        try:
            self.enter(mechanisms)
        except Exception as error:
            self.reason = type(error).__name__ + ": " + str(error)[:120]

    def enter(self, mechanisms: Any) -> Any:
        place = self.spec.get("place")
        if self.spec["kind"] == "loop":
            self.reason = self.by_loop(place)
            self.mechanism = "" if self.reason else "monitoring"
            return
        where = place or (self.spec["module"], self.spec["qualname"])
        found, self.reason = function_at(*where) if place else locate(*where)
        if found is None:
            return
        self.place = found
        f = self.function = innermost(found[2])
        if not isinstance(f, types.FunctionType):
            self.reason = "not a Python function (" + type(f).__name__ + ")"
            return
        code = f.__code__
        exact = code.co_name == found[1]
        suspends = bool(code.co_flags & 0x2A0)  # generator, coroutine, async generator
        if suspends != (self.spec["kind"] in KIND_SUSPENDS):
            self.reason = "is " + ("" if suspends else "not ") + "a coroutine or generator here"
            return
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        unknown = [n for n in self.spec["names"] if n not in parameters]
        if unknown:
            self.reason = "no parameter " + unknown[0]
            return
        places = {n: parameters.index(n) for n in self.spec["names"]}
        self.positions = {n: at if at < code.co_argcount else 99 for n, at in places.items()}
        # Not getattr of a name that is put together: the interpreter would keep each of those strings.
        ways = {"monitoring": self.by_monitoring, "setattr": self.by_setattr, "code": self.by_code}
        for mechanism in mechanisms:
            if mechanism != "setattr" and not exact:
                self.reason = "hidden by a decorator that does not set __wrapped__ (" + code.co_name + ")"
                continue
            if mechanism == "setattr" and self.spec["binding"] == "captured":
                self.reason = "captured at start: setting the attribute would not reach it"
                continue
            try:
                self.reason = ways[mechanism](found, f, code)
            except Exception as error:
                self.reason = type(error).__name__ + ": " + str(error)[:120]
            if not self.reason:
                self.mechanism = mechanism
                return

    def make(self, f: Any) -> Any:
        ag = self.agent
        spec = self.spec
        fid, count = spec["fid"], spec["values"]
        at = [self.positions[n] for n in spec["names"]]
        missing = MISSING.to_bytes(8, sys.byteorder, signed=True) * (VALUES - count)
        build = ag.builders[fid][0]
        if spec["kind"] in KIND_SUSPENDS:
            whole("Drive")
        if isinstance(build, str):
            build = types.FunctionType(piece(build), globals())
        return build(f, at, fid, ag, packer(count), *self.ring, missing, ag.odd, time.monotonic_ns, get_ident)

    def by_monitoring(self, found: Any, f: Any, code: Any) -> Any:
        ag = self.agent
        if id(code) in ag.table:
            return "shares its code with another hook"
        ag.table[id(code)] = self.make(None)
        self.code = code
        ag.mon.set_local_events(ag.tool, code, ag.events)
        return ""

    def by_loop(self, place: Any) -> Any:
        ag = self.agent
        file, name, line = place
        if ag.mon is None:
            return "the ticks of a running loop need sys.monitoring (Python 3.12) and a free tool of it"
        if ag.running is None:
            ag.running = running_codes()
        codes = [c for c in ag.running if c.co_filename == file and c.co_firstlineno <= line]
        named = [c for c in codes if name in (c.co_name, c.co_qualname)]
        code = max(named, key=lambda c: c.co_firstlineno, default=None)
        if code is None:
            found, reason = function_at(file, name, line)
            if found is None:
                return reason
            code = innermost(found[2]).__code__
        if id(code) in ag.table:
            return "shares its code with another hook"
        loop = whole("Loop")(ag, self.spec["fid"], code)
        ag.table[id(code)] = (loop.start, None, None, None, loop.jump)
        self.code = code
        ag.mon.set_local_events(ag.tool, code, ag.mon.events.JUMP | ag.mon.events.PY_START)
        return ""

    def by_setattr(self, found: Any, f: Any, code: Any) -> Any:
        owner, name, raw = found
        kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
        inner = raw.__func__ if kind else raw
        w = self.make(inner)
        for attribute in COPIED:
            try:
                value = getattr(inner, attribute)
                setattr(w, attribute, dict(value) if attribute == "__dict__" else value)
            except AttributeError:
                pass
        w.__wrapped__ = inner
        self.old, self.new = raw, kind(w) if kind else w
        setattr(owner, name, self.new)
        return ""

    def by_code(self, found: Any, f: Any, code: Any) -> Any:
        clone = types.FunctionType(code, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        clone.__kwdefaults__ = f.__kwdefaults__
        w = self.make(clone)
        shape = self.agent.builders[self.spec["fid"]][1]
        shape = piece(shape) if isinstance(shape, str) else shape
        consts = tuple(w if c == "\0prismtop" else c for c in shape.co_consts)
        names = {"co_consts": consts, "co_freevars": code.co_freevars, "co_name": code.co_name}
        if hasattr(code, "co_qualname"):
            names["co_qualname"] = code.co_qualname
        self.old, self.new = code, shape.replace(**names)
        f.__code__ = self.new
        return ""

    def remove(self) -> Any:
        """Restore; returns what could not be restored, or ''."""
        mechanism, self.mechanism = self.mechanism, ""
        if mechanism == "monitoring":
            self.agent.mon.set_local_events(self.agent.tool, self.code, 0)
            self.agent.table.pop(id(self.code), None)
        elif mechanism == "setattr":
            owner, name, _ = self.place
            if vars(owner).get(name) is not self.new:
                return self.spec["qualname"] + ": wrapped by someone else, left as a pass-through"
            setattr(owner, name, self.old)
        elif mechanism == "code":
            if self.function.__code__ is not self.new:
                return self.spec["qualname"] + ": its code was replaced by someone else"
            self.function.__code__ = self.old
        return self.loaded_again() if mechanism and self.place else ""

    def loaded_again(self) -> Any:
        """What to say when the hooked function is not the one any more that its module holds."""
        f, module = self.function, self.spec["module"]
        found = locate(module, self.spec["qualname"])[0]
        now = innermost(found[2]) if found else f
        if now is f or getattr(now, "__qualname__", "") != f.__qualname__:
            return ""
        return "module " + module + " was loaded again after the attach: its new functions were not observed"
