"""The command that names causes: diagnose."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command

if TYPE_CHECKING:
    from prismtop.commands.context import Context


def _add_diagnose(commands: Commands) -> None:
    text = "say what made ABNORMAL slower than NORMAL: ranked causes with their evidence"
    made = command(
        commands, "diagnose", text, "prismtop diagnose before.json.gz after.json.gz --json", _diagnose
    )
    made.add_argument(
        "normal", metavar="NORMAL", help="a trace, or a `*_perf_data` folder, taken when all was well"
    )
    made.add_argument("abnormal", metavar="ABNORMAL", help="the same kind, with the fault")


def _diagnose(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.diagnose import run

    return run(context, args.normal, args.abnormal)


COMMANDS: dict[str, Callable[[Commands], None]] = {"diagnose": _add_diagnose}
