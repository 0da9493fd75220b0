"""`prismtop anomaly campaign`: a demo engine under load, faults in random order, and how many were found."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prismtop.anomaly import scope
from prismtop.anomaly.campaign import Campaign, Phase, Result
from prismtop.anomaly.catalogue import SCENARIOS
from prismtop.anomaly.catalogue import scenario as scenario_named
from prismtop.anomaly.injector_process import InjectorProcess
from prismtop.anomaly.neighbours import Neighbours, children
from prismtop.anomaly.scenario import MAX_DURATION_S, Request, Scenario
from prismtop.anomaly.scenario_file import Step
from prismtop.anomaly.schedule import make_schedule
from prismtop.commands import campaign_report
from prismtop.commands.attaching import open_session
from prismtop.commands.choose import named_group, profiles_in_use
from prismtop.commands.context import Context, Interrupted, closing_session
from prismtop.commands.demo import DemoOptions, engine_under_load
from prismtop.errors import EXIT_FINDING, EXIT_OK, UnavailableError, UsageError
from prismtop.export import jsonl
from prismtop.model import AttachState, Frame
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.session import Session

_ENDED = (AttachState.GONE, AttachState.DETACHED)


@dataclass(frozen=True)
class CampaignOptions:
    """What was asked for; lengths in seconds."""

    episodes: int = 12
    seed: int = 0
    duration_s: float = 5.0
    gap_s: float = 10.0
    warmup_s: float = 60.0
    only: tuple[str, ...] = ()
    output: str | None = None
    host_wide: bool = False
    in_target: bool = False
    yes: bool = False


def run(context: Context, options: CampaignOptions) -> int:
    """Run it; 1 when something could not be undone or not be injected.

    One that is interrupted, or whose engine ends, still says what it found until then.

    Raises:
        UnavailableError: nothing of what was asked for can be done here, or the engine ended.
    """
    if options.duration_s > MAX_DURATION_S / 2:
        raise UsageError(f"faults of a campaign last {MAX_DURATION_S / 2:.0f} s at most.")
    usable, left_out = _usable(options)
    if not usable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise UnavailableError(f"none of these can be done here: {reasons}.")
    steps = make_schedule(usable, options.episodes, options.seed, options.duration_s, options.gap_s)
    if not options.yes:
        _plan(context, steps, left_out, options)
        return EXIT_OK
    marker = scope.production_marker(os.getpid())
    if marker:
        raise UsageError(f"this is production: {marker}.", fix="Run a campaign on another machine.")
    watched = _watch(context, options, steps)
    result = watched.result
    with context.signals.shielded():
        if options.output is not None:
            campaign_report.write(Path(options.output), result, watched.last)
        if context.json:
            made = campaign_report.as_object(result, left_out, options.seed, len(steps))
            context.write(jsonl.document("anomaly_campaign", made))
        else:
            for text in campaign_report.table(result, left_out, len(steps)):
                context.write(text)
        for failure in result.failures:
            context.report.say(safe_text(failure))
        context.out.flush()
    if watched.ended_by is not None:
        raise watched.ended_by
    return EXIT_FINDING if result.failures else EXIT_OK


def _usable(options: CampaignOptions) -> tuple[list[Scenario], list[tuple[str, str]]]:
    """What can be done here, and what not with its reason."""
    wanted = [scenario_named(name) for name in options.only] or list(SCENARIOS)
    usable, left_out = [], []
    for one in wanted:
        there = one.check(None)
        if not there.ok:
            left_out.append((one.id, there.reason))
        elif one.scope in ("gpu", "namespace"):
            left_out.append((one.id, "the demo engine has no GPU and shares the network of this machine"))
        elif one.scope in ("host", "cpus") and not options.host_wide:
            left_out.append((one.id, "it slows the whole machine down: --host-wide agrees to that"))
        elif one.in_target and not options.in_target:
            left_out.append((one.id, "it runs code of prismtop in the engine: --in-target agrees to that"))
        else:
            usable.append(one)
    return usable, left_out


@dataclass(frozen=True)
class _Watched:
    """What a campaign found, its last frame, and what ended it before its end."""

    result: Result
    last: Frame
    ended_by: BaseException | None = None


def _watch(context: Context, options: CampaignOptions, steps: tuple[Step, ...]) -> _Watched:
    profiles = profiles_in_use()
    demo = DemoOptions(pattern="mixed", seed=options.seed)
    with engine_under_load(context, demo) as pid:
        target = scope.identify(pid)
        base = Request(
            target.pid, target.start_time, host_wide=options.host_wide, in_target=options.in_target
        )
        injector = InjectorProcess()
        try:
            for scenario in {step.scenario.id: step.scenario for step in steps}.values():
                injector.prepare(scenario, base)
            session = open_session(
                context, named_group([pid], profiles), profiles, figures=False, counters=True, remember=False
            )
            with closing_session(context, session):
                campaign = Campaign(steps, base, injector, options.warmup_s)
                last, ended_by = _follow(context, session, campaign, len(steps))
        finally:
            with context.signals.shielded():
                injector.close()
    if last is None:
        assert ended_by is not None
        raise ended_by
    return _Watched(campaign.result(), last, ended_by)


def _follow(
    context: Context, session: Session, campaign: Campaign, total: int
) -> tuple[Frame | None, BaseException | None]:
    """Tick until the campaign is done, or something else ends it."""
    frame = None
    neighbours = Neighbours(children)
    campaign.foreign = neighbours.seen
    try:
        with context.signals.deferred():
            while campaign.phase is not Phase.DONE:
                started = time.monotonic()
                frame = session.tick()
                before = campaign.phase, campaign.done
                campaign.take(frame)
                neighbours.take(frame.time_ns)
                if (campaign.phase, campaign.done) != before:
                    _progress(context, campaign, total)
                if frame.state in _ENDED:
                    raise UnavailableError("the demo engine ended.", fix="Run the campaign again.")
                time.sleep(max(0.0, started + 1 / context.settings.tick_hz - time.monotonic()))
                context.signals.check()
    except (Interrupted, UnavailableError) as ended_by:
        return frame, ended_by
    return frame, None


def _progress(context: Context, campaign: Campaign, total: int) -> None:
    step = campaign.current
    if campaign.phase is Phase.INJECTING and step is not None:
        what = f"{step.scenario.id} at {step.intensity:g} for {step.duration_s:.1f} s"
        context.report.say(f"{campaign.done + 1}/{total} {what}")
    elif campaign.phase is Phase.GAP and not campaign.done:
        context.report.say("the model is ready" if campaign.learnt else "the model is still learning")


def _plan(
    context: Context, steps: Sequence[Step], left_out: Sequence[tuple[str, str]], options: CampaignOptions
) -> None:
    length = options.warmup_s + sum(step.gap_s + step.duration_s for step in steps)
    if context.json:
        rows = [
            {
                "scenario": s.scenario.id,
                "duration_s": s.duration_s,
                "intensity": s.intensity,
                "gap_s": s.gap_s,
            }
            for s in steps
        ]
        content: dict[str, object] = {"steps": rows, "left_out": dict(left_out), "length_s": length}
        context.write(jsonl.document("anomaly_campaign_plan", content))
        return
    context.write(f"a demo engine under load, watched for about {length:.0f} s, with {len(steps)} episodes:")
    for number, step in enumerate(steps, 1):
        kind = "control" if step.scenario.control else "fault"
        context.write(
            f"  {number:3d}  {step.scenario.id:24s} {kind:8s} {step.duration_s:4.1f} s  "
            f"intensity {step.intensity:g}"
        )
    for name, reason in left_out:
        context.write(f"  left out: {name}: {safe_text(reason)}")
    context.report.say("nothing was done: --yes does it")
