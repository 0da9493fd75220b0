"""The command that exports: Prometheus and OpenTelemetry."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command, pid, pids, seconds, way_in

if TYPE_CHECKING:
    from prismtop.commands.context import Context


def _add_export(commands: Commands) -> None:
    text = "serve latency histograms, counters and alerts to Prometheus, or push them by OTLP"
    made = command(commands, "export", text, "prismtop export --pid 4242 --prometheus :9777", _export)
    pid(made)
    made.add_argument(
        "--prometheus",
        metavar="[HOST]:PORT",
        help="serve /metrics here (default :9777, on the loopback address unless HOST is given)",
    )
    made.add_argument("--otlp", metavar="URL", help="push to this OpenTelemetry collector (OTLP over HTTP)")
    made.add_argument(
        "--interval", type=seconds, default=10.0, metavar="S", help="between two pushes (default 10)"
    )
    made.add_argument("--duration", type=seconds, metavar="S", help="stop after S seconds")
    made.add_argument(
        "--list", action="store_true", help="only list every counter: name, unit, source, period, meaning"
    )
    way_in(made)


def _export(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands import export

    if args.list:
        return export.listing(context)
    options = export.ExportOptions(args.prometheus, args.otlp, args.interval, args.duration)
    return export.run(context, pids(args), options)


COMMANDS: dict[str, Callable[[Commands], None]] = {"export": _add_export}
