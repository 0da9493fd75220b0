"""Attaches to the processes of one engine instance and turns what their probes write into batches."""

from __future__ import annotations

import itertools
import operator
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from prismtop.attach.preflight import preflight
from prismtop.errors import UnavailableError
from prismtop.model import (
    AttachState,
    Batch,
    Clock,
    EngineMetrics,
    FirstToken,
    Group,
    HookStatus,
    Lost,
    ProbeCost,
    ProcessId,
    Request,
    Target,
)
from prismtop.sources.entering import attach_all, detach_all
from prismtop.sources.hook_code import HookPlan, plan_hook
from prismtop.sources.metrics import MetricsReader, reader_for
from prismtop.sources.probe_cost import PERIOD_NS
from prismtop.sources.probe_link import LinkOptions, ProbeLink
from prismtop.sources.replica import NEVER, Replica, by_replica, followers_of
from prismtop.sources.requests import RequestTracker, events_of
from prismtop.sources.ring import Record
from prismtop.sources.tick import Source, SourceTick
from prismtop.targets.profile import BatchRule, Hook, Profile
from prismtop.targets.profiles import hooks_for, version_note

Progress = Callable[[str], None]
MAX_HOOKS = 64
METRICS_NS = 200_000_000
"""Time between two looks at what the reader of /metrics has."""
PARTIAL = "the probe was still being put in"
_NO_METRICS = EngineMetrics(reason="switched off")
_when = operator.attrgetter("time_ns")
_ended = operator.attrgetter("end_ns")


@dataclass(frozen=True)
class AttachOptions:
    """How to attach.

    Attributes:
        allow_gdb: use gdb where no better way in exists; it stops the target for 0.2 to 4 s.
        budget: fraction of the engine's busy time that the probe may cost before it drops hooks.
        lease_s: seconds without a heartbeat after which a probe removes itself.
        external_only: put nothing into the target.
        metrics: read the frontend's /metrics.
        metrics_interval_s: seconds between two reads of it.
        timeout_s: how long to wait for a probe to start.
    """

    allow_gdb: bool = False
    budget: float = 0.005
    lease_s: float = 10.0
    external_only: bool = False
    metrics: bool = True
    metrics_interval_s: float = 1.0
    timeout_s: float = 3.0


def attach(
    group: Group,
    profile: Profile | None,
    options: AttachOptions = AttachOptions(),
    progress: Progress = lambda text: None,
) -> Source:
    """Attach to every probed member of `group`, or to none.

    Raises:
        PrismtopError: why one of them cannot be entered; the others were left as they were.
    """
    if options.external_only:
        from prismtop.sources.external import external_source

        return external_source(group, profile, options)
    if profile is None or profile.batch is None:
        from prismtop.sources.unknown import attach_unknown

        return attach_unknown(group, profile, options, progress)
    for target in group.probed:
        checked = preflight(target.id.pid, allow_gdb=options.allow_gdb)
        refusal = checked.refusal()
        if refusal is not None:
            raise refusal
    links = [_link(target, profile, options) for target in group.probed]
    if not links:
        raise UnavailableError(
            f"None of the {profile.title} processes carries hooks.",
            fix="Name the engine's process with --pid.",
        )
    attach_all(links, progress)
    try:
        return LiveSource(group, profile, profile.batch, links, options, time.monotonic_ns())
    except BaseException:
        detach_all(links)
        raise


def _link(target: Target, profile: Profile, options: AttachOptions) -> ProbeLink:
    rule = profile.batch
    assert rule is not None
    hooks = hooks_for(profile, target.role, target.version)[:MAX_HOOKS]
    return ProbeLink(
        target,
        plans_for(hooks, rule, anchors=target.role == rule.role),
        LinkOptions(
            allow_gdb=options.allow_gdb,
            budget=options.budget,
            lease_s=options.lease_s,
            timeout_s=options.timeout_s,
        ),
    )


