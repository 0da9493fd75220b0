"""The layer of a deep capture that PyTorch's own profiler gives: operators, and kernels through CUPTI.

`torch.profiler` itself is not used where it can be helped: its start imports the compiler of PyTorch
(a second), its `stop` of older releases turns every event into a Python object.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

MARKERS = 3
MAX_GAPS = 4096


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
        self.share: Any = None
        self.gaps: list[tuple[int, int]] = []
        self.silent = self.held = 0
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

    def end_batch(self) -> Any:
        if self.share is None or not self.running:
            return
        wanted = self.share.batch(not self.silent) and len(self.gaps) < MAX_GAPS
        if wanted == bool(self.silent):
            self.record(wanted)

    def record(self, on: Any) -> Any:
        """PyTorch's own switch (`at::enableRecordFunction`), of this thread only: neither the profiler nor
        what CUPTI collects is stopped by it."""
        self.low._enable_record_function(on)
        now = time.monotonic_ns()
        if on:
            self.gaps.append((self.silent, now))
        self.silent = 0 if on else now

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
            if self.silent:
                self.record(True)
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
        state = "on"
        if self.gaps or self.silent:
            share = self.share
            state = "partial"
            cost = 100 * share.cost()
            told = "one takes %.0f %% longer with them" % cost if cost > 0 else "their cost is not measurable"
            how = "in %d of %d batches: %s; %s" % (share.recorded, share.seen, told, how)
        made = [("operators", "off" if self.off else state, self.off or how)]
        off = self.off or self.gpu_off
        made.append(("gpu", "off" if off else "on", off or "CUPTI through Kineto"))
        if self.stacks:
            off = self.off or self.stacks_off
            made.append(("stacks", "off" if off else "on", off or "with each operator, by torch.profiler"))
        return made
