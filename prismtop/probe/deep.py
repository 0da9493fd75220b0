"""A deep capture: what runs in the engine for one bounded window, as the guest of the probe (`agent.py`), and
the last of its parts.

Standard library only, Python 3.9 syntax, no import of prismtop: its parts travel as one text with one
namespace (`prismtop.probe.program`). The probe executes it at a batch boundary and gives it the boundaries of
the thread that runs the model until the window is over. It loads no module that the process has not loaded,
except of the standard library.

What the layers collect goes, on a thread that lives for it only, into files of the temporary folder which
have lost their names before anybody hears of them: they are read through /proc/PID/fd, and the kernel frees
them when this process ends or the guest closes them.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import get_ident, get_native_id, start_new_thread
from array import array
from typing import Any

from prismtop.probe.deep_operators import Operators
from prismtop.probe.deep_python import Calls, Pauses
from prismtop.probe.deep_share import Share

BEFORE_NS = 100_000_000  # so long batches are looked at before the window, to compare with
CHUNK = 1024  # events that the exporter prepares between two rests: 0.1 ms, in which it holds the GIL
REST_S = 0.0005
FREE_BYTES = 256 << 20  # what the temporary folder must have left
FORKED = 4  # agent.FORKED
BATCHES = 22  # agent.W_GUEST_COUNT
FOLDER, PROFILE = "prismtop-deep-", "profile.json"
OURS = "<prismtop>"  # file name of the probe's own code
OWN = ("_prismtop_probe", "_prismtop_deep")  # names of its modules


class Guest:
    """One capture, from its arrival to the last file."""

    def __init__(self, agent: Any, options: Any) -> None:
        self.agent, self.options = agent, options
        self.phase = "waiting"
        self.thread = self.native = self.begin = self.finish = 0
        self.start_stall = self.stop_stall = 0
        self.seen: dict[Any, int] = {}
        self.before: dict[Any, list[int]] = {}
        self.first = 0
        self.ending: Any = None
        self.files: list[Any] = []
        self.sizes: dict[str, tuple[int, int]] = {}
        self.folder = self.error = ""
        self.failed: dict[str, str] = {}
        self.pauses = Pauses()
        self.calls: Any = None
        self.inside = False
        self.operators: Any = None
        self.pid = os.getpid()
        self.tell()

    def tell(self, phase: Any = "") -> Any:
        self.phase = phase or self.phase
        self.agent.tell(
            {
                "phase": self.phase,
                "thread": self.native,
                "stalls": (self.start_stall, self.stop_stall),
                "window": (self.begin, self.finish),
                "layers": self.layers(),
                "files": self.sizes,
                "folder": self.folder,
                "error": self.error[:400],
            }
        )

    def layers(self) -> Any:
        if not self.begin:
            return []
        made = self.operators.layers() if self.operators else [("operators", "off", "not asked for")]
        made.append(self.calls.layer() if self.calls else ("python", "off", "not asked for"))
        made.append(self.pauses.layer())
        return [
            (name, "off", self.failed[name]) if name in self.failed else (name, state, reason[:200])
            for name, state, reason in made
        ]

    # -- on the model thread

    def tick(self, now: Any) -> Any:
        """A batch boundary of some thread; whether the next one is wanted."""
        if self.phase == "waiting":
            self.thread, self.native = get_ident(), get_native_id()
            self.tell("starting")
            return True
        if get_ident() != self.thread:
            return self.phase in ("starting", "capturing")
        if self.ending is not None:
            self.end(self.ending)
            return False
        if self.phase == "starting":
            if self.compares(now):
                return True
            self.start()
            return self.phase in ("starting", "capturing")
        if self.phase == "capturing":
            return self.boundary(now)
        return False

    def compares(self, now: Any) -> Any:
        """Whether another batch is looked at before the window; as in it, at one place."""
        costly = self.options["python"] or (self.options["operators"] and "torch" in sys.modules)
        if not self.options["compare"] or not costly:
            return False
        self.first = self.first or now
        used = self.before.setdefault(boundary_place(sys._getframe(1)), [])
        used.append(time.thread_time_ns())
        return len(used) <= self.options["compare"] and now - self.first < BEFORE_NS

    def boundary(self, now: Any) -> Any:
        """Count per place that boundaries come from: some batches have several."""
        place = boundary_place(sys._getframe(1))
        count = self.seen[place] = self.seen.get(place, 0) + 1
        if count > self.agent.q[BATCHES]:
            self.agent.q[BATCHES] = count
            if self.operators is not None:
                self.operators.end_batch()
            if self.calls is not None:
                self.calls.end_batch()
        if count < self.options["batches"] and now - self.begin < self.options["max_ns"]:
            return True
        if self.operators is not None and self.operators.capturing_graph():
            return True
        self.stop()
        return False

    def close_window(self) -> Any:
        """The window's time is over and no batch comes to end it: from a pending call on the main thread,
        which may have interrupted anything."""
        if self.phase != "capturing" or self.ending is not None or get_ident() != self.thread:
            return
        if time.monotonic_ns() - self.begin < self.options["max_ns"]:
            return
        frame: Any = sys._getframe(1)
        while frame is not None:  # in a batch, or in the probe itself
            code = frame.f_code
            if code.co_filename == OURS and (
                code.co_name == "_pt_w" or frame.f_globals.get("__name__") in OWN
            ):
                return
            frame = frame.f_back
        if self.operators is None or not self.operators.capturing_graph():
            self.stop()

    def start(self) -> Any:
        t0 = time.monotonic_ns()
        if self.options["operators"] and self.operators is None:
            self.operators = Operators(self.options, self.agent.config["nonce"])
            if not self.operators.off and not self.room():
                self.operators.off = "the temporary folder has less than %d MB left" % (FREE_BYTES >> 20)
        if self.operators is not None and not self.operators.off:
            if self.operators.capturing_graph():
                return
            self.inside = True
            try:
                self.operators.start()
            except Exception as error:
                self.shut()
                self.operators.drop()
                self.fail("operators", error)
                self.failed["gpu"] = self.operators.gpu_off or self.failed["operators"]
        self.inside = True
        if self.options["python"]:
            self.calls = Calls(self.options["max_events"])
            if self.operators is not None and self.operators.with_stacks():
                self.calls.refused = "the profiler's own stacks take its place"
        self.pauses.start()
        before = max(self.before.values(), key=len) if self.before else []
        if before and self.operators is not None and not self.operators.off:
            self.operators.share = Share(before, self.options["budget"])
            self.operators.share.begin()
        elif before and self.calls is not None:
            self.calls.share = Share(before, 0)
            self.calls.share.begin()
        self.begin = time.monotonic_ns()
        self.start_stall = self.begin - t0
        self.tell("capturing")
        if self.calls is not None and not self.calls.refused:
            self.calls.start()

    def fail(self, layer: Any, error: Any) -> Any:
        self.failed[layer] = "%s: %s" % (type(error).__name__, str(error)[:160])

    def stop(self) -> Any:
        t0 = time.monotonic_ns()
        self.shut()
        self.inside = False
        self.finish = t0
        self.stop_stall = time.monotonic_ns() - t0
        self.tell("exporting")
        start_new_thread(self.export, ())

    def shut(self) -> Any:
        """Every layer off; what is off already stays so."""
        for name, layer in (("python", self.calls), ("operators", self.operators), ("gc", self.pauses)):
            try:
                if layer is not None:
                    layer.stop()
            except Exception as error:
                self.fail(name, error)

    def end(self, why: Any) -> Any:
        """Leave nothing; False when another thread has to be waited for, which then does it."""
        child = why == FORKED
        self.ending = why
        if self.inside and get_ident() != self.thread and not child:
            return False
        exporting = self.phase == "exporting" and not child
        self.phase = "cancelled"
        if child and self.operators is not None and get_ident() == self.thread:
            self.operators.stop_in_child()
        elif child and self.operators is not None:
            self.operators.running = False
        self.shut()
        self.inside = False
        self.close_files()
        if not exporting and self.operators is not None:
            self.operators.drop()
        if not child:
            self.tell("cancelled")
        return True

    # -- on the exporter's thread

    def export(self) -> Any:
        """Write the files. Rests between small pieces of work, so that the model thread gets the GIL."""
        try:
            if self.operators is not None and (self.operators.result or self.operators.high):
                self.keep("profile", self.save_profile())
            if self.ending is None:
                self.keep("events", self.save_events())
        except Exception as error:
            self.error = "%s: %s" % (type(error).__name__, error)
        self.forget()
        try:
            if self.ending is not None:
                self.close_files()
            else:
                self.tell("failed" if self.error else "ready")
        except Exception:  # the probe has left
            self.close_files()

    def forget(self) -> Any:
        if self.calls is not None:
            self.calls.times, self.calls.codes = [], []
        if self.operators is not None:
            self.operators.drop()

    def keep(self, name: Any, fd: Any) -> Any:
        self.files.append(fd)
        self.sizes[name] = fd, os.fstat(fd).st_size

    def close_files(self) -> Any:
        while self.files:
            os.close(self.files.pop())
        self.sizes = {}

    def room(self) -> Any:
        free = os.statvfs(temporary())
        return free.f_bavail * free.f_frsize >= FREE_BYTES

    def save_profile(self) -> Any:
        """Kineto writes beside the path that it is given, and renames: hence a folder only we can enter."""
        folder = os.path.join(temporary(), FOLDER + os.urandom(8).hex())
        os.mkdir(folder, 0o700)
        path = os.path.join(folder, PROFILE)
        self.folder = folder
        try:
            self.tell()
            self.operators.save(path)
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.fchmod(fd, 0o600)
            return fd
        finally:
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
            self.folder = ""

    def save_events(self) -> Any:
        """A header, a Python literal on the first line; then times, and numbers of code objects, 64-bit."""
        fd = self.nameless()
        try:
            calls = self.calls
            count = calls.count if calls is not None else 0
            times = array("q")
            numbers = array("q")
            codes: dict[int, Any] = {}
            for at in range(0, count, CHUNK):
                if self.ending is not None:
                    break
                chunk = calls.codes[at : min(at + CHUNK, count)]
                times.extend(calls.times[at : at + len(chunk)])
                ids = list(map(id, chunk))
                numbers.extend(ids)
                codes.update(zip(ids, chunk))
                time.sleep(REST_S)
            names = {}
            for n, (number, code) in enumerate(list(codes.items())):
                name = getattr(code, "co_qualname", code.co_name)
                names[number] = (name[:200], code.co_filename[-300:], code.co_firstlineno)
                if not n % 256:
                    time.sleep(REST_S)
            head = {
                "thread": self.native,
                "window": (self.begin, self.finish),
                "ours": OURS,
                "gaps": self.operators.gaps if self.operators is not None else [],
                "pauses": self.pauses.rows,
                "count": len(times),
                "full": calls is not None and bool(calls.full),
                "names": names,
            }
            for data in (repr(head).encode() + b"\n", times.tobytes(), numbers.tobytes()):
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view[: 1 << 20]) :]
        except BaseException:
            os.close(fd)
            raise
        return fd

    def nameless(self) -> Any:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(temporary(), os.O_TMPFILE | flags, 0o600)
        except OSError:
            path = os.path.join(temporary(), FOLDER + os.urandom(8).hex())
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | flags, 0o600)
            os.unlink(path)
            return fd


def boundary_place(frame: Any) -> Any:
    """Which of a batch's boundaries this is: the line of the engine that called a wrapped function, or the
    function itself where `sys.monitoring` watches it."""
    wrapped = False
    while frame.f_code.co_filename == OURS and frame.f_back is not None:
        wrapped = wrapped or frame.f_code.co_name == "_pt_w"
        frame = frame.f_back
    return id(frame.f_code), frame.f_lineno if wrapped else 0


def temporary() -> Any:
    """The folder that `tempfile` would choose, without importing it."""
    for folder in (
        os.environ.get("TMPDIR"),
        os.environ.get("TEMP"),
        os.environ.get("TMP"),
        "/tmp",
        "/var/tmp",
    ):
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return os.path.abspath(folder)
    raise OSError("no temporary folder can be written to")