def plans_for(hooks: Sequence[Hook], rule: BatchRule, *, anchors: bool) -> list[HookPlan]:
    """The hooks of one process, and which of them look after the probe: those that end a batch, of a process
    without batches of its own all.

    Args:
        anchors: it is the process whose batches they are.
    """
    ends = rule.settle or rule.open
    plans = []
    for fid, hook in enumerate(hooks):
        boundary = (
            hook.boundary
            or (hook.name in ends if anchors else hook.per_batch == "order")
            or not (anchors or any(other.per_batch for other in hooks))
        )
        stands_in = anchors and not boundary and hook.name in rule.open
        plans.append(plan_hook(fid, hook, boundary=boundary, stands_in=stands_in))
    return plans


class LiveSource:
    """The probes of one engine instance. Not thread safe: one owner polls it.

    Args:
        since_ns: CLOCK_MONOTONIC at which every process had been entered; of a batch that began before, some
            records may have been left out.
    """

    def __init__(
        self,
        group: Group,
        profile: Profile,
        rule: BatchRule,
        links: Sequence[ProbeLink],
        options: AttachOptions,
        since_ns: int = 0,
    ) -> None:
        self.group = group
        self.clock = Clock(time.time_ns() - time.monotonic_ns())
        self._profile = profile
        self._rule = rule
        self._links = list(links)
        self._requests = RequestTracker()
        self._replicas: list[Replica] = []
        self._states: tuple[str, ...] = ()
        self._target_states: dict[ProcessId, str] = {}
        self._versions: tuple[int, ...] = ()
        self._given_up = 0
        self._number = itertools.count().__next__
        self._seen = 0
        self._setting_up = True
        self._since_ns = since_ns
        self._complete_ns = NEVER
        self._hooks: tuple[HookStatus, ...] = ()
        self._costs: tuple[ProbeCost, ...] = ()
        self._busy_ns: Counter[int] = Counter()
        self._budget_ns = time.monotonic_ns()
        self._closed = False
        self._metrics: MetricsReader | None = None
        self._said_metrics = _NO_METRICS
        self._metrics_due_ns = 0
        self._ends: list[int] = []
        if options.metrics:
            self._metrics = reader_for(group, profile, interval_s=options.metrics_interval_s)
            self._metrics.start()
        self._warnings: list[str] = []
        self._told: set[str] = set()
        note = version_note(profile, group.version)
        if note:
            self._warnings.append(note)

    @property
    def links(self) -> tuple[ProbeLink, ...]:
        """The probes."""
        return tuple(self._links)

    def poll(self) -> SourceTick:
        """Read every ring once and return the batches that are complete."""
        now = time.monotonic_ns()
        read = {link.pid: link.poll(now) for link in self._links}
        made: list[Batch] = []
        said = self._said(read)
        if self._states != tuple(link.state for link in self._links):
            # A probe came or went: finish with what there was, then go on with the probes that are in.
            for replica in self._replicas:
                made += replica.finish(read)
                read.update((pid, []) for pid in replica.pids)
            self._build()
            said += self._said(read)
        elif self._versions != tuple(link.version for link in self._links):
            self._follow_hooks()
        for replica in self._replicas:
            made += replica.take(read, now)
        batches = self._checked(made)
        first, finished = self._follow_requests(said) if said else ((), ())
        self._spend(now, batches)
        for link in self._links:
            self._warnings += link.warnings
            link.warnings.clear()
        state, note = self._state()
        warnings, self._warnings = tuple(self._warnings), []
        return SourceTick(
            time_ns=now,
            state=state,
            note=note,
            batches=tuple(batches),
            first_tokens=first,
            requests=finished,
            hooks=self._hooks,
            costs=self._costs,
            lost=Lost(
                sum(link.lost for link in self._links),
                sum(link.torn for link in self._links),
                self._given_up + sum(replica.incomplete for replica in self._replicas),
            ),
            metrics=self._engine_metrics(now, batches),
            warnings=warnings,
            target_states=self._target_states,
        )

    def _said(self, read: Mapping[int, list[Record]]) -> list[Record]:
        return [record for replica in self._replicas for record in replica.said(read)]

    def _follow_requests(self, said: Iterable[Record]) -> tuple[tuple[FirstToken, ...], tuple[Request, ...]]:
        events = [event for record in said for event in events_of(record)]
        events.sort(key=_when)
        first, finished = self._requests.feed(events, time.time_ns() - time.monotonic_ns())
        return tuple(first), tuple(finished)

    def _engine_metrics(self, now: int, batches: Sequence[Batch]) -> EngineMetrics:
        """What the engine says of itself: read once a second, hence not asked for in every poll."""
        if self._metrics is None:
            return self._said_metrics
        self._ends += [batch.end_ns for batch in batches]
        if now >= self._metrics_due_ns:
            self._said_metrics = self._metrics.latest(self._seen, self._ends)
            self._metrics_due_ns = now + METRICS_NS
            self._ends.clear()
        return self._said_metrics

    def _checked(self, made: list[Batch]) -> list[Batch]:
        """In order, with those marked that began before every hook was in."""
        made.sort(key=_ended)
        self._seen += len(made)
        if self._setting_up or (made and made[0].start_ns < self._complete_ns):
            made = [
                replace(b, suspect=b.suspect or PARTIAL) if b.start_ns < self._complete_ns else b
                for b in made
            ]
        return made

    def _spend(self, now: int, batches: Sequence[Batch]) -> None:
        for b in batches:
            self._busy_ns[b.pid] += min(b.duration_ns, b.period_ns or b.duration_ns)
        if now - self._budget_ns < PERIOD_NS:
            return
        for replica in self._replicas:
            replica.spend(now, self._busy_ns[replica.lead])
        self._costs = tuple(link.cost() for link in self._links)
        self._budget_ns = now
        self._busy_ns.clear()

    def _state(self) -> tuple[AttachState, str]:
        states = [link.state for link in self._links]
        if self._closed:
            return AttachState.DETACHED, "detached"
        if "exited" in states:
            gone = ", ".join(f"{x.target.role} {x.pid}" for x in self._links if x.state == "exited")
            return AttachState.GONE, f"{gone} ended"
        if "detached" in states:
            return AttachState.DETACHED, "the probe is out of the engine"
        if "armed" in states:
            return AttachState.ARMED, "armed: starts with the next request"
        return AttachState.LIVE, ""

    def _build(self) -> None:
        """(Re)make the assemblers when the set of live probes changes, with the hooks that are really in."""
        self._states = tuple(link.state for link in self._links)
        self._target_states = {link.target.id: link.state for link in self._links}
        self._given_up += sum(replica.incomplete for replica in self._replicas)
        live = [link for link in self._links if link.state == "live"]
        anchors = [link for link in live if link.target.role == self._rule.role]
        self._replicas = [
            Replica(
                self._profile.name,
                self._rule,
                lead,
                peers,
                followers_of(lead, anchors, live, self._rule.role),
                self._number,
            )
            for lead, peers in by_replica(anchors)
        ]
        self._follow_hooks()

    def _follow_hooks(self) -> None:
        """Hooks went in or out: a launch that is not hooked any more must not be waited for."""
        self._versions = tuple(link.version for link in self._links)
        self._hooks = tuple(hook for link in self._links for hook in link.hooks())
        self._costs = tuple(link.cost() for link in self._links)
        if self._setting_up and all(link.state == "live" and not link.status.todo for link in self._links):
            self._setting_up = False
            self._complete_ns = max(self._since_ns, *(link.status.complete_ns for link in self._links))
        for replica in self._replicas:
            replica.follow_hooks(self._rule)
        for link in self._links:
            if link.state != "live" or link.target.role != self._rule.role:
                continue
            if not any(link.installed(name) for name in self._rule.open):
                self._tell_missing(link, self._rule.open, "opens", "so no batch can be shown")
            elif self._rule.settle and not any(link.installed(name) for name in self._rule.settle):
                self._tell_missing(link, self._rule.settle, "ends", "so one ends where the next begins")

    def _tell_missing(self, link: ProbeLink, names: Sequence[str], does: str, therefore: str) -> None:
        reason = next((h.reason for h in link.hooks() if h.hook in names and h.reason), "not installed")
        text = f"process {link.pid}: no hook {does} a batch ({reason}), {therefore}"
        if text not in self._told:
            self._told.add(text)
            self._warnings.append(text)

    def close(self) -> tuple[str, ...]:
        """Detach from every process."""
        if self._closed:
            return ()
        self._closed = True
        notes = detach_all(self._links)
        if self._metrics:
            self._metrics.close()
        return notes
