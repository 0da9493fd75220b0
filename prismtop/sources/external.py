"""Watches an engine from outside only: sampled stacks, /metrics, /proc. Nothing is put into any process.

Sampling cannot count iterations. Batches are made only where the engine itself counts them in its /metrics:
one a second at most, the mean of the iterations of that time, marked as such.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prismtop.model import (
    STAGES,
    AttachState,
    Batch,
    Clock,
    EngineMetrics,
    Group,
    HookStatus,
    Origin,
    Stage,
    Target,
)
from prismtop.safe_text import safe_text
from prismtop.sources.loop_finder import waits
from prismtop.sources.metrics import reader_for
from prismtop.sources.stacks import RATE_HZ, Stack, StackFrame, StackSampler, cpu_ticks, samplings
from prismtop.sources.tick import Source, SourceTick
from prismtop.targets.discovery import still_alive
from prismtop.targets.profile import Hook, Profile
from prismtop.targets.profiles import hooks_for

if TYPE_CHECKING:
    from prismtop.sources.live import AttachOptions

MAX_SAMPLED = 4
"""Processes sampled side by side: each costs a py-spy."""
BATCH_EVERY_NS = 950_000_000
NOTE_EVERY_NS = 5_000_000_000
REASON = "external only"


@dataclass(frozen=True)
class Share:
    """Fraction of the samplings in which the innermost hooked function was this one."""

    stage: str
    hook: str
    pid: int
    fraction: float


def external_source(
    group: Group, profile: Profile | None, options: AttachOptions, reason: str = ""
) -> Source:
    """Watch `group` from outside.

    Args:
        reason: why nothing better was possible, shown in the note; empty when it was asked for.
    """
    return ExternalSource(group, profile, options, reason)


class ExternalSource:
    """See `external_source`. `poll` never waits: sampling and /metrics have threads of their own."""

    def __init__(
        self,
        group: Group,
        profile: Profile | None,
        options: AttachOptions,
        reason: str = "",
        *,
        py_spy: str | None = None,
    ) -> None:
        self.group = group
        self.clock = Clock(time.time_ns() - time.monotonic_ns())
        self._reason = reason
        self._targets = sorted(group.probed or group.members, key=lambda t: (t.rank or 0, t.id.pid))
        self._hooks = {t.id.pid: _Hooks.of(t, profile) for t in self._targets}
        self._anchor = _anchor(self._targets, profile)
        self._samplers = [StackSampler(t.id.pid, py_spy=py_spy) for t in self._targets[:MAX_SAMPLED]]
        self._metrics = reader_for(group, profile, interval_s=options.metrics_interval_s)
        self._means = MeanBatches(self._anchor, group.engine)
        self._cpu = _Cpu(self._anchor)
        self._note = ""
        self._shares: tuple[Share, ...] = ()
        self._idle = 0.0
        self._warnings = [f"attached from outside only: {reason}"] if reason else []
        self._looked_ns = self._noted_ns = 0
        self._reasons: tuple[str, ...] | None = None
        self._alive: dict[int, bool] = {}
        self._closed = False
        for sampler in self._samplers:
            sampler.start()
        if options.metrics:
            self._metrics.start()
        self._with_metrics = options.metrics

    def poll(self) -> SourceTick:
        """What is new; procfs is looked at twice a second."""
        now = time.monotonic_ns()
        if now - self._looked_ns > 500_000_000:
            self._looked_ns = now
            self._alive = {t.id.pid: still_alive(t.id) for t in self._targets}
            reasons = tuple(sampler.reason for sampler in self._samplers)
            if reasons != self._reasons or now - self._noted_ns > NOTE_EVERY_NS:
                self._reasons, self._noted_ns = reasons, now
                self._look()
        metrics = self._metrics.latest(0) if self._with_metrics else EngineMetrics(reason="switched off")
        batch = self._means.add(metrics, now, self._shares, self._idle)
        state, note = AttachState.EXTERNAL, self._note
        gone = [t for t in self._targets if not self._alive[t.id.pid]]
        if self._closed:
            state, note = AttachState.DETACHED, "no longer watched"
        elif gone:
            state, note = AttachState.GONE, ", ".join(f"{t.role} {t.id.pid}" for t in gone) + " ended"
        warnings, self._warnings = tuple(self._warnings), []
        return SourceTick(
            time_ns=now,
            state=state,
            note=note,
            batches=(batch,) if batch is not None else (),
            hooks=tuple(hook for t in self._targets for hook in self._hooks[t.id.pid].status),
            metrics=metrics,
            warnings=warnings,
            target_states={t.id: "running" if self._alive[t.id.pid] else "exited" for t in self._targets},
        )

    def _look(self) -> None:
        """Make the shares and the note anew."""
        head = "external only" + (f" ({self._reason})" if self._reason else "")
        shares: list[Share] = []
        idle, hottest = 0.0, ""
        for sampler in self._samplers:
            stacks = sampler.window()
            times = samplings(stacks)
            if not times:
                continue
            found, away = shares_of(stacks, self._hooks[sampler.pid].find, sampler.pid, times)
            shares += found
            if sampler.pid == self._anchor:
                idle = away
                hottest = "" if found else busiest(stacks)
        if shares:
            text = f"{head}: sampled at {RATE_HZ} Hz; {_by_stage(shares, self._anchor)} of samples"
        elif hottest:
            text = f"{head}: sampled at {RATE_HZ} Hz; {hottest} of samples"
        elif any(not sampler.reason for sampler in self._samplers):
            text = f"{head}: sampled at {RATE_HZ} Hz; idle"
        else:
            reason = next((s.reason for s in self._samplers), "there is no process to sample")
            text = f"{head}: {reason}{self._cpu.text()}"
        self._note, self._shares, self._idle = text, tuple(shares), idle

    def close(self) -> tuple[str, ...]:
        """Stop looking. Nothing was left in the target, so there is nothing to say."""
        if not self._closed:
            self._closed = True
            for sampler in self._samplers:
                sampler.close()
            self._metrics.close()
        return ()


@dataclass(frozen=True)
class _Hooks:
    """A profile's hooks in one process, found by stack frame instead of being installed."""

    hooks: tuple[Hook, ...]
    status: tuple[HookStatus, ...]

    @classmethod
    def of(cls, target: Target, profile: Profile | None) -> _Hooks:
        hooks = hooks_for(profile, target.role, target.version) if profile else ()
        made = tuple(HookStatus(h.name, h.stage, target.id.pid, "", REASON) for h in hooks)
        return cls(tuple(hooks), made)

    def find(self, frame: StackFrame) -> Hook | None:
        """The hook whose function this frame runs. Stacks of CPython before 3.11 have no qualified names."""
        short = frame.name.rpartition(".")[2]
        staged = (h for h in self.hooks if h.stage and h.qualname.rpartition(".")[2] == short)
        fits = [h for h in staged if _of_module(frame, h)]
        return next((h for h in fits if h.qualname == frame.name), fits[0] if fits else None)


