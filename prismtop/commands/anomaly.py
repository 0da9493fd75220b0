"""`prismtop anomaly list|plan|run|stop|recover`: faults on purpose; a plan first, a rollback always."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from prismtop.anomaly import injector, labels, recovery, scenario_file, scope
from prismtop.anomaly.catalogue import SCENARIOS
from prismtop.anomaly.catalogue import scenario as scenario_named
from prismtop.anomaly.journal import all_journals, journal_dir
from prismtop.anomaly.plan import Plan, make_plan
from prismtop.anomaly.scenario import AVAILABLE, DEFAULT_DURATION_S, Availability, Request, Scenario
from prismtop.commands.context import Context
from prismtop.commands.private_file import open_private
from prismtop.errors import EXIT_FINDING, EXIT_OK, PermissionDeniedError, UnavailableError, UsageError
from prismtop.export import jsonl
from prismtop.model import Clock, ProcessId
from prismtop.safe_text import safe_text


@dataclass(frozen=True)
class RunOptions:
    """What was asked for on the command line; None is the default, or what a scenario file says."""

    scenario: str
    pids: tuple[int, ...]
    duration_s: float | None = None
    intensity: float | None = None
    ramp_s: float | None = None
    seed: int = 0
    cpus: tuple[int, ...] = ()
    device: int | None = None
    url: str = ""
    host_wide: bool = False
    in_target: bool = False
    other_user: bool = False
    production: bool = False
    yes: bool = False
    labels: str | None = None


def list_scenarios(context: Context, pids: Sequence[int]) -> int:
    """Every scenario, whether it can run here (for a target, when one is named) or why not."""
    target = _one(pids).pid if pids else None
    rows = [(one, one.check(target)) for one in SCENARIOS]
    if context.json:
        content: dict[str, object] = {"scenarios": [_scenario_object(one, there) for one, there in rows]}
        context.write(jsonl.document("anomaly_list", content))
        return EXIT_OK
    width = max(len(one.id) for one, _ in rows)
    for one, there in rows:
        kind = "control" if one.control else "paper" if one.paper else "fault"
        state = "available" if there.ok else f"unavailable: {safe_text(there.reason, 200)}"
        context.write(f"{one.id.ljust(width)}  {kind.ljust(7)}  {one.text}")
        context.write(f"{' ' * width}           {state}")
    left = [journal for journal in all_journals(journal_dir()) if not journal.running]
    if left:
        context.report.say(f"{len(left)} experiments were left behind by a crash: `prismtop anomaly recover`")
    return EXIT_OK


def plan(context: Context, options: RunOptions) -> int:
    """What would be done; 3 or 4 when it cannot be done here."""
    steps, target = _steps(options), _target(options)
    plans = [
        make_plan(step.scenario, _request(options, step, target), _defaults(options, step)) for step in steps
    ]
    _show(context, plans)
    _require_available([one.available for one in plans], [one.scenario for one in plans])
    return EXIT_OK


def run(context: Context, options: RunOptions) -> int:
    """Do it, when --yes says so; 1 when something could not be undone."""
    steps, target = _steps(options), _target(options)
    if target is None:
        raise UsageError("say which process: --pid N.", fix="`prismtop list` shows the engines that run.")
    requests = [_request(options, step, target) for step in steps]
    for step, request in zip(steps, requests, strict=True):
        assert request is not None
        _require_available([_check(step.scenario, request)], [step.scenario.id])
        if options.yes:
            scope.check_scope(step.scenario, request)
    scope.check_owner(target.pid, options.other_user)
    if not options.yes:
        _show(context, [_plan_of(options, step, target) for step in steps])
        context.report.say("nothing was done: --yes does it")
        return EXIT_OK
    scope.check_production(target.pid, options.production)
    clock = Clock(time.time_ns() - time.monotonic_ns())
    ok = True
    with _label_file(options.labels) as file:
        for number, (step, request) in enumerate(zip(steps, requests, strict=True)):
            assert request is not None
            if number or len(steps) > 1:
                _wait(context, step.gap_s)
            ok = _run_one(context, step.scenario, request, clock, file) and ok
            if scope_gone(target):
                break
    return EXIT_OK if ok else EXIT_FINDING


def scope_gone(target: ProcessId) -> bool:
    """Whether the target has ended."""
    from prismtop.anomaly.undo import alive

    return not alive(target.pid, target.start_time)


def _run_one(
    context: Context, scenario: Scenario, request: Request, clock: Clock, file: TextIO | None
) -> bool:
    def stop() -> bool:
        context.signals.check()
        return False

    with context.signals.deferred():
        outcome = injector.run(scenario, request, stop=stop)
    if outcome.recovered:
        context.report.say(f"{outcome.recovered} experiments of an earlier crash were undone first")
    label = labels.make_label(scenario, request, outcome)
    line = labels.line(label, clock)
    if file is not None:
        file.write(json.dumps(line) + "\n")
        file.flush()
    if context.json:
        more = {
            "ended_by": outcome.ended_by,
            "undone": outcome.rollback.undone,
            "failed": outcome.rollback.failed,
        }
        context.write(json.dumps({**line, **more}))
    else:
        took = (outcome.end_ns - outcome.start_ns) * 1e-9
        how = "undone" if outcome.rollback.ok else "NOT all undone"
        context.write(f"{scenario.id}: {took:.1f} s on process {request.pid}, {how}")
    context.out.flush()
    for sentence in outcome.rollback.failed:
        context.report.say(f"not undone: {safe_text(sentence)}; `prismtop anomaly recover` tries again")
    if outcome.ended_by == "target":
        context.report.say(f"process {request.pid} ended before the time was over")
    return outcome.rollback.ok


def stop(context: Context, pids: Sequence[int]) -> int:
    """End what runs; 1 when something could not be undone."""
    found = [
        made
        for pid in (pids or (None,))
        for made in recovery.stop(journal_dir(), pid)
        if made.scenario != "campaign"
    ]
    return _report(context, found, "anomaly_stop", "no experiment is running")


def recover(context: Context) -> int:
    """Undo what crashes left; 1 when something could not be undone."""
    return _report(context, recovery.recover(journal_dir()), "anomaly_recover", "nothing was left behind")


def _report(context: Context, found: Sequence[recovery.Recovered], kind: str, nothing: str) -> int:
    if context.json:
        rows = [{**one.__dict__, "path": str(one.path)} for one in found]
        context.write(jsonl.document(kind, {"experiments": rows}))
    elif not found:
        context.write(nothing)
    else:
        for one in found:
            state = "undone" if one.ok else "NOT undone: " + "; ".join(safe_text(text) for text in one.failed)
            context.write(f"{safe_text(one.scenario, 60) or 'nothing begun'} on process {one.pid}: {state}")
    return EXIT_OK if all(one.ok for one in found) else EXIT_FINDING


def _steps(options: RunOptions) -> tuple[scenario_file.Step, ...]:
    """The steps of a scenario file, or one step."""
    if options.scenario.endswith(".toml") or os.sep in options.scenario:
        given = (options.duration_s, options.intensity, options.ramp_s)
        if any(value is not None for value in given):
            raise UsageError("--duration, --intensity and --ramp are in the scenario file.")
        return scenario_file.read(Path(options.scenario)).steps
    return (
        scenario_file.Step(
            scenario_named(options.scenario),
            DEFAULT_DURATION_S if options.duration_s is None else options.duration_s,
            0.5 if options.intensity is None else options.intensity,
            options.ramp_s or 0.0,
            options.seed,
            0.0,
        ),
    )


def _target(options: RunOptions) -> ProcessId | None:
    return _one(options.pids) if options.pids else None


def _one(pids: Sequence[int]) -> ProcessId:
    if len(pids) > 1:
        raise UsageError("one target at a time: give one --pid.")
    return scope.identify(pids[0])


def _request(options: RunOptions, step: scenario_file.Step, target: ProcessId | None) -> Request | None:
    return (
        None
        if target is None
        else replace(_defaults(options, step), pid=target.pid, start_time=target.start_time)
    )


def _plan_of(options: RunOptions, step: scenario_file.Step, target: ProcessId | None) -> Plan:
    return make_plan(step.scenario, _request(options, step, target), _defaults(options, step))


def _defaults(options: RunOptions, step: scenario_file.Step) -> Request:
    return Request(
        pid=0,
        start_time=0,
        duration_s=step.duration_s,
        intensity=step.intensity,
        seed=step.seed,
        ramp_s=step.ramp_s,
        cpus=options.cpus,
        host_wide=options.host_wide,
        in_target=options.in_target,
        url=options.url,
        device=options.device,
    )


def _check(scenario: Scenario, request: Request) -> Availability:
    """Whether it can run; an endpoint or a GPU that was named needs not be the target's."""
    if scenario.scope == "endpoint" and request.url:
        return AVAILABLE
    return scenario.check(None if scenario.scope == "gpu" and request.device is not None else request.pid)


