"""A deep capture: what runs in the engine for one bounded window, as the guest of the probe (`agent.py`).

Standard library only, Python 3.9 syntax, no import of prismtop, one file: it travels as one text. The probe
executes it at a batch boundary and gives it the boundaries of the thread that runs the model until the window
is over. It loads no module that the process has not loaded, except of the standard library.

Layers: PyTorch's own profiler (operators, and kernels through CUPTI), calls of Python functions, and pauses
of the garbage collector. What is collected goes, on a thread that lives for it only, into files of the
temporary folder which have lost their names before anybody hears of them: they are read through /proc/PID/fd,
and the kernel frees them when this process ends or the guest closes them.

`torch.profiler` itself is not used where it can be helped: its start imports the compiler of PyTorch
(a second), its `stop` of older releases turns every event into a Python object.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from _thread import get_ident, get_native_id, start_new_thread
from array import array

MYPY = False
if MYPY:  # typing is not imported in the target
    from typing import Any

MARKERS = 3
MAX_PAUSES = 4096
CHUNK = 1024  # events that the exporter prepares between two rests: 0.1 ms, in which it holds the GIL
REST_S = 0.0005
FREE_BYTES = 256 << 20  # what the temporary folder must have left
FORKED = 4  # agent.FORKED
BATCHES = 22  # agent.W_GUEST_COUNT
FOLDER, PROFILE = "prismtop-deep-", "profile.json"
OURS = "<prismtop>"  # file name of the probe's own code


class Pauses:
    """Garbage collections of all threads, while they run: (start, ns, generation, collected, native id)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, int]] = []
        self.began = self.lost = 0

    def __call__(self, phase: Any, info: Any) -> Any:
        now = time.monotonic_ns()
        if phase == "start":
            self.began = now
        elif self.began:
            if len(self.rows) < MAX_PAUSES:
                row = (self.began, now - self.began, info["generation"], info["collected"], get_native_id())
                self.rows.append(row)
            else:
                self.lost += 1
            self.began = 0

    def start(self) -> Any:
        gc.callbacks.append(self)

    def stop(self) -> Any:
        if self in gc.callbacks:
            gc.callbacks.remove(self)

    def layer(self) -> Any:
        if self.lost:
            return "gc", "partial", "the first %d of %d collections" % (MAX_PAUSES, MAX_PAUSES + self.lost)
        return "gc", "on", "gc.callbacks; CPython keeps no record of waits for the GIL"


class Calls:
    """Calls of Python functions on one thread, into lists that are made before: no object that the garbage
    collector would count is created while it records. Times are negative for an exit."""

    def __init__(self, limit: Any) -> None:
        self.size = max(2, limit)
        self.times = [0] * self.size
        self.codes: list[Any] = [None] * self.size
        self.tool = -1
        self.profile: Any = None
        self.end: Any = None
        self.events: Any = ()
        self.how = self.refused = ""
        self.count = self.full = 0

    def start(self) -> Any:
        mon: Any = getattr(sys, "monitoring", None)
        for tool in (3, 4, 1) if mon is not None else ():
            if mon.get_tool(tool) is None:
                mon.use_tool_id(tool, "prismtop deep capture")
                self.tool = tool
                self.watch(mon, get_ident())
                self.how = "sys.monitoring"
                return
        if sys.getprofile() is not None:
            self.refused = "another profiler is set on the model thread"
        elif sys.gettrace() is not None:
            self.refused = "a debugger or a coverage tool traces the model thread"
        else:
            self.how = "sys.setprofile"
            self.by_profile()

    def by_profile(self) -> Any:
        times, codes, clock, last = self.times, self.codes, time.monotonic_ns, self.size - 1
        n = 0

        def profile(frame: Any, event: Any, arg: Any) -> Any:
            nonlocal n
            if event == "call":
                times[n] = clock()
            elif event == "return":
                times[n] = -clock()
            else:
                return
            codes[n] = frame.f_code
            if n >= last:
                sys.setprofile(None)
            n += 1

        self.profile, self.end = profile, lambda: n
        sys.setprofile(profile)

    def watch(self, mon: Any, thread: Any) -> Any:
        times, codes, clock, last, tool = self.times, self.codes, time.monotonic_ns, self.size - 1, self.tool
        n = 0

        def enter(code: Any, _offset: Any, _value: Any = None) -> Any:
            nonlocal n
            if get_ident() == thread and n <= last:
                times[n] = clock()
                codes[n] = code
                n += 1
                if n > last:
                    mon.set_events(tool, 0)

        def leave(code: Any, _offset: Any, _value: Any = None) -> Any:
            nonlocal n
            if get_ident() == thread and n <= last:
                times[n] = -clock()
                codes[n] = code
                n += 1
                if n > last:
                    mon.set_events(tool, 0)

        ev = mon.events
        self.end = lambda: n
        self.events = (
            (ev.PY_START, enter), (ev.PY_RESUME, enter), (ev.PY_THROW, enter),
            (ev.PY_RETURN, leave), (ev.PY_YIELD, leave), (ev.PY_UNWIND, leave),
        )  # fmt: skip
        mask = 0
        for event, callback in self.events:
            mon.register_callback(tool, event, callback)
            mask |= event
        mon.set_events(tool, mask)

    def stop(self) -> Any:
        if self.tool >= 0:
            mon: Any = getattr(sys, "monitoring")
            mon.set_events(self.tool, 0)
            for event, _ in self.events:
                mon.register_callback(self.tool, event, None)
            mon.free_tool_id(self.tool)
            self.tool, self.events = -1, ()
        elif self.profile is not None:
            if sys.getprofile() is self.profile:
                sys.setprofile(None)
            elif self.end() < self.size:
                self.refused = "another profiler took its place in the window"
            self.profile = None
        if self.end is not None:
            self.count, self.end = self.end(), None
            self.full = self.count >= self.size

    def layer(self) -> Any:
        if self.refused:
            return "python", "partial" if self.count else "off", self.refused
        if self.full:
            return "python", "partial", "%s, up to its bound of %d events" % (self.how, self.size)
        return "python", "on", self.how + " on the model thread"


