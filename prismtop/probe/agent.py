"""The probe: everything of prismtop that runs INSIDE a target process.

Standard library only, Python 3.9 syntax, no import of prismtop, and one file however long: it travels as one
text. It starts no thread, opens no socket, reads no prompt, token or generated text, and never touches a
device tensor: the expressions that it evaluates come from the engine profile and were checked outside
(`prismtop.targets.expressions`).

What it leaves after `detach`: one inert at-fork callback for the life of the process with the empty module
`_prismtop_fork` that it looks into, and the standard-library modules that it had to import.

Layout of the memfd (native byte order, 64-bit words), version 1:
    0      16 words: see the `W_*` constants
    4096   status, a Python literal, `W_STATUS_LEN` bytes
    65536  ring: `capacity` slots of 128 bytes:  seq t0 t1 hook|flags<<16 thread v0..v10 seq
    behind it, `GUEST_BYTES`: what a deep capture brings in (magic number of its Python, nonce, marshalled
           code and options), and from `GUEST_STATUS_AT` on how it stands, a Python literal
A reader accepts a slot only when both sequence words are the number that it expects and a second copy is the
same.

A hooked call packs its record at once. Right after a forward pass the caches are cold: what a call costs is
the number of different pieces of code and memory that it touches, each of them fetched from far away, not
its number of instructions. So it makes no object that outlives it, and hooks without values share one code
object.
"""

from __future__ import annotations

import itertools
import marshal
import mmap
import os
import struct
import sys
import time
import types
import weakref
from _thread import get_ident

MYPY = False
if MYPY:  # typing is not imported in the target
    from typing import Any

MAGIC = int.from_bytes(b"PRSMTOP1", "little")
VERSION = 1
RECORD = struct.Struct("<QQQII11qQ")
VALUES = 11
PACKERS: dict[int, Any] = {}
HEADER_BYTES = 65536
STATUS_AT = 4096
STATUS_BYTES = HEADER_BYTES - STATUS_AT
MISSING = -(1 << 63)
CAP = 512

W_MAGIC, W_VERSION, W_RECORD, W_CAPACITY, W_PID, W_MONO, W_REAL, W_STATE = range(8)
W_HEARTBEAT, W_COMMAND, W_OP, W_ARG, W_ACK, W_STATUS_SEQ, W_STATUS_LEN, W_FAULTS = range(8, 16)
W_MONITOR, W_LEASE, W_CUT, W_NAMESPACE = range(16, 20)
W_GUEST_SEQ, W_GUEST_LEN, W_GUEST_COUNT = range(20, 23)
W_COSTS = 128  # one word per hook number: median cost in ns of what it does beside the hooked call
BOUNDARY = 64  # the word after them: of looking at the mailbox at a batch boundary

RUNNING, DETACHED, LEASE_EXPIRED, FORKED = 1, 2, 3, 4
OP_DETACH, OP_HOOKS, OP_LOAD, OP_CANCEL = 1, 2, 3, 4
GUEST_BYTES = 1 << 18
GUEST_STATUS_AT = GUEST_BYTES - (1 << 14)
NO_MAGIC = bytes(4)  # the guest's code is source
FLAG_RAISED, FLAG_CAPPED, FLAG_EVENT = 1, 2, 4
DUMMY = 0xFFFF
MODULE = "_prismtop_probe"
FORK_MODULE = "_prismtop_fork"
COPIED = ("__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__", "__dict__")
SAMPLE = 61  # one in so many batches is measured, every hook of it: a prime, so that nothing falls into step
SAMPLE_EARLY = 7  # the same for the first figures
SAMPLES = 15
SETUP_NS = 250_000  # hooks that are not in after this long are put in at the next batch boundaries
MIN_TURN_NS = 100_000  # a turn of an unknown loop that used less CPU ran no batch: it polls
HOT_TURN_NS, HOT_TURNS = 5_000, 4096  # a loop that turns so fast, so often, only computes: it is switched off
SETTLED_NS = 10_000_000_000  # a loop that ticked for so long is the one; a wider one around it starts it anew
KIND_SUSPENDS = ("async_method", "async_function", "generator", "async_generator")
WHOLE = ("Drive", "Loop")
LATER = (
    "function_at",
    "running_codes",
    "Hook.by_monitoring",
    "Hook.by_loop",
    "Hook.by_code",
    "Hook.remove",
    "Hook.loaded_again",
    "Agent.open_monitoring",
    "Agent.calibrate",
    "Agent.missing",
    "Agent.capped",
    "Agent.raised",
    "Agent.write",
    "Agent.put",
    "Agent.repair",
    "Agent.event",
    "Agent.spent",
    "Agent.fault",
    "Agent.service",
    "Agent.load",
    "Agent.tick_guest",
    "Agent.guest_failed",
    "Agent.end_guest",
    "Agent.tell",
    "Agent.select",
    "Agent.detach",
)
"""Classes, functions and methods that travel in pieces of their own (`later`): unpacked when first needed, so
that an attach does not have to unpack them."""
DATA, INDEX = (
    globals().get("DATA", b""),
    globals().get("INDEX", {}),
)  # those pieces, and where each of them is


