"""The commands about running engines: demo, list, watch, doctor, config."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import (
    Commands,
    amount,
    command,
    judging,
    looks,
    pid,
    pids,
    seconds,
    way_in,
)

if TYPE_CHECKING:
    from prismtop.commands.context import Context

PATTERNS = ("mixed", "steady", "burst")  # prismtop.demo.workload.PATTERNS, without importing it


def _add_demo(commands: Commands) -> None:
    text = "start the embedded engine with load and attach to it as to any other"
    made = command(commands, "demo", text, "prismtop demo --headless -n 200 --json", _demo)
    made.add_argument("--headless", action="store_true", help="a table on stdout instead of the screen")
    amount(made, "headless; stop after N batches (default 200 when headless)")
    made.add_argument("--pattern", choices=PATTERNS, default="mixed", help="how the request rate moves")
    made.add_argument("--rate", type=seconds, metavar="R", help="mean requests a second")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="seed of arrivals and lengths")
    way_in(made)
    looks(made)
    judging(made)


def _add_list(commands: Commands) -> None:
    text = "list inference processes: engine, version, role, rank, ports, and the way in or why not"
    pid(command(commands, "list", text, "prismtop list --json", _list))


def _add_watch(commands: Commands) -> None:
    text = "print batches to stdout: a table, or one JSON object a line"
    made = command(
        commands, "watch", text, "prismtop watch --pid 4242 -n 1000 --json > batches.jsonl", _watch
    )
    pid(made)
    amount(made, "stop after N batches; exit 1 when --duration ends first")
    counters = "with --json: counters of host, GPUs and interconnects too"
    made.add_argument("--counters", action="store_true", default=argparse.SUPPRESS, help=counters)
    way_in(made)
    judging(made)


def _add_doctor(commands: Commands) -> None:
    text = "say what works here and what does not, each with the exact fix"
    made = command(commands, "doctor", text, "prismtop doctor --pid 4242", _doctor)
    made.set_defaults(settings_may_fail=True)
    pid(made)


def _add_config(commands: Commands) -> None:
    text = "show every setting with its origin, or the path of the config file"
    made = command(commands, "config", text, "prismtop config show --json", _config)
    made.add_argument("what", choices=("show", "path"), nargs="?", default="show", help="default: show")


def _demo(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.demo import DemoOptions, run

    options = DemoOptions(
        headless=args.headless,
        batches=args.batches,
        duration_s=args.duration,
        pattern=args.pattern,
        rate=args.rate,
        seed=args.seed,
    )
    return run(context, options)


def _list(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.listing import run

    return run(context, pids(args))


def _watch(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.watch import run

    return run(context, pids(args), args.batches, args.duration)


def _doctor(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.diagnosis import run

    return run(context, pids(args))


def _config(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import config

    return config.path(context) if args.what == "path" else config.show(context)


COMMANDS: dict[str, Callable[[Commands], None]] = {
    "demo": _add_demo,
    "list": _add_list,
    "watch": _add_watch,
    "doctor": _add_doctor,
    "config": _add_config,
}
