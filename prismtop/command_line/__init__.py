"""The command line, one module per family of commands; `prismtop.cli` puts them together.

Only argparse is imported here: what a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable

from prismtop.command_line import (
    capturing,
    diagnosing,
    export,
    injecting,
    latency,
    live,
    recording,
    replaying,
    web,
)
from prismtop.command_line.shared import Commands

COMMANDS: dict[str, Callable[[Commands], None]] = {
    **live.COMMANDS,
    **recording.COMMANDS,
    **capturing.COMMANDS,
    **replaying.COMMANDS,
    **latency.COMMANDS,
    **diagnosing.COMMANDS,
    **injecting.COMMANDS,
    **export.COMMANDS,
    **web.COMMANDS,
}
"""What adds each command's parser, by the command's name, in the order of the help."""
