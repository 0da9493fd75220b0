"""The commands about faults on purpose: anomaly list, plan, run, stop, recover, campaign."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, Parser, command, pid, pids, positive, seconds

if TYPE_CHECKING:
    from prismtop.commands.anomaly import RunOptions
    from prismtop.commands.context import Context


def _add_anomaly(commands: Commands) -> None:
    text = "inject faults into a running engine, safely: list, plan, run, stop, recover, campaign"
    made = command(commands, "anomaly", text, "prismtop anomaly plan freeze_bursts --pid 4242", _help)
    kinds = made.add_subparsers(title="what to do", metavar="WHAT", parser_class=Parser)
    text = "list the scenarios: what each does, and whether it can run here"
    pid(command(kinds, "list", text, "prismtop anomaly list --json", _list))
    text = "say exactly what a scenario would do, and do nothing"
    example = "prismtop anomaly plan cgroup_cpu_throttling --pid 4242 --duration 10"
    _scenario(command(kinds, "plan", text, example, _plan))
    text = "run a scenario, or a scenario file; without --yes only the plan is printed"
    example = "prismtop anomaly run freeze_bursts --pid 4242 --duration 10 --yes"
    run = command(kinds, "run", text, example, _run)
    _scenario(run)
    run.add_argument("--yes", action="store_true", help="do it")
    run.add_argument("--labels", metavar="FILE", help="write the ground truth there, one JSON object a line")
    text = "end running experiments, and wait until each is undone"
    pid(command(kinds, "stop", text, "prismtop anomaly stop", _stop))
    text = "undo what a crash has left behind"
    command(kinds, "recover", text, "prismtop anomaly recover", _recover)
    text = "the proof: a demo engine under load, every possible fault in random order, the score"
    campaign = command(kinds, "campaign", text, "prismtop anomaly campaign --episodes 12 --yes", _campaign)
    campaign.add_argument("--episodes", type=positive, default=12, metavar="N", help="faults, controls (12)")
    campaign.add_argument("--seed", type=int, default=0, metavar="N", help="of order, load and faults")
    campaign.add_argument("--duration", type=seconds, default=5.0, metavar="S", help="of a fault (5)")
    campaign.add_argument("--gap", type=seconds, default=10.0, metavar="S", help="between two (mean; 10)")
    campaign.add_argument("--warmup", type=seconds, default=60.0, metavar="S", help="at most, to learn (60)")
    campaign.add_argument("--only", action="append", metavar="ID", help="this scenario; may be repeated")
    campaign.add_argument(
        "-o", "--output", metavar="FILE", help="what was seen and done: .jsonl, or a trace (.json, .json.gz)"
    )
    campaign.add_argument("--host-wide", action="store_true", help="also faults that slow all the machine")
    campaign.add_argument("--in-target", action="store_true", help="also faults by code in the engine")
    campaign.add_argument("--yes", action="store_true", help="do it; else the plan is printed")


def _scenario(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", metavar="SCENARIO", help="an id of `anomaly list`, or a TOML file")
    pid(parser)
    parser.add_argument("--duration", type=seconds, metavar="S", help="seconds, at most 600 (30)")
    parser.add_argument("--intensity", type=float, metavar="X", help="0 to 1 (0.5)")
    parser.add_argument("--ramp", type=seconds, metavar="S", help="seconds in which the intensity rises")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (0)")
    parser.add_argument("--cpus", type=_cpus, default=(), metavar="LIST", help="CPUs of burners, as 0,2-3")
    parser.add_argument("--device", type=int, metavar="N", help="GPU; by default the target's")
    parser.add_argument("--url", default="", metavar="URL", help="front of the engine, for workload controls")
    for flag, text in (
        ("--host-wide", "effects on the whole machine are agreed"),
        ("--in-target", "code of prismtop in the target is agreed: gc_storm, gil_hog, slow_tokenizer"),
        ("--other-user", "the target's owner, who is not you, agrees"),
        ("--i-know-this-is-production", "go ahead although a production marker was found"),
    ):
        parser.add_argument(flag, action="store_true", help=text)


def _cpus(text: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() if dash else True)):
            raise argparse.ArgumentTypeError(f"expected CPUs as 0,2-3, not {text!r}")
        low, high = int(first), int(last or first)
        if not low <= high < 4096:
            raise argparse.ArgumentTypeError(f"expected CPUs as 0,2-3, not {text!r}")
        found |= set(range(low, high + 1))
    return tuple(sorted(found))


def _help(context: Context, args: argparse.Namespace) -> int:
    from prismtop.errors import UsageError

    raise UsageError(
        "say what to do: list, plan, run, stop, recover or campaign.",
        fix="Try `prismtop anomaly list`.",
    )


def _options(args: argparse.Namespace, yes: bool, labels: str | None) -> RunOptions:
    from prismtop.commands.anomaly import RunOptions

    return RunOptions(
        scenario=args.scenario,
        pids=pids(args),
        duration_s=args.duration,
        intensity=args.intensity,
        ramp_s=args.ramp,
        seed=args.seed,
        cpus=args.cpus,
        device=args.device,
        url=args.url,
        host_wide=args.host_wide,
        in_target=args.in_target,
        other_user=args.other_user,
        production=args.i_know_this_is_production,
        yes=yes,
        labels=labels,
    )


def _list(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import anomaly

    return anomaly.list_scenarios(context, pids(args))


def _plan(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import anomaly

    return anomaly.plan(context, _options(args, False, None))


def _run(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import anomaly

    return anomaly.run(context, _options(args, args.yes, args.labels))


def _stop(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import anomaly

    return anomaly.stop(context, pids(args))


def _recover(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import anomaly

    return anomaly.recover(context)


def _campaign(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import campaign

    options = campaign.CampaignOptions(
        episodes=args.episodes,
        seed=args.seed,
        duration_s=args.duration,
        gap_s=args.gap,
        warmup_s=args.warmup,
        only=tuple(args.only or ()),
        output=args.output,
        host_wide=args.host_wide,
        in_target=args.in_target,
        yes=args.yes,
    )
    return campaign.run(context, options)


COMMANDS: dict[str, Callable[[Commands], None]] = {"anomaly": _add_anomaly}
