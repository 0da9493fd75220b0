"""The screen in a browser: one prismtop per page that is opened, over a websocket."""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from prismtop.errors import UnavailableError, UsageError
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from aiohttp import web

NO_EXTRA = "`prismtop serve` needs the package textual-serve, which is not installed."
INSTALL = 'Run `pip install "prismtop[web]"`.'


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address. A name counts when it can be nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str) -> int:
    """A port that nothing listens on now. Raises UsageError when the address is not one of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UsageError(f"{safe_text(host)} is no address of this machine: {error.strerror}.") from None


def serve(arguments: Sequence[str], host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        arguments: of the prismtop that each page starts.
        host: address to listen on; anything but a loopback address is open to everyone who can reach it.
        port: 0 takes a free one.
        say: gets one sentence with the address, and one that warns when it is an open one.

    Raises:
        UnavailableError: textual-serve is not installed, or the port is taken.
        UsageError: the address is not one of this machine.
    """
    try:
        from textual_serve.server import Server
    except ImportError:
        raise UnavailableError(NO_EXTRA, fix=INSTALL) from None
    from aiohttp import web

    port = port or free_port(host)
    names = _names(host, port)

    @web.middleware
    async def same_site(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # A page of another site may open websockets to a loopback address, or point a name of its own there.
        origin = request.headers.get("Origin")
        if names and (request.host not in names or (origin and origin.split("//")[-1] not in names)):
            raise web.HTTPForbidden(text="prismtop answers its own pages only.")
        if not names and origin and origin.split("//")[-1] != request.host:
            raise web.HTTPForbidden(text="prismtop answers its own pages only.")
        return await handler(request)

    class QuietServer(Server):  # type: ignore[misc, unused-ignore]
        """Without the logo; only for its own pages."""

        def initialize_logging(self) -> None:
            """Nothing is logged: addresses and text of the target are nobody's business."""

        async def on_startup(self, app: web.Application) -> None:
            """Say where."""
            say(f"serving on {self.public_url}; ctrl-c ends it")
            if not is_loopback(host):
                say(
                    "everyone who can reach this address sees the screen and can use its keys: "
                    "there is no login"
                )

        async def _make_app(self) -> web.Application:
            app: web.Application = await super()._make_app()
            app.middlewares.append(same_site)
            return app

    shown = f"[{host}]" if ":" in host else host
    command = shlex.join([sys.executable, "-m", "prismtop", *arguments])
    server: Any = QuietServer(
        command, host=host, port=port, title="prismtop", public_url=f"http://{shown}:{port}"
    )
    os.environ.pop("TEXTUAL_DRIVER", None)
    try:
        server.serve()
    except OSError as error:
        raise UnavailableError(
            f"port {port} of {safe_text(host)} cannot be used: {error.strerror}.",
            fix="Try another --port, or 0.",
        ) from None


def _names(host: str, port: int) -> frozenset[str]:
    """Host headers that pages of ours have; empty when they cannot be known (all interfaces)."""
    if not is_loopback(host):
        return frozenset()
    return frozenset(f"{name}:{port}" for name in (host, f"[{host}]", "localhost", "127.0.0.1", "[::1]"))
