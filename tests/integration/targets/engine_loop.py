"""A small inference engine that was not prepared for anything: standard library only, Python 3.9 syntax.

usage: engine_loop.py MODE [STEP_US] [WORK_FD]

    busy   steps without a pause between them; two more threads sleep, as those of torch do
    alone  busy, without those
    spin   the same, but a step computes instead of sleeping, and the largest gap that this thread's own clock sees
           between two looks at it is kept
    alloc  busy, while four threads allocate and free
    idle   steps only after a "work N" on stdin; until then the main thread sleeps in queue.get()
    read   steps only after bytes on WORK_FD; until then the main thread sleeps in os.read()
    worker busy, on a thread of its own; the main thread sleeps in os.read() of WORK_FD
    calls  busy, but a step calls a Python function STEP_US times instead of sleeping
    torch  busy, but a step is also a forward pass of PyTorch; `torch-read` waits for bytes as `read` does

Commands are lines on stdin, answers are one JSON line each on stdout. A thread of its own answers `state`, `memory`
and `gap` (`gap anew`: and start anew in three steps, without the disturbance of the question); the main thread
carries out `work N`, `fork N`, `spawn`, `rewrap`, `reload` (`reload keep` leaves the objects as they are), `die`,
`ping`, `watched` (who profiles or traces it) and `profile python|torch|off` (it is profiled by someone else) between
two steps.
"""

import gc
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import engine_parts  # noqa: E402