def piece(name: Any) -> Any:
    """The code that travels under this name."""
    at, size = INDEX[name]
    at += len(DATA)
    return marshal.loads(memoryview(DATA)[at : at + size])


def later(name: Any, a: Any, k: Any) -> Any:
    """The first call of a function whose code travels by itself: it gets its code."""
    owner, _, short = name.rpartition(".")
    f = vars(globals()[owner])[short] if owner else globals()[short]
    f.__code__ = piece(name)
    return f(*a, **k)


def whole(name: Any) -> Any:
    """A class that travels by itself."""
    if name not in globals():
        exec(piece(name), globals())
    return globals()[name]


class Drive:
    """Drives a coroutine or generator and adds up the time during which it ran."""

    __slots__ = ("busy", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.busy = 0

    def __iter__(self) -> Any:
        return self

    __await__ = __iter__

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        t = time.monotonic_ns()
        try:
            return self.inner.send(value)
        finally:
            self.busy += time.monotonic_ns() - t

    def throw(self, *error: Any) -> Any:
        t = time.monotonic_ns()
        try:
            return self.inner.throw(*error)
        finally:
            self.busy += time.monotonic_ns() - t

    def close(self) -> Any:
        self.inner.close()


def memfd(name: Any) -> Any:
    """A nameless file in memory: memfd_create, its bare system call where this Python was built without it,
    or an unlinked file (seccomp)."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except AttributeError:
        import ctypes

        fd = ctypes.CDLL(None).memfd_create(name.encode(), 3)
        if fd >= 0:
            return fd
    except OSError:
        pass
    for folder in ("/dev/shm", "/tmp"):
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            continue
    raise OSError("this process may create neither a memfd nor an unlinked file (seccomp?)")


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
    except KeyError:
        return None, "no " + part + " in " + module
    name = parts[-1]
    for place in getattr(owner, "__mro__", (owner,)):
        if name in vars(place):
            return (place, name, vars(place)[name]), ""
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


def packer(values: Any) -> Any:
    """Writes a record of so many values into the ring; the others are bytes made beforehand.

    Native codes: for `l` and `L` CPython converts by the digit, for `q` and `Q` through an array of bytes.
    All hooks with as many values share one: it need not be fetched from memory for each of them.
    """
    if values not in PACKERS:
        rest = "%ds" % (8 * (VALUES - values)) if values < VALUES else ""
        PACKERS[values] = struct.Struct("@LLLII%dl%sL" % (values, rest)).pack_into
    return PACKERS[values]


def looker(ag: Any) -> Any:
    """What a batch boundary does beyond its record: mailbox and lease, and whether the next batch is
    measured. A closure: attributes of the agent are far apart."""
    q, odd, spent, clock, lease = ag.q, ag.odd, ag.spent, time.monotonic_ns, ag.lease
    left, early = SAMPLE_EARLY, 2 * SAMPLES

    def look(now: Any) -> Any:
        nonlocal left, early
        t = clock() if odd else 0
        if q[W_COMMAND] != ag.done or now - q[W_HEARTBEAT] > lease:
            ag.service(now)
        left -= 1
        if t and ag.state == RUNNING:
            odd.clear()
            early -= 1
            left = SAMPLE_EARLY if early > 0 else SAMPLE
            spent(BOUNDARY, clock() - t)
        elif left <= 0 and not odd:
            odd.append(1)

    return look


class Loop:
    """Ticks of a loop that was already turning when the probe came, from JUMP events of its code.

    Which jump closes the loop is learned from the jumps: of nested loops it is the outermost that turns, and
    the jumps of the others are switched off one by one. Calls of the function are recorded too: one that is
    called anew is not the running loop. A record has the thread's CPU time, the calls so far, whether it is
    a call, the line of the loop, and how often another loop was chosen, in v1 to v5.
    """

    def __init__(self, agent: Any, fid: Any, code: Any) -> None:
        self.agent, self.fid, self.code = agent, fid, code
        self.low = self.high = self.line = self.choice = self.since = 0
        self.starts = self.turned = self.used = 0
        self.heads: tuple[int, ...] = ()
        self.ticks: dict[int, Any] = {}
        self.calls: dict[int, Any] = {}

    def jump(self, offset: Any, destination: Any) -> Any:
        try:
            now = time.monotonic_ns()
            if offset <= self.high and destination in self.heads or self.learn(offset, destination, now):
                if self.turn(self.ticks, now, 0):
                    return None
                self.heads, self.high = (), 0
        except Exception as error:
            self.agent.fault(error)
            return None
        return self.agent.mon.DISABLE

    def start(self) -> Any:
        try:
            self.starts += 1
            return None if self.turn(self.calls, time.monotonic_ns(), 1) else self.agent.mon.DISABLE
        except Exception as error:
            self.agent.fault(error)

    def learn(self, offset: Any, destination: Any, now: Any) -> Any:
        """Whether a jump that was not seen before belongs to the loop. Two ranges of one loop (`continue`)
        share their head or overlap in part; those of different loops are nested or apart."""
        if destination not in self.heads:
            inside = self.low <= destination and offset <= self.high
            around = destination <= self.low and self.high <= offset
            apart = offset < self.low or self.high < destination
            if self.heads and (inside or around and now - self.since > SETTLED_NS):
                return False
            if around or apart or not self.heads:
                self.heads, self.low, self.high, self.since = (), destination, offset, now
                self.choice += 1
                self.line = next((x for a, b, x in self.code.co_lines() if a <= destination < b and x), 0)
                self.ticks.clear()
            self.heads += (destination,)
        self.low, self.high = min(self.low, destination), max(self.high, offset)
        return True

    def turn(self, turns: Any, now: Any, call: Any) -> Any:
        """One tick or call on this thread; False when so many came so fast that they can be no batches."""
        ag = self.agent
        if ag.state != RUNNING:
            return True
        thread, cpu = get_ident(), time.thread_time_ns()
        before, spent = turns.get(thread, (now, cpu))
        turns[thread] = now, cpu
        busy = cpu - spent
        self.turned += 1
        self.used += busy
        if busy >= MIN_TURN_NS:
            values = (MISSING, busy, self.starts, call, self.line, self.choice)
            ag.write(before, now, self.fid, values + (MISSING,) * 5)
            if ag.odd:
                ag.spent(self.fid, time.monotonic_ns() - now)
        ag.look(now)
        if self.turned < HOT_TURNS:
            return True
        mean, self.turned, self.used = self.used // self.turned, 0, 0
        return mean >= HOT_TURN_NS


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
        for mechanism in mechanisms:
            if mechanism != "setattr" and not exact:
                self.reason = "hidden by a decorator that does not set __wrapped__ (" + code.co_name + ")"
                continue
            if mechanism == "setattr" and self.spec["binding"] == "captured":
                self.reason = "captured at start: setting the attribute would not reach it"
                continue
            try:
                self.reason = getattr(self, "by_" + mechanism)(found, f, code)
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


class Agent:
    """The ring, the mailbox and the installed hooks of one monitor."""

    def __init__(self, config: Any, builders: Any) -> None:
        t0 = time.monotonic_ns()
        self.state = RUNNING
        self.builders = builders
        self.done = -1
        self.seen = self.loaded = 0
        self.guest: Any = None
        self.base = self.base_exit = self.faults = self.setup = self.complete = 0
        self.bad: dict[Any, str] = {}
        self.samples: dict[int, list[int]] = {}
        self.left: list[str] = []
        self.config = config
        self.lease = config["lease_ns"]
        capacity = config["capacity"]
        self.guest_at = HEADER_BYTES + capacity * RECORD.size
        size = self.guest_at + GUEST_BYTES
        self.fd = memfd("prismtop-" + config["nonce"])
        os.ftruncate(self.fd, size)
        self.mm = mmap.mmap(self.fd, size)
        self.q = memoryview(self.mm).cast("Q")
        self.count = itertools.count(1).__next__
        self.mask = (capacity - 1) * RECORD.size
        self.odd: list[int] = []  # not empty: hooks must look twice (this batch is measured, or all is over)
        self.cuts: list[int] = []  # not empty: the values just read were cut at CAP items
        self.look = looker(self)
        head = (MAGIC, VERSION, RECORD.size, capacity, os.getpid(), t0, time.time_ns(), 0, t0)
        for i in range(1, len(head)):
            self.q[i] = head[i]
        self.q[W_MONITOR], self.q[W_LEASE] = config["monitor"], self.lease
        self.q[W_NAMESPACE] = config["namespace"]
        self.hooks = {}
        self.table: dict[int, Any] = {}
        self.mon = self.running = None
        self.mechanisms = config["mechanisms"]
        if "monitoring" in self.mechanisms and hasattr(sys, "monitoring"):
            self.open_monitoring()
        if self.mon is None:
            self.mechanisms = [m for m in self.mechanisms if m != "monitoring"]
        for spec in config["hooks"]:
            self.hooks[spec["fid"]] = Hook(self, spec)
        self.todo = [self.hooks[fid] for fid in config["order"]]
        self.watch_forks()
        for _ in range(config["first"]):
            self.todo.pop(0).install(self.mechanisms)
        self.running = None
        self.advance(t0)
        self.q[W_STATE] = RUNNING
        self.q[W_MAGIC] = MAGIC

    def advance(self, t0: Any) -> Any:
        """Put hooks in, for a quarter of a millisecond; the rest waits for the next batch boundary."""
        while self.todo and time.monotonic_ns() - t0 < SETUP_NS:
            self.todo.pop(0).install(self.mechanisms)
        if not self.todo:
            self.complete = self.complete or time.monotonic_ns()
            if not self.base and time.monotonic_ns() - t0 < SETUP_NS:
                self.base = self.calibrate()
            if self.base:
                self.done = 0
        self.setup += time.monotonic_ns() - t0
        self.publish()

    def watch_forks(self) -> Any:
        """A forked child must not write into its parent's ring. At-fork callbacks cannot be taken back, so
        one is registered per process, however often a monitor attaches."""
        holder = sys.modules.get(FORK_MODULE)
        if holder is None:
            holder = sys.modules[FORK_MODULE] = types.ModuleType(FORK_MODULE)

            def in_child() -> Any:
                agent = holder.__dict__["agent"]()
                if agent is not None:
                    agent.detach(FORKED)

            os.register_at_fork(after_in_child=in_child)
        holder.__dict__["agent"] = weakref.ref(self)

    def open_monitoring(self) -> Any:
        mon: Any = getattr(sys, "monitoring")
        for tool in (4, 3, 1):
            if mon.get_tool(tool) is None:
                mon.use_tool_id(tool, "prismtop")
                self.mon, self.tool = mon, tool
                break
        else:
            return
        ev = mon.events
        self.events = ev.PY_START | ev.PY_RETURN | ev.PY_YIELD | ev.PY_RESUME
        table = self.table

        def start(code: Any, _offset: Any) -> Any:
            hook = table.get(id(code))
            if hook is not None:
                return hook[0]()
            return None

        def ret(code: Any, _offset: Any, value: Any) -> Any:
            hook = table.get(id(code))
            if hook is not None:
                hook[1](value)

        def pause(code: Any, _offset: Any, _value: Any) -> Any:
            hook = table.get(id(code))
            if hook is not None and hook[2] is not None:
                hook[2]()

        def resume(code: Any, _offset: Any) -> Any:
            hook = table.get(id(code))
            if hook is not None and hook[3] is not None:
                hook[3]()

        def jump(code: Any, offset: Any, destination: Any) -> Any:
            hook = table.get(id(code))
            return hook[4](offset, destination) if hook is not None and destination < offset else mon.DISABLE

        pairs = ((ev.PY_START, start), (ev.PY_RETURN, ret), (ev.PY_YIELD, pause), (ev.PY_RESUME, resume))
        for event, callback in (*pairs, (ev.JUMP, jump)):
            mon.register_callback(self.tool, event, callback)

    def calibrate(self) -> Any:
        """Cost of one hooked call, in ns: a wrapper around a function that does nothing, 64 calls, whose
        records are thrown away."""
        spec = {"fid": DUMMY, "names": [], "kind": "function", "values": 0}
        hook = Hook(self, spec)
        hook.positions = {}
        hook.ring = bytearray(HEADER_BYTES + 64 * RECORD.size), itertools.count(1).__next__, 63 * RECORD.size

        def nothing() -> Any:
            return None

        def run(f: Any) -> Any:
            t = time.monotonic_ns()
            for _ in repeat:
                f()
            return time.monotonic_ns() - t

        repeat = range(64)
        run(nothing)
        bare = run(nothing)
        if self.mon is not None:
            hook.by_monitoring(None, nothing, nothing.__code__)
            hook.mechanism = "monitoring"
            wrapped = nothing
        else:
            wrapped = hook.make(nothing)
        full = min(run(wrapped), run(wrapped))
        self.odd.append(1)
        for _ in range(SAMPLES):
            wrapped()
        self.odd.clear()
        hook.remove()
        return max(full - bare, len(repeat)) // len(repeat)

    def publish(self) -> Any:
        hooks = [(h.spec["fid"], h.mechanism, h.reason) for h in self.hooks.values()]
        status = {
            "python": tuple(sys.version_info[:3]),
            "pid": os.getpid(),
            "hooks": hooks,
            "bad": dict(self.bad),
            "base_ns": self.base,
            "base_exit_ns": self.base_exit,
            "todo": len(self.todo),
            "complete_ns": self.complete,
            "setup_ns": self.setup,
            "left": list(self.left),
        }
        text = repr(status).encode()[:STATUS_BYTES]
        q = self.q
        q[W_STATUS_SEQ] += 1
        self.mm[STATUS_AT : STATUS_AT + len(text)] = text
        q[W_STATUS_LEN] = len(text)
        q[W_STATUS_SEQ] += 1

    def missing(self, fid: Any, name: Any, error: Any) -> Any:
        """A value that could not be read: remembered once with its reason."""
        if (fid, name) not in self.bad and len(self.bad) < 64 and self.state == RUNNING:
            self.bad[(fid, name)] = type(error).__name__ + ": " + str(error)[:80]
            self.publish()
        return MISSING

    def capped(self, items: Any) -> Any:
        """At most CAP items of a per-request iteration."""
        try:
            if len(items) <= CAP:
                return items
        except TypeError:
            return itertools.islice(items, CAP)
        self.cuts.append(1)
        return itertools.islice(items, CAP)

    def raised(self, fid: Any, t0: Any, t1: Any) -> Any:
        try:
            self.write(t0, t1, fid | FLAG_RAISED << 16, (MISSING,) * VALUES)
        except Exception as error:
            self.fault(error)

    def write(self, t0: Any, t1: Any, word: Any, values: Any) -> Any:
        self.put(self.count(), (t0, t1, word, get_ident() & 0xFFFFFFFF, *values))

    def put(self, n: Any, record: Any) -> Any:
        """Write record number `n` with all of its values."""
        packer(VALUES)(self.mm, (n * RECORD.size - RECORD.size & self.mask) + HEADER_BYTES, n, *record, n)

    def repair(self, n: Any, record: Any) -> Any:
        """Write a record that could not be packed, with the values replaced that are no 64-bit integers: its
        number was taken, and the reader waits for it."""
        made = list(record[:4])
        for at in range(4, 4 + VALUES):
            value = record[at] if at < len(record) else MISSING
            try:
                whole = MISSING if value is None or isinstance(value, bytes) else int(value)
                made.append(whole if MISSING <= whole < -MISSING else MISSING)
            except Exception as error:
                made.append(self.missing(record[2] & 0xFFFF, "number %d" % (at - 4), error))
        self.put(n, made)

    def event(self, fid: Any, kind: Any, now: Any, items: Any) -> Any:
        """Request events: up to 64 per call, three in one record."""
        word = fid | (FLAG_EVENT | kind << 4) << 16
        values: list[Any] = []
        for n, (a, b, c) in enumerate(items):
            if n >= 64:
                self.q[W_CUT] += 1
                break
            values += (a, b, c)
            if len(values) == 9:
                self.write(now, now, word, (*values, 3, MISSING))
                values = []
        if values:
            n = len(values) // 3
            self.write(now, now, word, (*values, *(MISSING,) * (9 - len(values)), n, MISSING))

    def spent(self, fid: Any, ns: Any) -> Any:
        """A sample of what one call cost. The median of a hook's samples is kept: in some of them the thread
        lost the processor or the GIL."""
        samples = self.samples.setdefault(fid, [])
        samples.append(ns)
        if len(samples) >= SAMPLES:
            samples.sort()
            if fid <= BOUNDARY:
                self.q[W_COSTS + fid] = samples[SAMPLES // 2]
            else:
                self.base_exit = samples[SAMPLES // 2]
            samples.clear()

    def fault(self, error: Any) -> Any:
        """An error inside the probe itself: counted, never raised; after 100 it takes itself out."""
        if self.state != RUNNING:
            return
        self.faults += 1
        self.q[W_FAULTS] = self.faults
        self.missing(DUMMY, "fault", error)
        if self.faults > 100:
            self.detach(DETACHED)

    def service(self, now: Any) -> Any:
        """Mailbox and lease, on the thread that just ended a batch."""
        q = self.q
        if self.state != RUNNING:
            return
        if now - q[W_HEARTBEAT] > self.lease:
            self.detach(LEASE_EXPIRED)
            return
        command = q[W_COMMAND]
        if self.done == -1 and command == 0:
            self.advance(now)
            return
        if command != self.seen:
            self.seen = command
            op, arg = q[W_OP], q[W_ARG]
            if op == OP_HOOKS:
                self.select(arg)
            elif op == OP_LOAD:
                self.load(arg)
            elif op == OP_CANCEL:
                self.end_guest("cancelled")
            q[W_ACK] = command
            if op == OP_DETACH:
                self.detach(DETACHED)
        if self.state == RUNNING:
            # No command has this number: the boundary's own comparison then calls us every time.
            self.done = -2 if self.guest is not None and self.tick_guest(now) else self.seen

    def load(self, length: Any) -> Any:
        """Take in the deep capture that the monitor wrote behind the ring."""
        import marshal

        if not self.end_guest("replaced"):
            return
        self.loaded = self.seen
        try:
            if not 20 < length <= GUEST_STATUS_AT:
                raise ValueError("of an impossible size")
            data = self.mm[self.guest_at : self.guest_at + length]
            magic = sys.modules["_frozen_importlib_external"].__dict__["MAGIC_NUMBER"]
            if data[:4] not in (magic, NO_MAGIC):
                raise ValueError("compiled for another Python")
            if data[4:20] != self.config["nonce"].encode():
                raise ValueError("of another attach")
            code, options = marshal.loads(data[20:])
            code = marshal.loads(code) if data[:4] == magic else compile(code, "<prismtop>", "exec")
            names: Any = {"__name__": "_prismtop_deep"}
            exec(code, names)
            self.guest = names["Guest"](self, options)
        except Exception as error:
            self.guest_failed(error)

    def tick_guest(self, now: Any) -> Any:
        """Give the guest this batch boundary; whether it wants the next one. One that raises is removed."""
        try:
            return self.guest.tick(now)
        except Exception as error:
            self.end_guest("failed")
            self.guest_failed(error)
        return self.guest is not None

    def guest_failed(self, error: Any) -> Any:
        self.tell({"phase": "failed", "error": type(error).__name__ + ": " + str(error)[:200]})

    def end_guest(self, why: Any) -> Any:
        """Stop it, whatever it does; False when only its own thread can, at its next batch boundary."""
        if self.guest is not None:
            try:
                if not self.guest.end(why):
                    return False
            except Exception as error:
                self.left.append("deep capture: " + type(error).__name__ + ": " + str(error)[:80])
            self.guest = None
        return True

    def tell(self, told: Any) -> Any:
        """How the guest stands, for the monitor."""
        text = repr({"load": self.loaded, **told}).encode()
        if len(text) > GUEST_BYTES - GUEST_STATUS_AT:
            text = repr({"load": self.loaded, "phase": "failed", "error": "its status is too long"}).encode()
        at = self.guest_at + GUEST_STATUS_AT
        self.q[W_GUEST_SEQ] += 1
        self.mm[at : at + len(text)] = text
        self.q[W_GUEST_LEN] = len(text)
        self.q[W_GUEST_SEQ] += 1

    def select(self, wanted: Any) -> Any:
        """Install exactly the hooks whose bit is set."""
        for fid, hook in self.hooks.items():
            on = bool(wanted >> fid & 1)
            if on and not hook.mechanism:
                hook.install(self.mechanisms)
            elif not on and hook.mechanism:
                note = hook.remove()
                hook.reason = note or "dropped"
        self.publish()

    def detach(self, state: Any = DETACHED) -> Any:
        """Restore everything. Idempotent; also runs in a forked child."""
        if self.state != RUNNING or not self.end_guest(state):
            return
        self.state = state
        self.odd.append(1)
        for hook in reversed(list(self.hooks.values())):
            try:
                note = hook.remove()
            except Exception as error:
                note = hook.spec["qualname"] + ": " + str(error)[:80]
            if note and note not in self.left:
                self.left.append(note)
        if self.mon is not None:
            ev = self.mon.events
            for event in (ev.PY_START, ev.PY_RETURN, ev.PY_YIELD, ev.PY_RESUME, ev.JUMP):
                self.mon.register_callback(self.tool, event, None)
            self.mon.free_tool_id(self.tool)
        if state != FORKED:
            self.publish()
            self.q[W_STATE] = state
        sys.modules.pop(MODULE, None)
        # A call that is in flight looks at `state` before it touches these; a thread between the two is
        # caught.
        self.q.release()
        self.mm.close()
        os.close(self.fd)
        self.hooks, self.todo, self.builders = {}, [], {}
        self.table.clear()


def start(config: Any, builders: Any) -> Any:
    """Entry point of the payload. Refuses a second monitor while the first one's lease is alive."""
    old = sys.modules.get(MODULE)
    if old is not None:
        q = old.AGENT.q
        if time.monotonic_ns() - q[W_HEARTBEAT] <= old.AGENT.lease:
            raise RuntimeError("busy: watched by another prismtop, pid %d" % q[W_MONITOR])
        old.AGENT.detach(LEASE_EXPIRED)
        if old.AGENT.state == RUNNING:
            raise RuntimeError("busy: in a deep capture of another prismtop, pid %d" % q[W_MONITOR])
    module = types.ModuleType(MODULE)
    module.__dict__["AGENT"] = Agent(config, builders)
    sys.modules[MODULE] = module
