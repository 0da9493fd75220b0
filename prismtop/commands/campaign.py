"""`prismtop anomaly campaign`: a demo engine under load, faults in random order, and how many were found."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prismtop.anomaly import scope
from prismtop.anomaly.campaign import Campaign, Phase, Result
from prismtop.anomaly.catalogue import SCENARIOS
from prismtop.anomaly.catalogue import scenario as scenario_named
from prismtop.anomaly.episodes import Episode
from prismtop.anomaly.injector_process import InjectorProcess
from prismtop.anomaly.labels import line
from prismtop.anomaly.scenario import MAX_DURATION_S, Request, Scenario
from prismtop.anomaly.scenario_file import Step
from prismtop.anomaly.schedule import make_schedule
from prismtop.commands.attaching import open_session
from prismtop.commands.choose import named_group, profiles_in_use
from prismtop.commands.context import Context, closing_session
from prismtop.commands.demo import DemoOptions, engine_under_load
from prismtop.errors import EXIT_FINDING, EXIT_OK, UnavailableError, UsageError
from prismtop.export import jsonl
from prismtop.model import AttachState, Clock, Frame
from prismtop.safe_text import safe_text

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
    yes: bool = False


def run(context: Context, options: CampaignOptions) -> int:
    """Run it; 1 when something could not be undone or not be injected.

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
    result, clock, frame = _watch(context, options, steps)
    if options.output is not None and frame is not None:
        _write(Path(options.output), result, clock, frame)
    if context.json:
        context.write(jsonl.document("anomaly_campaign", _object(result, left_out, options)))
    else:
        for text in table(result, left_out):
            context.write(text)
    for failure in result.failures:
        context.report.say(safe_text(failure))
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
        else:
            usable.append(one)
    return usable, left_out


def _watch(
    context: Context, options: CampaignOptions, steps: tuple[Step, ...]
) -> tuple[Result, Clock, Frame | None]:
    profiles = profiles_in_use()
    demo = DemoOptions(pattern="mixed", seed=options.seed)
    with engine_under_load(context, demo) as pid:
        target = scope.identify(pid)
        base = Request(target.pid, target.start_time, host_wide=options.host_wide)
        injector = InjectorProcess()
        try:
            for scenario in {step.scenario.id: step.scenario for step in steps}.values():
                injector.prepare(scenario, base)
            session = open_session(
                context, named_group([pid], profiles), profiles, figures=False, counters=True, remember=False
            )
            with closing_session(context, session):
                campaign = Campaign(steps, base, injector, options.warmup_s)
                frame = None
                with context.signals.deferred():
                    while campaign.phase is not Phase.DONE:
                        started = time.monotonic()
                        frame = session.tick()
                        before = campaign.phase, campaign.done
                        campaign.take(frame)
                        if (campaign.phase, campaign.done) != before:
                            _progress(context, campaign, len(steps))
                        if frame.state in _ENDED:
                            raise UnavailableError("the demo engine ended.", fix="Run the campaign again.")
                        time.sleep(max(0.0, started + 1 / context.settings.tick_hz - time.monotonic()))
                        context.signals.check()
                assert frame is not None
                return campaign.result(), frame.clock, frame
        finally:
            with context.signals.shielded():
                injector.close()


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