def _of_module(frame: StackFrame, hook: Hook) -> bool:
    path = "/" + hook.module.replace(".", "/")
    return frame.file.endswith((f"{path}.py", f"{path}/__init__.py")) or (
        hook.module == "__main__" and frame.file.endswith(".py")
    )


def shares_of(
    stacks: Iterable[Stack], find: Callable[[StackFrame], Hook | None], pid: int, times: int
) -> tuple[list[Share], float]:
    """Share of the samplings per hook, largest first, and that of the hooks of stage `idle`.

    Args:
        find: frame -> hook or None. Of several hooked functions in a stack the innermost counts.
        times: how often the process was sampled.
    """
    counts: dict[tuple[str, str], int] = {}
    for stack in stacks:
        hook = next((h for h in map(find, reversed(stack.frames)) if h is not None), None)
        if hook is not None:
            key = (hook.stage, hook.name)
            counts[key] = counts.get(key, 0) + stack.count
    made = [Share(stage, name, pid, count / times) for (stage, name), count in counts.items()]
    made.sort(key=lambda share: -share.fraction)
    idle = sum(share.fraction for share in made if share.stage == "idle")
    return [share for share in made if share.stage != "idle"], min(1.0, idle)


def busiest(stacks: Sequence[Stack], top: int = 2) -> str:
    """The functions that were innermost most often, for an engine without a profile. Waits are left out, and
    so are threads that stood still beside one that did not."""
    times = samplings(stacks)
    seen: dict[str, set[tuple[StackFrame, ...]]] = {}
    for stack in stacks:
        seen.setdefault(stack.thread, set()).add(stack.frames)
    moving = {thread for thread, frames in seen.items() if len(frames) > 1} or set(seen)
    counts: dict[StackFrame, int] = {}
    for stack in stacks:
        if stack.thread in moving and not waits(stack):
            leaf = stack.frames[-1]
            key = StackFrame(leaf.name, leaf.file, 0)
            counts[key] = counts.get(key, 0) + stack.count
    ordered = sorted(counts.items(), key=lambda item: -item[1])[:top]
    return ", ".join(
        f"{safe_text(f.name, 40)} ({safe_text(os.path.basename(f.file), 40)}) {count / times * 100:.0f} %"
        for f, count in ordered
    )


