"""The commands that write traces: record, and the family `trace`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command, pid, pids, positive, seconds, way_in

if TYPE_CHECKING:
    from prismtop.commands.context import Context

_SUPPRESS = argparse.SUPPRESS


def _add_record(commands: Commands) -> None:
    text = "record a running engine as a Chrome trace, without a screen"
    made = command(commands, "record", text, "prismtop record -o run.json.gz --duration 60", _record)
    made.add_argument(
        "-o", "--output", metavar="FILE", help="ends in .json or .json.gz; by default a name of its own"
    )
    made.add_argument("--duration", type=seconds, metavar="S", help="stop after S seconds")
    made.add_argument("--detach", action="store_true", help="go on in the background, without this terminal")
    made.add_argument("--list", action="store_true", help="the recordings that run")
    made.add_argument(
        "--stop", type=positive, nargs="?", const=0, metavar="PID", help="end one of them, or the only one"
    )
    made.add_argument("--ready-fd", type=int, help=_SUPPRESS)
    pid(made)
    way_in(made)


def _record(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import record

    if args.list:
        return record.list_running(context)
    if args.stop is not None:
        return record.stop(context, args.stop or None)
    options = record.RecordOptions(args.output, args.duration, args.ready_fd)
    return (record.detach if args.detach else record.run)(context, pids(args), options)


COMMANDS: dict[str, Callable[[Commands], None]] = {
    "record": _add_record,
}
