"""The probe: everything of prismtop that runs INSIDE a target process, and the last of its parts.

Standard library only, Python 3.9 syntax, no import of prismtop: its parts travel as one text with one
namespace (`prismtop.probe.program`), which this module holds as well. It is built on a thread that ends with
that (`prismtop.attach.payload.FIRST`) and starts none itself, opens no socket, reads no prompt, token or
generated text, and never touches a device tensor: the expressions that it evaluates come from the engine
profile and were checked outside (`prismtop.targets.expressions`).

What it leaves after `detach`: one inert at-fork callback for the life of the process with the empty module
`_prismtop_fork` that it looks into, and the standard-library modules that it had to import.

A hooked call packs its record at once. Right after a forward pass the caches are cold: what a call costs is
the number of different pieces of code and memory that it touches, each of them fetched from far away, not
its number of instructions. So it makes no object that outlives it, and hooks without values share one code
object.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
import time
import types
import weakref
from _thread import get_ident
from typing import Any

from prismtop.probe.boundary import *
from prismtop.probe.calibration import *
from prismtop.probe.hook import *
from prismtop.probe.layout import *
from prismtop.probe.lookup import *
from prismtop.probe.loop import *
from prismtop.probe.monitoring import *
from prismtop.probe.on_demand import *
from prismtop.probe.ring import *

BUILDING_NS = 30_000_000_000  # what took longer to build was left unfinished (by a fork)
# Sleeps, hence gives the interpreter to the engine; None where the probe is built on a thread of the engine.
PAUSE: Any = globals().get("PAUSE")
PAUSE_S = 0.001
SETUP_NS = 250_000  # hooks that are not in after this long are put in at the next batch boundaries


class Agent:
    """The ring, the mailbox and the installed hooks of one monitor."""

    def __init__(self) -> None:
        self.guest: Any = None
        self.mon: Any = None
        self.tool: Any = None
        self.running: Any = None
        self.fd: Any = None
        self.mm: Any = None
        self.q: Any = None
        self.todo: Any = []
        self.hooks: dict[int, Any] = {}
        self.table: dict[int, Any] = {}
        self.odd: list[int] = []  # not empty: hooks must look twice (this batch is measured, or all is over)
        self.left: list[str] = []
        self.state = RUNNING
        self.built = False  # until then the engine's threads leave mailbox and lease to the one that builds

    def build(self, config: Any, builders: Any) -> Any:
        """Make the ring and put the hooks in. When it raises, `detach` takes out what is in."""
        t0 = time.monotonic_ns()
        self.builders = builders
        self.done = -1
        self.seen = self.loaded = 0
        self.base = self.base_exit = self.faults = self.setup = self.complete = 0
        self.bad: dict[Any, str] = {}
        self.samples: dict[int, list[int]] = {}
        self.config = config
        self.lease = config["lease_ns"]
        capacity = config["capacity"]
        self.guest_at = HEADER_BYTES + capacity * RECORD.size
        size = self.guest_at + GUEST_BYTES
        self.fd = memfd("prismtop-" + config["nonce"], size)
        os.ftruncate(self.fd, size)
        self.mm = mmap.mmap(self.fd, size)
        self.q = memoryview(self.mm).cast("Q")
        self.count = itertools.count(1).__next__
        self.mask = (capacity - 1) * RECORD.size
        self.cuts: list[int] = []  # not empty: the values just read were cut at CAP items
        self.look, self.stand_in = lookers(self)
        head = (MAGIC, VERSION, RECORD.size, capacity, os.getpid(), t0, time.time_ns(), 0, t0)
        for i in range(1, len(head)):
            self.q[i] = head[i]
        self.q[W_MONITOR], self.q[W_LEASE] = config["monitor"], self.lease
        self.q[W_NAMESPACE] = config["namespace"]
        self.mechanisms = config["mechanisms"]
        if "monitoring" in self.mechanisms and hasattr(sys, "monitoring"):
            open_monitoring(self)
        if self.mon is None:
            self.mechanisms = [m for m in self.mechanisms if m != "monitoring"]
        for spec in config["hooks"]:
            self.hooks[spec["fid"]] = Hook(self, spec)
        self.todo = [self.hooks[fid] for fid in config["order"]]
        self.watch_forks()
        for _ in range(config["first"]):
            self.todo.pop(0).install(self.mechanisms)
        if not any(hook.mechanism and hook.spec["looks"] for hook in self.hooks.values()):
            self.refrain()
        if PAUSE is None:
            self.advance(t0)
        else:
            self.publish()
        self.q[W_STATE] = RUNNING
        self.q[W_MAGIC] = MAGIC
        if PAUSE is not None:
            self.in_pieces()
        self.running = None
        self.built = True

    def in_pieces(self) -> Any:
        """Put the other hooks in, on a thread that does nothing else, and let the engine's go on in between;
        until the monitor wants something else."""
        while self.todo and self.q[W_COMMAND] == 0:
            PAUSE(PAUSE_S)
            for hook in self.todo[:2]:
                hook.install(self.mechanisms)
            del self.todo[:2]
        PAUSE(PAUSE_S)
        self.setup = time.thread_time_ns()
        self.advance(time.monotonic_ns())

    def advance(self, t0: Any) -> Any:
        """Put hooks in, for a quarter of a millisecond; the rest waits for the next batch boundary."""
        while self.todo and time.monotonic_ns() - t0 < SETUP_NS:
            self.todo.pop(0).install(self.mechanisms)
        if not self.todo:
            self.complete = self.complete or time.monotonic_ns()
            if not self.base and time.monotonic_ns() - t0 < SETUP_NS:
                self.base = calibrate(self)
            if self.base:
                self.done = 0
        self.setup += time.monotonic_ns() - t0
        self.publish()

    def refrain(self) -> Any:
        """None of the hooks that look at mailbox and lease is in: nothing would take the others out again."""
        self.todo = []
        for hook in self.hooks.values():
            if hook.mechanism:
                hook.remove()
            hook.reason = hook.reason or "left out: no hook is in that could take the probe out again"

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
            if self.built:
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
        if self.faults > 100 and self.built:
            self.detach(DETACHED)

    def service(self, now: Any) -> Any:
        """Mailbox and lease, on the thread that just ended a batch."""
        q = self.q
        if self.state != RUNNING or not self.built:
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
        if state != FORKED and self.q is not None:
            self.publish()
            self.q[W_STATE] = state
        sys.modules.pop(MODULE, None)
        # A call that is in flight looks at `state` before it touches these; a thread between the two is
        # caught.
        if self.q is not None:
            self.q.release()
            self.mm.close()
        if self.fd is not None:
            os.close(self.fd)
        self.hooks, self.todo, self.builders = {}, [], {}
        self.table.clear()


def start(config: Any, builders: Any) -> Any:
    """Entry point of the payload. Refuses a second monitor while the first one's lease is alive."""
    module = types.ModuleType(MODULE)
    module.__dict__["SINCE"] = time.monotonic_ns()
    old = sys.modules.setdefault(MODULE, module)
    if old is not module:
        leave_to(old)
        sys.modules[MODULE] = module
    made = Agent()
    try:
        made.build(config, builders)
        module.__dict__["AGENT"] = made
    except BaseException:
        made.built = True
        made.detach(DETACHED)
        sys.modules.pop(MODULE, None)
        raise


def leave_to(old: Any) -> Any:
    """Refuse where another monitor's probe lives, or is being built; otherwise take that one out."""
    if not hasattr(old, "AGENT"):
        if time.monotonic_ns() - old.SINCE < BUILDING_NS:
            raise RuntimeError("busy: being entered by another prismtop, just now")
        return
    q = old.AGENT.q
    if time.monotonic_ns() - q[W_HEARTBEAT] <= old.AGENT.lease:
        raise RuntimeError("busy: watched by another prismtop, pid %d" % q[W_MONITOR])
    old.AGENT.detach(LEASE_EXPIRED)
    if old.AGENT.state == RUNNING:
        raise RuntimeError("busy: in a deep capture of another prismtop, pid %d" % q[W_MONITOR])
