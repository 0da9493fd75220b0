"""The commands about saved traces: replay, analyze, diff."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command, looks, pid, pids, seconds

if TYPE_CHECKING:
    from prismtop.commands.context import Context
    from prismtop.commands.replay import Place

_CLOCK = re.compile(r"^(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)s?$")


def _add_replay(commands: Commands) -> None:
    text = (
        "play a saved trace in the same screen: ours, torch.profiler's, py-spy's, viztracer's, LatencyPrism's"
    )
    made = command(commands, "replay", text, "prismtop replay run.json --speed 2 --from 40%", _replay)
    made.add_argument("files", nargs="+", metavar="FILE", help="several, as of ranks, share one timeline")
    made.add_argument("--headless", action="store_true", help="lines on stdout, as `watch` prints them")
    made.add_argument(
        "--speed", type=speed, metavar="X", help="0.1 to 100, or max (default 1; headless: max)"
    )
    made.add_argument(
        "--from", dest="place", type=place, metavar="T", help="start at 90, 1:30 or 40%% of the trace"
    )
    made.add_argument("--rank", type=rank, metavar="N", help="only batches of this rank")
    pid(made)
    looks(made)


def _add_analyze(commands: Commands) -> None:
    text = "summarise a trace: batches and stages by mode, anomalies, counters"
    made = command(commands, "analyze", text, "prismtop analyze run.json --html report.html", _analyze)
    made.add_argument("files", nargs="+", metavar="FILE", help="several, as of ranks, share one timeline")
    made.add_argument("--html", metavar="OUT", help="write one self-contained page with plots")


def _add_diff(commands: Commands) -> None:
    text = "what changed between two traces, stage by stage at equal workload"
    made = command(commands, "diff", text, "prismtop diff before.json after.json --json", _diff)
    made.add_argument("before", metavar="A", help="the trace to compare with")
    made.add_argument("after", metavar="B", help="the trace that may have changed")


def _replay(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.replay import ReplayOptions, run

    options = ReplayOptions(
        paths=args.files,
        headless=args.headless,
        speed=args.speed,
        place=args.place,
        rank=args.rank,
        pids=pids(args),
    )
    return run(context, options)


def _analyze(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.analyze import run

    return run(context, args.files, args.html)


def _diff(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.diff import run

    return run(context, args.before, args.after)


def speed(text: str) -> float:
    """0.1 to 100, or `max`. Raises argparse.ArgumentTypeError."""
    if text == "max":
        return math.inf
    number = seconds(text.removesuffix("x"))
    if not 0.1 <= number <= 100:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 100 or max, not {text!r}")
    return number


def rank(text: str) -> int:
    """A whole number from 0. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 20):
        raise argparse.ArgumentTypeError(f"expected a rank from 0, not {text!r}")
    return int(text)


def place(text: str) -> Place:
    """`90`, `1:30`, `1:02:03.5` or `40%`. Raises argparse.ArgumentTypeError."""
    from prismtop.commands.replay import Place

    percent = text.removesuffix("%")
    if percent != text and re.fullmatch(r"\d{1,3}(\.\d*)?", percent) and float(percent) <= 100:
        return Place(fraction=float(percent) / 100)
    found = _CLOCK.match(text)
    if not found or len(text) > 20:
        raise argparse.ArgumentTypeError(f"expected 90, 1:30 or 40%, not {text!r}")
    hours, minutes, rest = int(found[1] or 0), int(found[2] or 0), float(found[3])
    return Place(seconds=3600 * hours + 60 * minutes + rest)


COMMANDS: dict[str, Callable[[Commands], None]] = {
    "replay": _add_replay,
    "analyze": _add_analyze,
    "diff": _add_diff,
}
