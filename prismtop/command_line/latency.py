"""The command about predictions and detections: score."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command

if TYPE_CHECKING:
    from prismtop.commands.context import Context


def _add_score(commands: Commands) -> None:
    text = "precision, recall, F1 and delay of the detections in a labelled trace, and the model's fit"
    made = command(commands, "score", text, "prismtop score trace.json --json", _score)
    made.add_argument("file", metavar="FILE", help="a trace, JSON lines of `watch`, or a LatencyPrism CSV")
    made.add_argument(
        "--sensitivity",
        default=argparse.SUPPRESS,
        metavar="LEVEL",
        help="how readily alerts open: quiet, normal, sensitive",
    )


def _score(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.score import run

    return run(context, args.file)


COMMANDS: dict[str, Callable[[Commands], None]] = {"score": _add_score}
