"""The command that captures everything for a moment: deepdive."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command, pid, pids, positive, seconds, way_in

if TYPE_CHECKING:
    from prismtop.commands.context import Context

BATCHES = 50
MOST_BATCHES = 1000
MAX_SECONDS = 10.0
MOST_SECONDS = 60.0


def _add_deepdive(commands: Commands) -> None:
    text = "capture everything of a running engine for some batches, as one trace"
    example = "prismtop deepdive --pid 4242 --batches 50 -o slow.json.gz"
    made = command(commands, "deepdive", text, example, _deepdive)
    made.add_argument(
        "-o", "--output", metavar="FILE", help="ends in .json or .json.gz; by default a name of its own"
    )
    made.add_argument(
        "--batches",
        type=_batches,
        default=BATCHES,
        metavar="N",
        help=f"batches to capture (default {BATCHES})",
    )
    made.add_argument(
        "--max-seconds", type=_most_seconds, default=MAX_SECONDS, metavar="S",
        help=f"end then, however few came (default {MAX_SECONDS:g})",
    )  # fmt: skip
    made.add_argument("--all-ranks", action="store_true", help="every rank at once, not the first one only")
    made.add_argument(
        "--gpu", choices=("auto", "off", "force"), default="auto",
        help="GPU activities: where they are safe (auto), never, or although they may hurt the engine",
    )  # fmt: skip
    made.add_argument(
        "--python", choices=("auto", "on", "off"), default="auto",
        help="Python functions: where nothing else shows what runs (auto), always, never",
    )  # fmt: skip
    made.add_argument(
        "--uprobes", action="store_true", help="time collectives and launches in the kernel too"
    )
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument(
        "--readonly", action="store_true", default=argparse.SUPPRESS, help="refuse: as the setting does"
    )
    pid(made)
    way_in(made)


def _batches(text: str) -> int:
    number = positive(text)
    if number > MOST_BATCHES:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_BATCHES}, not {number}")
    return number


def _most_seconds(text: str) -> float:
    number = seconds(text)
    if number > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_SECONDS:g} s, not {number:g}")
    return number


def _deepdive(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import deepdive
    from prismtop.model import CaptureRequest

    request = CaptureRequest(
        batches=args.batches,
        max_s=args.max_seconds,
        path=args.output or "",
        python=args.python,
        gpu=args.gpu,
        all_ranks=args.all_ranks,
        uprobes=args.uprobes,
        why="command",
    )
    return deepdive.run(context, pids(args), request, agreed=args.yes)


COMMANDS: dict[str, Callable[[Commands], None]] = {"deepdive": _add_deepdive}
