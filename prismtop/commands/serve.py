"""`prismtop serve`: the screen in a browser."""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.commands.context import Context
from prismtop.errors import EXIT_OK


def run(context: Context, arguments: Sequence[str], host: str, port: int) -> int:
    """Serve the screen until a signal ends it; every page starts a prismtop with `arguments`."""
    from prismtop.tui.serve import serve

    serve(arguments, host, port, context.report.say)
    return EXIT_OK
