"""Watches a Python process whose engine no profile describes: finds its loop by itself and shows the turns.

On CPython 3.12 and newer the running loop ticks (`agent.Loop`); before, the function that it calls once a
turn is hooked. Which one that is shows only while the engine works: a probe with several candidates goes in.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prismtop.attach.errors import AttachError, AttachPermissionError, RemoteDebuggingDisabledError
from prismtop.attach.preflight import preflight
from prismtop.errors import UnavailableError
from prismtop.model import AttachState, Batch, Clock, EngineMetrics, Group, Lost, Target
from prismtop.probe import agent
from prismtop.safe_text import safe_text
from prismtop.sources.entering import attach_all
from prismtop.sources.external import external_source
from prismtop.sources.hook_code import HookPlan
from prismtop.sources.loop_finder import Candidate, Found, find
from prismtop.sources.metrics import MetricsReader, reader_for
from prismtop.sources.probe_link import LinkOptions, ProbeLink
from prismtop.sources.ring import Record
from prismtop.sources.stacks import RUN_S, NoSamples, Stack, cpu_ticks, record, thread_cpu
from prismtop.sources.tick import Source, SourceTick
from prismtop.sources.ticks import Choice, LoopChooser, TickAssembler
from prismtop.targets.discovery import still_alive
from prismtop.targets.profile import Hook, Profile

if TYPE_CHECKING:
    from prismtop.sources.live import AttachOptions

LOOPS_SINCE = (3, 12)
WATCH_S = 1.0
"""How long candidates are watched at least: one that is called has to show that it is."""
DECIDE_S = 5.0
"""How long a busy process has to show a loop, before it is watched from outside instead."""
MIN_ACTIVE = 3
MAX_RUNS = 4
MAX_CANDIDATES = 30
MAX_RATE = 4_000
"""Calls a second of a hooked function: more would cost the target too much, and is no iteration."""
LABEL = "unknown engine"


def attach_unknown(
    group: Group, profile: Profile | None, options: AttachOptions, progress: Callable[[str], None]
) -> Source:
    """Find the loop of the group's busiest process and attach to it. Takes 3 s and more.

    Returns the source of `prismtop.sources.external` where it cannot be entered, or no loop is found.

    Raises:
        PrismtopError: the process is gone, it runs no Python, or this user may not look into it.
    """
    target = _busiest(group)
    checked = preflight(target.id.pid, allow_gdb=options.allow_gdb)
    refusal = checked.refusal()
    if refusal is not None:
        # The right to read its stacks is the right to enter it: without it nothing can be seen from outside.
        forbidden = isinstance(refusal, AttachPermissionError)
        forbidden = forbidden and not isinstance(refusal, RemoteDebuggingDisabledError)
        if forbidden or not checked.rungs[-1].usable:
            raise refusal
        return external_source(group, profile, options, refusal.message.rstrip("."))
    version = checked.runtime.version if checked.runtime else None
    loops = (version or target.python or (0, 0))[:2] >= LOOPS_SINCE
    progress(f"looking for the loop of {target.id.pid}: sampling it for {RUN_S} s")
    try:
        found = _look(target.id.pid, callees=not loops)
    except NoSamples as error:
        _check_alive(target)
        return external_source(group, profile, options, f"no loop to find: {error}")
    candidates = [c for c in found.candidates if loops or not c.name.startswith("<")][:MAX_CANDIDATES]
    plans = plans_for(candidates, loops=loops)
    if not plans:
        _check_alive(target)
        return external_source(group, profile, options, "no function was seen that its loop could call")
    progress(f"attaching to {target.id.pid}: {len(plans)} functions may hold its loop")
    link = ProbeLink(
        target,
        plans,
        LinkOptions(options.allow_gdb, options.budget, options.lease_s, options.timeout_s),
    )
    try:
        attach_all([link])
    except AttachError as error:
        _check_alive(target)
        return external_source(group, profile, options, error.message.rstrip("."))
    metrics = None
    if options.metrics:
        metrics = reader_for(group, profile, interval_s=options.metrics_interval_s)
    source = UnknownSource(group, link, candidates, busy=found.busy, metrics=metrics)
    try:
        progress(f"watching {target.id.pid} for its loop")
        reason = source.settle()
    except BaseException:
        source.close()
        raise
    if reason:
        source.close()
        return external_source(group, profile, options, reason)
    return source


def _look(pid: int, *, callees: bool) -> Found:
    """Sample until the busiest thread was seen at work some times. Raises NoSamples."""
    before = thread_cpu(pid)
    stacks: tuple[Stack, ...] = ()
    for _ in range(MAX_RUNS):
        stacks += record(pid)
        used = {thread: ns - before.get(thread, ns) for thread, ns in thread_cpu(pid).items()}
        found = find(stacks, used, callees=callees)
        if found.active >= MIN_ACTIVE or not found.busy:
            break
    return found


def plans_for(candidates: Sequence[Candidate], *, loops: bool) -> list[HookPlan]:
    """One hook per candidate, numbered like them; it finds its function by file, name and line."""
    return [
        HookPlan(
            fid,
            Hook(
                name=f"{safe_text(c.name, 80)}:{c.line}",
                roles=(),
                module="",
                qualname=c.name,
                kind="loop" if loops else "function",
                binding="captured",
                priority=1,
            ),
            True,
            ("key",),
            place=(c.file, c.line),
        )
        for fid, c in enumerate(candidates)
    ]


def short_place(file: str, line: int) -> str:
    """The last two parts of a path, and the line."""
    return safe_text("/".join(file.split("/")[-2:]), 60) + f":{line}"


def _busiest(group: Group) -> Target:
    """The member that used most CPU lately."""
    members = group.probed or group.members
    if not members:
        raise UnavailableError("There is no process to attach to.", fix="Choose one from `prismtop list`.")
    if len(members) == 1:
        return members[0]
    before = {m.id.pid: cpu_ticks(f"/proc/{m.id.pid}/stat") or 0 for m in members}
    time.sleep(0.3)
    return max(members, key=lambda m: (cpu_ticks(f"/proc/{m.id.pid}/stat") or 0) - before[m.id.pid])


def _check_alive(target: Target) -> None:
    if not still_alive(target.id):
        raise UnavailableError(f"Process {target.id.pid} ended.", fix="Choose a pid from `prismtop list`.")


class UnknownSource:
    """The probe in a process without a profile. Not thread safe: one owner polls it.

    Args:
        candidates: by hook number.
        busy: whether they were seen working.
        metrics: not started yet; None when it is switched off.
    """

    def __init__(
        self,
        group: Group,
        link: ProbeLink,
        candidates: Sequence[Candidate],
        *,
        busy: bool,
        metrics: MetricsReader | None,
    ) -> None:
        self.group = group
        self.clock = Clock(time.time_ns() - time.monotonic_ns())
        self._link = link
        self._busy = busy
        self._candidates = candidates
        self._loops = {fid: plan.hook.kind == "loop" for fid, plan in link.plans.items()}
        self._chooser = LoopChooser(self._loops)
        self._assembler = TickAssembler(link.pid, group.engine)
        self._choice: Choice | None = None
        self._first_ns: int | None = None
        self._hot: set[int] = set()
        self._read_ns = time.monotonic_ns()
        self._lost = 0
        self._busy_ns = 0
        self._spent_ns = time.monotonic_ns()
        self._closed = False
        self._warnings: list[str] = []
        self._metrics = metrics
        if self._metrics:
            self._metrics.start()
        self._seen = 0

    @property
    def links(self) -> tuple[ProbeLink, ...]:
        """The probe."""
        return (self._link,)

    def settle(self) -> str:
        """Watch the candidates until the loop is known; returns why there is none, or ''.

        An idle process shows none before its next request: that is no reason to give up.
        """
        end = time.monotonic() + DECIDE_S
        while self._choice is None and time.monotonic() < end:
            self._read(time.monotonic_ns())
            if self._link.state in ("detached", "exited") or not self._can_find():
                break
            if self._link.state == "armed" or not self._busy:
                return ""
            time.sleep(0.05)
        if self._choice is not None or self._link.state == "exited":
            return ""
        if not self._can_find():
            if self._hot:
                return "no loop was found, only functions that are called too often to be hooked"
            reasons = {hook.reason for hook in self._link.hooks()}
            return "its functions cannot be hooked: " + ", ".join(sorted(reasons))[:200]
        return f"no loop was found whose turns take {agent.MIN_TURN_NS / 1e6:g} ms or more"

    def _can_find(self) -> bool:
        """Whether a candidate is in, or may still come."""
        return self._link.state == "armed" or any(hook.mechanism for hook in self._link.hooks())

    def _read(self, now_ns: int) -> list[Batch]:
        records = self._link.poll(now_ns)
        if records and self._first_ns is None:
            self._first_ns = now_ns
        if self._link.lost != self._lost:
            self._lost = self._link.lost
            self._assembler.gap()
        self._drop_hot(records, now_ns)
        self._chooser.feed(records)
        batches = self._assembler.feed(records)
        if self._first_ns is not None and now_ns - self._first_ns >= WATCH_S * 1e9:
            self._choose()
        return batches

    def _drop_hot(self, records: Sequence[Record], now_ns: int) -> None:
        """Take functions out at once that are called too often to be hooked."""
        elapsed, self._read_ns = now_ns - self._read_ns, now_ns
        counts = Counter(record[3] & 0xFFFF for record in records)
        most = max(200, elapsed * MAX_RATE / 1e9)
        hot = {fid for fid, count in counts.items() if count > most and not self._loops.get(fid)}
        if not hot <= self._hot:
            self._hot |= hot
            self._command(sum(1 << fid for fid in self._loops if fid not in self._hot))
            self._chooser.drop(hot)
            if self._choice is not None and self._choice.fid in hot:
                self._choice = None

    def _command(self, mask: int) -> None:
        ring = self._link.ring
        if ring is not None and self._link.state == "live":
            ring.command(agent.OP_HOOKS, mask)

    def _choose(self) -> None:
        choice = self._chooser.decide()
        if choice is None or choice == self._choice:
            return
        before, self._choice = self._choice, choice
        if before is not None and (before.fid, before.calls) == (choice.fid, choice.calls):
            return  # the same hook, now at another line: a wider loop of the same function
        self._assembler.follow(choice, loop=self._loops[choice.fid])
        self._command(self._chooser.keep(choice))
        if before is not None:
            self._warnings.append(f"process {self._link.pid}: the loop is another one: {self._place(choice)}")

    def _place(self, choice: Choice) -> str:
        candidate = self._candidates[choice.fid]
        if choice.calls and candidate.caller is not None:
            return short_place(candidate.caller.file, candidate.caller.line)
        return short_place(candidate.file, choice.line or candidate.line)

    def poll(self) -> SourceTick:
        """Read the ring once; one batch per turn of the loop."""
        now = time.monotonic_ns()
        batches = [] if self._closed else self._read(now)
        self._seen += len(batches)
        self._busy_ns += sum(batch.duration_ns for batch in batches)
        if now - self._spent_ns >= 2_000_000_000:
            self._link.spend(now, self._busy_ns)
            self._spent_ns, self._busy_ns = now, 0
        state, note = self._state()
        warnings = (*self._warnings, *self._link.warnings)
        self._warnings.clear()
        self._link.warnings.clear()
        metrics = EngineMetrics(reason="switched off")
        if self._metrics:
            metrics = self._metrics.latest(self._seen, [batch.end_ns for batch in batches])
        chosen = self._link.plans[self._choice.fid].hook.name if self._choice else None
        return SourceTick(
            time_ns=now,
            state=state,
            note=note,
            batches=tuple(batches),
            hooks=tuple(hook for hook in self._link.hooks() if chosen in (None, hook.hook)),
            costs=(self._link.cost(),),
            lost=Lost(self._link.lost, self._link.torn, 0),
            metrics=metrics,
            warnings=warnings,
            target_states={self._link.target.id: self._link.state},
        )

    def _state(self) -> tuple[AttachState, str]:
        link = self._link
        if self._closed:
            return AttachState.DETACHED, "detached"
        if link.state == "exited":
            return AttachState.GONE, f"{link.target.role} {link.pid} ended"
        if link.state == "detached":
            return AttachState.DETACHED, "the probe is out of the engine"
        if link.state == "armed":
            return AttachState.ARMED, f"{LABEL}, armed: starts with the next request"
        if self._choice is None:
            return AttachState.LIVE, f"{LABEL}, idle: its loop shows with the next requests"
        return AttachState.LIVE, f"{LABEL}, loop at {self._place(self._choice)}"

    def close(self) -> tuple[str, ...]:
        """Detach."""
        if self._closed:
            return ()
        self._closed = True
        self._link.ask_detach()
        notes = self._link.finish_detach()
        if self._metrics:
            self._metrics.close()
        return notes
