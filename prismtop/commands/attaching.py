"""From a group of processes to a running session."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prismtop.commands.choose import Profiles, describe
from prismtop.commands.context import Context
from prismtop.model import Group

if TYPE_CHECKING:
    from prismtop.session import CounterSource, DeepDiver, RecordingSink, Session, Sink
    from prismtop.sources.tick import Source

_COLLECT = (20_000, 20, 50)
"""Objects more than at the last collection, and how many young collections make an older one."""


def open_session(
    context: Context,
    group: Group,
    profiles: Profiles,
    *,
    figures: bool = True,
    counters: bool = False,
    remember: bool = True,
    deepdive: bool = False,
    sinks: Sequence[Sink] = (),
    recorder: RecordingSink | None = None,
) -> Session:
    """Attach to every probed member of `group`, or to none of them.

    Args:
        figures: False leaves rates and percentiles out of the frames.
        counters: sample the host and its devices, in threads of their own; where somebody is told of alerts
            (`on_alert`, `alert_webhook`) it is done anyway, for the cause.
        remember: False starts the latency model afresh and keeps nothing of it.
        deepdive: captures can be asked for; with the setting `deepdive_on_alert` alerts begin them anyway.
        sinks: take every frame.
        recorder: keeps the last minutes, and writes them when asked.

    Raises:
        PrismtopError: with the cause and the fix; nothing is left in any process then.
    """
    from prismtop.diagnosis.live import LiveDiagnoser
    from prismtop.export.alert_hook import hooks_for
    from prismtop.own_priority import OwnPriority
    from prismtop.session import Session
    from prismtop.sources.live import AttachOptions, attach

    settings = context.settings
    hooks = hooks_for(settings, group)
    options = AttachOptions(
        allow_gdb=settings.allow_gdb or _gdb_agreed(context, group),
        budget=settings.probe_budget,
        lease_s=settings.lease_s,
        external_only=settings.external_only,
        metrics=settings.metrics,
        metrics_interval_s=settings.metrics_interval_s,
        timeout_s=settings.attach_timeout_s,
    )
    priority = OwnPriority(settings.raise_priority)

    def update(text: str) -> None:
        priority.look(time.monotonic_ns())
        context.report.update(text)

    source: Source | None = None
    sampler: CounterSource | None = None
    try:
        with context.report.status(f"attaching to {describe(group)}"):
            source = attach(group, profiles.get(group.engine), options, update)
        from prismtop.latency.judge import LatencyJudge, make_judge

        sampler = _sampler(context, group) if counters or hooks else None
        session = Session(
            source,
            history=settings.history,
            window_s=settings.window_s,
            figures=figures,
            judge=make_judge(settings, group) if remember else LatencyJudge(settings, group),
            counters=sampler,
            diagnoser=LiveDiagnoser(),
            recorder=recorder,
            sinks=(*hooks, *sinks),
            deepdiver=_deepdiver(context, group, source, sampler, wanted=deepdive),
            priority=priority,
        )
        # What was imported and built stays: the garbage collector need not walk through it again and again,
        # nor look at every few hundred objects of a program whose objects come and go in numbers that do not
        # grow.
        gc.freeze()
        gc.set_threshold(*_COLLECT)
    except BaseException:
        with context.signals.shielded():
            for sentence in source.close() if source is not None else ():
                context.report.say(sentence)
            if sampler is not None:
                sampler.close()
            priority.restore()
        raise
    return session


def _deepdiver(
    context: Context, group: Group, source: Source, sampler: CounterSource | None, *, wanted: bool
) -> DeepDiver | None:
    """What captures; None when neither a person nor an alert can ask for it."""
    from prismtop.deepdive import escalate

    settings = context.settings
    rule = escalate.rule_of(settings)
    if rule is not None:
        from prismtop.anomaly.scope import production_marker

        pid = (group.probed or group.members)[0].id.pid
        refusal = escalate.refusal(settings, lambda: production_marker(pid))
        if refusal:
            context.report.say(refusal)
            rule = None
    if rule is None and not wanted:
        return None
    from prismtop.deepdive.driver import DeepDive
    from prismtop.trace.recorder import RecorderSettings

    dive = DeepDive(
        getattr(source, "links", ()),
        directory=RecorderSettings.of(settings).directory,
        counters=sampler,
        readonly=settings.readonly,
    )
    if rule is None:
        return dive
    return escalate.OnAlert(dive, rule, escalate.Memory(escalate.memory_path()), escalate.key_of(group))


def _sampler(context: Context, group: Group) -> CounterSource:
    from prismtop.counters.sampler import make_sampler

    return make_sampler(context.settings, group)


def _gdb_agreed(context: Context, group: Group) -> bool:
    """Whether gdb is the only full way in, and the person at the terminal accepts its pause."""
    from prismtop.attach.preflight import WayIn, preflight

    closed = [member for member in group.probed if member.way_in == "external"]
    if context.settings.external_only or not closed:
        return False
    if any(preflight(member.id.pid, allow_gdb=True).best is not WayIn.GDB for member in closed):
        return False
    return bool(
        context.report.confirm(
            f"the only way into {describe(group)} is gdb, which pauses it for 0.2 to 4 s. Use gdb?"
        )
    )