class Operators:
    """PyTorch's profiler, started and stopped on one thread."""

    def __init__(self, options: Any, nonce: Any) -> None:
        self.gpu, self.stacks, self.nonce = options["gpu"], options["stacks"], nonce
        self.teardown = options["teardown"]
        self.torch: Any = sys.modules.get("torch")
        self.low: Any = None
        self.high: Any = None
        self.result: Any = None
        self.running = False
        self.held = 0
        self.kept: Any = None
        self.gpu_off = "" if self.gpu else "not asked for"
        self.stacks_off = ""
        self.off = self.refuse()

    def refuse(self) -> Any:
        """Why it will not be started, or ''."""
        profiler: Any = sys.modules.get("torch.autograd.profiler")
        if self.torch is None or profiler is None:
            return "PyTorch is not loaded in this process"
        low = getattr(getattr(self.torch, "_C", None), "_autograd", None)
        if low is None or not hasattr(low, "_profiler_enabled") or not profiler.kineto_available():
            return "this PyTorch has no Kineto"
        if getattr(profiler, "_is_profiler_enabled", False) or low._profiler_enabled():
            return "another PyTorch profiler is running in this process"
        self.low, self.profiler = low, profiler
        if self.gpu:
            cuda = self.torch.cuda
            kinds = self.torch._C._profiler.ProfilerActivity
            if not cuda.is_initialized():  # nothing else may be asked of it: that could initialize it
                self.gpu_off = "this process uses no CUDA device"
            elif kinds.CUDA not in low._supported_activities():
                self.gpu_off = "this PyTorch was built without CUPTI"
        if self.stacks and (sys.getprofile() is not None or sys.gettrace() is not None):
            self.stacks_off = "another profiler or tracer is set on the model thread"
        return ""

    def with_stacks(self) -> Any:
        return self.running and self.stacks and not self.stacks_off

    def capturing_graph(self) -> Any:
        """A CUDA graph is being captured on this thread: nothing may be started or waited for now."""
        if self.low is None or self.gpu_off:
            return False
        return bool(self.torch.cuda.is_current_stream_capturing())

    def start(self) -> Any:
        kinds = self.torch._C._profiler
        wanted = {kinds.ProfilerActivity.CPU}
        if not self.gpu_off:
            wanted.add(kinds.ProfilerActivity.CUDA)
            self.ask_teardown()
        stacks = self.stacks and not self.stacks_off
        self.running = True  # from here on `stop` has something to undo, whatever is raised
        try:
            made: Any = [kinds.ProfilerState.KINETO, False, False, stacks, False, False]
            made.append(self.sparing(kinds, stacks))
            try:
                config = kinds.ProfilerConfig(*made, self.nonce)
            except TypeError:  # before 2.6 a trace has no name
                config = kinds.ProfilerConfig(*made)
            self.low._prepare_profiler(config, wanted)
            self.low._enable_profiler(config, wanted)
            self.mark_enabled("start")
        except (AttributeError, TypeError):
            public: Any = sys.modules["torch.profiler"]
            self.high = public.profile(activities=list(wanted), with_stack=stacks)
            self.high.start()
        self.markers()

    def sparing(self, kinds: Any, stacks: Any) -> Any:
        """Without events as Python objects, which nobody will look at, and without the numbers that tie
        kernels to operators, where there are no kernels."""
        wanted = {"trace_only": not stacks, "disable_external_correlation": bool(self.gpu_off)}
        while True:
            try:
                return kinds._ExperimentalConfig(**wanted)
            except TypeError:  # older releases know one of them, or none
                if not wanted:
                    raise
                wanted.pop(next(iter(wanted)))

    def mark_enabled(self, when: Any) -> Any:
        """The flag that compiled code looks at before it names its kernels."""
        function = getattr(self.profiler, "_run_on_profiler_" + when, None)
        if function is not None:
            function()

    def ask_teardown(self) -> Any:
        """CUPTI that stays attached slows every later launch (pytorch#144455); Kineto lets go of it when this
        is set, and by itself since kineto#1264."""
        if self.teardown and "TEARDOWN_CUPTI" not in os.environ:
            self.kept = os.environ["TEARDOWN_CUPTI"] = "1"

    def markers(self) -> Any:
        for _ in range(MARKERS):
            name = "prismtop_sync_%d_%d" % (time.monotonic_ns(), time.time_ns())
            with self.profiler.record_function(name):
                pass

    def stop_in_child(self) -> Any:
        """After a fork of the thread that is profiled: there is no device any more to wait for."""
        if self.running and self.gpu_off:
            self.stop()
        elif self.running:
            self.running = False
            self.low._enable_record_function(False)

    def stop(self) -> Any:
        if not self.running:
            return
        self.running = False
        try:
            self.markers()
            if not self.gpu_off:
                self.torch.cuda.synchronize()
        finally:
            if self.high is not None:
                self.high.stop()
            else:
                self.mark_enabled("stop")
                self.result = self.low._disable_profiler()

    def drop(self) -> Any:
        t0 = time.thread_time_ns()
        self.result = self.high = None
        self.held += time.thread_time_ns() - t0
        if self.kept is not None:
            if os.environ.get("TEARDOWN_CUPTI") == self.kept:
                del os.environ["TEARDOWN_CUPTI"]
            self.kept = None

    def save(self, path: Any) -> Any:
        """Kineto writes in one go, without giving the GIL back: about 1 us for each event."""
        t0 = time.thread_time_ns()
        if self.high is not None:
            self.high.export_chrome_trace(path)
        elif self.result is not None:
            self.result.save(path)
        self.held += time.thread_time_ns() - t0

    def layers(self) -> Any:
        how = "torch.profiler of PyTorch %s" % getattr(self.torch, "__version__", "?")
        if self.held:
            how += "; writing it held the GIL for %.0f ms" % (self.held / 1e6)
        made = [("operators", "off" if self.off else "on", self.off or how)]
        off = self.off or self.gpu_off
        made.append(("gpu", "off" if off else "on", off or "CUPTI through Kineto"))
        if self.stacks:
            off = self.off or self.stacks_off
            made.append(("stacks", "off" if off else "on", off or "with each operator, by torch.profiler"))
        return made


class Guest:
    """One capture, from its arrival to the last file."""

    def __init__(self, agent: Any, options: Any) -> None:
        self.agent, self.options = agent, options
        self.phase = "waiting"
        self.thread = self.native = self.begin = self.finish = 0
        self.start_stall = self.stop_stall = 0
        self.seen: dict[Any, int] = {}
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
            self.start()
            return self.phase in ("starting", "capturing")
        if self.phase == "capturing":
            return self.boundary(now)
        return False

    def boundary(self, now: Any) -> Any:
        """Count per place that boundaries come from: some batches have several."""
        place = boundary_place(sys._getframe(1))
        count = self.seen[place] = self.seen.get(place, 0) + 1
        if count > self.agent.q[BATCHES]:
            self.agent.q[BATCHES] = count
        if count < self.options["batches"] and now - self.begin < self.options["max_ns"]:
            return True
        if self.operators is not None and self.operators.capturing_graph():
            return True
        self.stop()
        return False

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
                "pauses": self.pauses.rows,
                "count": len(times),
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