class MeanBatches:
    """From the engine's own count of iterations to at most one batch a second."""

    def __init__(self, pid: int, engine: str) -> None:
        self._pid, self._engine = pid, engine
        self._number = itertools.count().__next__
        self._last: tuple[int, int] | None = None

    def add(self, metrics: EngineMetrics, now_ns: int, shares: Sequence[Share], idle: float) -> Batch | None:
        """The mean of the iterations since the previous batch, when enough time has passed.

        Args:
            shares, idle: see `shares_of`; samples in an idle hook are no part of an iteration.
        """
        if metrics.batch_count is None or metrics.age_s is None:
            return None
        read_ns, count = now_ns - int(metrics.age_s * 1e9), metrics.batch_count
        if self._last is None or count < self._last[1]:
            self._last = (read_ns, count)
            return None
        elapsed, iterations = read_ns - self._last[0], count - self._last[1]
        if elapsed < BATCH_EVERY_NS:
            return None
        self._last = (read_ns, count)
        if not iterations:
            return None
        away = int(elapsed * idle / iterations)
        mean = elapsed // iterations - away
        return Batch(
            pid=self._pid,
            engine=self._engine,
            seq=self._number(),
            start_ns=read_ns - mean,
            duration_ns=mean,
            period_ns=mean,
            stages=_stages(shares, elapsed / iterations, read_ns - mean),
            origin=Origin.SAMPLED,
            idle_ns=away,
            suspect=f"mean of {iterations} iterations",
        )


def _stages(shares: Sequence[Share], mean_ns: float, start_ns: int) -> tuple[Stage, ...]:
    """Stages of the mean iteration, one after another in the order of `STAGES`: the true one was not seen."""
    made = []
    for share in sorted(shares, key=lambda s: (STAGES.index(s.stage), -s.fraction)):
        length = int(share.fraction * mean_ns)
        made.append(Stage(share.stage, share.hook, start_ns, length, share.pid, span_ns=length))
        start_ns += length
    return tuple(made)


def _by_stage(shares: Iterable[Share], pid: int) -> str:
    """`launch 71 %, schedule 4 %`: of the anchor process, or of all where it shows none."""
    shares = list(shares)
    totals: dict[str, float] = {}
    for share in [s for s in shares if s.pid == pid] or shares:
        totals[share.stage] = totals.get(share.stage, 0.0) + share.fraction
    ordered = sorted(totals.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{stage} {fraction * 100:.0f} %" for stage, fraction in ordered)


def _anchor(targets: Sequence[Target], profile: Profile | None) -> int:
    role = profile.batch.role if profile and profile.batch else ""
    return next((t.id.pid for t in targets if t.role == role), targets[0].id.pid if targets else 0)


class _Cpu:
    """CPU that a process used since the previous look, which anyone may read (proc(5))."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last: tuple[float, float] | None = None

    def text(self) -> str:
        """`; it uses 98 % of a core`, or nothing when that is not known yet."""
        ticks = cpu_ticks(f"/proc/{self._pid}/stat")
        now = time.monotonic()
        last, self._last = self._last, None if ticks is None else (now, ticks / os.sysconf("SC_CLK_TCK"))
        if last is None or self._last is None or now - last[0] < 0.2:
            return ""
        return f"; it uses {(self._last[1] - last[1]) / (now - last[0]) * 100:.0f} % of a core"
