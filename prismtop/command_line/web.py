"""The command about browsers: serve."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from prismtop.command_line.shared import Commands, command, looks, pid, pids, way_in

if TYPE_CHECKING:
    from prismtop.commands.context import Context
    from prismtop.settings import Settings

PORT = 8617


def _add_serve(commands: Commands) -> None:
    text = "show the screen in a browser, on the loopback address unless told otherwise (extra: web)"
    made = command(commands, "serve", text, "prismtop serve --pid 4242", _serve)
    pid(made)
    made.add_argument(
        "--demo", action="store_true", help="an embedded engine per page instead of a running one"
    )
    made.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; there is no login, so anything but a loopback address is open to all",
    )
    made.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"0: a free one (default {PORT})")
    way_in(made)
    looks(made)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, not {text!r}")
    return int(text)


def _serve(context: Context, args: argparse.Namespace) -> int:
    from prismtop.commands.serve import run

    return run(context, child_arguments(args, context.settings), args.host, args.port)


def child_arguments(args: argparse.Namespace, settings: Settings) -> list[str]:
    """The command line of the prismtop behind one page."""
    made = ["demo"] if args.demo else [word for number in pids(args) for word in ("--pid", str(number))]
    for name, origin in settings.origins.items():
        if origin == "flag":
            made += ["--set", f"{name}={getattr(settings, name)}"]
    return made


COMMANDS: dict[str, Callable[[Commands], None]] = {"serve": _add_serve}