class Engine:
    """The loop and everything that a test may ask of it."""

    def __init__(self, mode, step_us):
        self.mode = mode
        self.step_s = step_us / 1e6
        self.inbox = queue.Queue()
        self.gap_ns = self.steps = self.children = 0
        self.longest_ns = self.fresh = 0
        self.originals = list(engine_parts.HOOKED)
        self.foreign = None
        if mode.startswith("torch"):
            import torch

            torch.set_num_threads(1)
            self.torch = torch
            layers = [torch.nn.Linear(32, 32) for _ in range(20)]
            self.model, self.inputs = torch.nn.Sequential(*layers), torch.zeros(2, 32)
        self.build()

    def build(self):
        self.scheduler = engine_parts.Scheduler()
        waits = {"spin": self.spin, "calls": self.call, "torch": self.forward, "torch-read": self.forward}
        self.runner = engine_parts.Runner(waits.get(self.mode, self.sleep))

    def sleep(self):
        time.sleep(self.step_s)

    def spin(self):
        clock = time.monotonic_ns
        before = clock()
        end = before + int(self.step_s * 1e9)
        longest = 0
        while before < end:
            now = clock()
            if now - before > longest:
                longest = now - before
            before = now
        if longest > self.gap_ns:
            self.gap_ns = longest

    def call(self):
        for _ in range(int(self.step_s * 1e6)):
            nothing()

    def forward(self):
        with self.torch.inference_mode():
            self.model(self.inputs)
        time.sleep(self.step_s)

    def step(self):
        start = time.monotonic_ns()
        plan = self.scheduler.schedule()
        self.scheduler.update(plan, self.runner.execute(plan))
        self.steps += 1
        took = time.monotonic_ns() - start
        if took > self.longest_ns:
            self.longest_ns = took
        if self.fresh:
            self.fresh -= 1
            if not self.fresh:
                self.gap_ns = self.longest_ns = 0

    # -- the main thread

    def run(self, work_fd):
        if self.mode == "worker":
            threading.Thread(target=self.work, daemon=True).start()
        while True:
            if self.mode == "worker":
                os.read(work_fd, 64)
                self.carry_out_waiting()
            elif self.mode == "idle":
                self.carry_out(self.inbox.get())
            elif self.mode in ("read", "torch-read"):
                for _ in os.read(work_fd, 64):
                    self.step()
                self.carry_out_waiting()
            else:
                self.step()
                self.carry_out_waiting()

    def work(self):
        while True:
            self.step()

    def carry_out_waiting(self):
        while not self.inbox.empty():
            self.carry_out(self.inbox.get())

    def carry_out(self, words):
        name, number = words[0], int(words[1]) if words[1:] and words[1].isdigit() else 1
        if name == "work":
            for _ in range(number):
                self.step()
            say({"steps": self.steps})
        elif name == "ping":
            say({"steps": self.steps})
        elif name == "fork":
            say([self.fork() for _ in range(number)])
        elif name == "spawn":
            done = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE)
            say(done.stdout.decode().splitlines())
        elif name == "rewrap":
            self.rewrap(words[1] if words[1:] else "schedule")
            say({})
        elif name == "reload":
            importlib.reload(engine_parts)
            if words[1:] != ["keep"]:
                self.build()
            say({})
        elif name == "watched":
            say(self.watched())
        elif name == "profile":
            self.profile(words[1])
            say({})
        elif name == "die":
            os._exit(number)

    def fork(self):
        """A child that takes 20 steps and says what it finds in itself."""
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(readable)
                before = self.steps
                for _ in range(20):
                    self.step()
                told = dict(self.state(), taken=self.steps - before, watched=self.watched())
                os.write(writable, json.dumps(told).encode())
            finally:
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        return json.loads(text)

    def rewrap(self, name):
        """What another tool does that patches engines."""
        owner = dict((n, o) for o, n in engine_parts.HOOKED)[name]
        inner = getattr(owner, name)

        def someone_elses(*args, **kwargs):
            return inner(*args, **kwargs)

        someone_elses.__wrapped__ = inner
        setattr(owner, name, someone_elses)

    def watched(self):
        """Who profiles or traces this thread; the command thread cannot see it."""
        found = {"python": repr(sys.getprofile()), "trace": repr(sys.gettrace()), "torch": False}
        if self.mode.startswith("torch"):
            profiler = self.torch.autograd
            found["torch"] = profiler._profiler_enabled() or profiler.profiler._is_profiler_enabled
        return found

    def profile(self, kind):
        if kind == "python":
            sys.setprofile(someone_elses_profiler)
        elif kind == "torch":
            self.foreign = self.torch.autograd.profiler.profile(use_kineto=True)
            self.foreign.__enter__()
        else:
            sys.setprofile(None)
            if self.foreign is not None:
                self.foreign.__exit__(None, None, None)
                self.foreign = None

    # -- the command thread

    def state(self):
        """Identities of all that a probe may touch, of the classes as they were at start."""
        ids = {}
        for owner, name in self.originals:
            raw = vars(owner)[name]
            function = getattr(raw, "__func__", raw)
            while hasattr(function, "__wrapped__"):
                function = function.__wrapped__
            ids[owner.__name__ + "." + name] = [id(raw), id(function), id(function.__code__)]
        return {
            "ids": ids,
            "fds": descriptors(),
            "threads": len(os.listdir("/proc/self/task")),
            "modules": sorted(n for n in sys.modules if "prismtop" in n),
            "main": sorted(n for n in vars(sys.modules["__main__"]) if "prismtop" in n or n.startswith("_pt")),
            "tools": [sys.monitoring.get_tool(n) for n in range(6)] if hasattr(sys, "monitoring") else [],
            "events": self.events(),
            "tracing": repr((sys.gettrace(), sys.getprofile())),
            "collecting": sorted(repr(type(c)) for c in gc.callbacks),
            "environment": dict(os.environ),
            "steps": self.steps,
        }

    def events(self):
        """Local events that are set for a tool id which nobody holds: there must be none."""
        if not hasattr(sys, "monitoring"):
            return 0
        found = 0
        for tool in range(6):
            if sys.monitoring.get_tool(tool) is None:
                sys.monitoring.use_tool_id(tool, "look")
                for owner, name in self.originals:
                    function = getattr(vars(owner)[name], "__func__", vars(owner)[name])
                    while hasattr(function, "__wrapped__"):
                        function = function.__wrapped__
                    found |= sys.monitoring.get_local_events(tool, function.__code__)
                sys.monitoring.free_tool_id(tool)
        return found

    def listen(self):
        """Answer what needs no main thread, hand on the rest; the process ends with its stdin."""
        for line in sys.stdin:
            words = line.split()
            if words[0] == "state":
                gc.collect()
                say(self.state())
            elif words[0] == "gap":
                say({"gap_ns": self.gap_ns, "longest_ns": self.longest_ns, "steps": self.steps})
                self.fresh = 3 if words[1:] == ["anew"] else 0
            elif words[0] == "memory":
                gc.collect()
                say({"objects": len(gc.get_objects()), "blocks": sys.getallocatedblocks()})
            else:
                self.inbox.put(words)
        os._exit(0)


def descriptors():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass
    return sorted(f for f in found if not f.startswith("/proc/"))


def nothing():
    pass


def someone_elses_profiler(frame, event, arg):
    pass


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def allocate():
    """What a tokenizer or a detokenizer thread does to malloc."""
    kept = []
    while True:
        kept.append(bytearray(1000 + len(kept) * 997 % 200000))
        if len(kept) > 50:
            kept.clear()
            time.sleep(0.001)


def main():
    mode = sys.argv[1]
    engine = Engine(mode, float(sys.argv[2]) if sys.argv[2:] else 2000.0)
    work_fd = int(sys.argv[3]) if sys.argv[3:] else -1
    threading.Thread(target=engine.listen, daemon=True).start()
    for _ in range(0 if mode == "alone" else 2):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    for _ in range(4 if mode == "alloc" else 0):
        threading.Thread(target=allocate, daemon=True).start()
    say({"pid": os.getpid()})
    engine.run(work_fd)


if __name__ == "__main__":
    main()