def _require_available(there: Sequence[Availability], names: Sequence[str]) -> None:
    for one, name in zip(there, names, strict=True):
        if not one.ok:
            kind = PermissionDeniedError if one.permission else UnavailableError
            raise kind(f"{name} is unavailable here: {one.reason}.", fix=one.fix)


def _show(context: Context, plans: Sequence[Plan]) -> None:
    for one in plans:
        if context.json:
            context.write(
                jsonl.document("anomaly_plan", {**one.__dict__, "available": one.available.__dict__})
            )
            continue
        where = f"process {one.pid}" if one.pid else "a process that --pid names"
        context.write(f"{one.scenario}: {one.text}")
        context.write(
            f"  target    {where}, {one.duration_s:g} s, intensity {one.intensity:g}, seed {one.seed}"
        )
        context.write(f"  means     {one.method}")
        for step in one.steps:
            context.write(f"  would     {safe_text(step)}")
        context.write(f"  touches   {one.touched}")
        last = f"also when prismtop is killed, {one.ttl_s:g} s after it took effect at the latest"
        context.write(f"  rollback  {one.rollback}; by a watchdog, {last}")
        context.write(f"  journal   {safe_text(one.journal)}")
        for refusal in one.refusals:
            context.write(f"  refused   {safe_text(refusal)}")


def _scenario_object(one: Scenario, there: Availability) -> dict[str, object]:
    return {
        "id": one.id,
        "text": one.text,
        "method": one.method,
        "paper": one.paper,
        "kind": "control" if one.control else "fault",
        "scope": one.scope,
        "causes": one.causes,
        "intensity": one.knob,
        "rollback": one.rollback,
        "available": there.ok,
        **({} if there.ok else {"reason": there.reason, "fix": there.fix}),
    }


@contextmanager
def _label_file(name: str | None) -> Iterator[TextIO | None]:
    if name is None:
        yield None
        return
    with open_private(name, append=True) as file:
        yield file


def _wait(context: Context, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))
        context.signals.check()
