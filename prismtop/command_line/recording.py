"""The commands that write traces: record, and the family `trace`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, Parser, command, pid, pids, positive, seconds, way_in
from prismtop.errors import UsageError

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


def _add_trace(commands: Commands) -> None:
    text = "check, repair, merge or convert trace files"
    made = command(commands, "trace", text, "prismtop trace check run.json.gz", _trace_help)
    kinds = made.add_subparsers(title="what to do", metavar="WHAT", parser_class=Parser)
    text = "say what Perfetto and chrome://tracing would; exit 1 when one would not show everything"
    check = command(kinds, "check", text, "prismtop trace check *.json.gz", _trace_check)
    check.add_argument("files", nargs="+", metavar="FILE")
    text = "write a copy that both viewers open"
    repair = command(kinds, "repair", text, "prismtop trace repair cut.json -o whole.json.gz", _trace_repair)
    repair.add_argument("file", metavar="FILE")
    repair.add_argument("-o", "--output", metavar="FILE", help="by default FILE with .repaired in its name")
    text = "put several traces, such as those of ranks, on one timeline"
    merge = command(kinds, "merge", text, "prismtop trace merge rank*.json.gz -o all.json.gz", _trace_merge)
    merge.add_argument("files", nargs="+", metavar="FILE")
    merge.add_argument("-o", "--output", metavar="FILE", required=True, help="ends in .json or .json.gz")
    text = "write a trace as .json, .json.gz or .csv (one row a batch)"
    convert = command(kinds, "convert", text, "prismtop trace convert run.json.gz -o run.csv", _trace_convert)
    convert.add_argument("file", metavar="FILE")
    convert.add_argument("-o", "--output", metavar="FILE", required=True, help="its name says the form")


def _record(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import record

    if args.list:
        return record.list_running(context)
    if args.stop is not None:
        return record.stop(context, args.stop or None)
    options = record.RecordOptions(args.output, args.duration, args.ready_fd)
    return (record.detach if args.detach else record.run)(context, pids(args), options)


def _trace_help(context: Context, args: argparse.Namespace) -> int:
    raise UsageError("`prismtop trace` needs to know what to do.", fix="`prismtop trace --help` lists it.")


def _trace_check(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import trace_files

    return trace_files.check(context, args.files)


def _trace_repair(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import trace_files

    return trace_files.repair(context, args.file, args.output)


def _trace_merge(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import trace_files

    return trace_files.merge(context, args.files, args.output)


def _trace_convert(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import trace_files

    return trace_files.convert(context, args.file, args.output)


COMMANDS: dict[str, Callable[[Commands], None]] = {
    "record": _add_record,
    "trace": _add_trace,
}