def table(result: Result, left_out: Sequence[tuple[str, str]]) -> list[str]:
    """The report for a person: one row per episode, then the figures with the machine."""
    rows: list[tuple[str, ...]] = [
        ("", "scenario", "level", "effect", "found", "delay", "causes, best first")
    ]
    rows += [_row(number, episode) for number, episode in enumerate(result.episodes, 1)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    made = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    figures = result.score
    made += [
        "",
        f"recall {_percent(figures.recall)} ({figures.hits} of {figures.counted} faults with an effect of 10 "
        f"% or more; {figures.faults} injected, {figures.clouded} of them while an alert was open already)",
        f"false alarms {figures.false_alarms} in {figures.quiet_s:.0f} s outside of episodes "
        f"({_number(figures.false_per_h, 1)} an hour); {figures.control_alerts} in {figures.controls} "
        "workload controls",
        f"delay, median: {_number(figures.delay_batches, 1)} batches, {_number(figures.delay_ms, 0)} ms",
        f"cause: top-1 {_percent(figures.cause_top1)}, top-3 {_percent(figures.cause_top3)} of the hits",
        f"rolled back: {figures.rollbacks_ok} of {len(result.episodes)}",
        f"machine: {machine()}; {len(result.batches)} batches; "
        + ("the model was ready" if result.learnt else "the model was STILL LEARNING at the first injection"),
    ]
    made += [f"left out: {name}: {safe_text(reason)}" for name, reason in left_out]
    return made


def machine() -> str:
    """Processor and system in a few words."""
    name = platform.machine()
    try:
        for text in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if text.startswith("model name"):
                name = text.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} x {safe_text(name, 60)}, Linux {safe_text(platform.release(), 40)}"


def _row(number: int, episode: Episode) -> tuple[str, ...]:
    label = episode.label
    effect = label.effect
    percent = "n/a" if effect is None or effect.percent is None else f"{effect.percent:+.0f} %"
    if label.kind == "fault" and effect is not None and effect.has_one is not True:
        percent += " (none)" if effect.has_one is False else " (?)"
    found = "alert" if episode.found else "-"
    if label.kind == "control":
        found = "FALSE" if episode.found else "silent"
    elif episode.clouded:
        found = "alert before"
    elif episode.counts and not episode.found:
        found = "MISSED"
    delay = ""
    if episode.delay_ns is not None:
        delay = f"{episode.delay_ns / 1e6:.0f} ms, {episode.delay_batches} b"
    causes = " ".join(f"[{name}]" if name in label.causes else name for name in episode.causes)
    name = label.scenario + (" (control)" if label.kind == "control" else "")
    return str(number), name, f"{label.intensity:g}", percent, found, delay, causes


def _object(
    result: Result, left_out: Sequence[tuple[str, str]], options: CampaignOptions
) -> dict[str, object]:
    return {
        "seed": options.seed,
        "machine": machine(),
        "batches": len(result.batches),
        "model_ready": result.learnt,
        "score": asdict(result.score),
        "episodes": [
            {
                "scenario": e.label.scenario,
                "kind": e.label.kind,
                "intensity": e.label.intensity,
                "duration_s": (e.label.end_ns - e.label.start_ns) * 1e-9,
                "effect_pct": e.label.effect.percent if e.label.effect else None,
                "noise_pct": e.label.effect.noise_pct if e.label.effect else None,
                "effect_check": e.label.effect.verdict if e.label.effect else "not measured",
                "found": e.found,
                "alert_before": e.clouded,
                "delay_ms": None if e.delay_ns is None else e.delay_ns / 1e6,
                "delay_batches": e.delay_batches,
                "causes": e.causes,
                "expected_causes": e.label.causes,
                "rollback": "ok" if e.label.rollback_ok else "failed",
            }
            for e in result.episodes
        ],
        "failures": [safe_text(text) for text in result.failures],
        "left_out": dict(left_out),
    }


def _write(path: Path, result: Result, clock: Clock, frame: Frame) -> None:
    """Batches and ground truth, which `prismtop score` reads: JSON lines, or a trace for the viewers."""
    # Controls are no truth to be found: whatever is said in them is a false alarm.
    labels = [episode.label for episode in result.episodes if episode.label.kind == "fault"]
    if path.name.removesuffix(".gz").endswith(".json"):
        from prismtop.anomaly import trace_file

        trace_file.write(path, frame, result.batches, result.alerts, labels)
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(f"{safe_text(str(path))} cannot be written: {error.strerror}.") from None
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(jsonl.session_line(frame) + "\n")
        for batch in result.batches:
            file.write(jsonl.batch_line(batch, clock) + "\n")
        for label in labels:
            file.write(json.dumps(line(label, clock)) + "\n")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
