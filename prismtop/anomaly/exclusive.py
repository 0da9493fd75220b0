"""What only one experiment on this machine may change at a time, whoever runs it.

Journals are one per target and in their user's directory, but a clock's ceiling belongs to the machine: a
second experiment would take the first one's value for the old one, and leave it there for good. A name is
held as an abstract Unix socket: no file is left behind, every user sees it (in one network namespace), and
the kernel frees it with its holder.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import time
from collections.abc import Iterable

from prismtop.anomaly.undo import MARK

_TRIES = 100
_PAUSE_S = 0.005


class TakenError(Exception):
    """Another experiment has it; its text is the name."""


def hold(names: Iterable[str]) -> list[socket.socket]:
    """Take all of these names, until the sockets are closed.

    Raises:
        TakenError: one of them is taken.
        OSError: there are no Unix sockets here.
    """
    held: list[socket.socket] = []
    try:
        for name in sorted(set(names)):
            held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
            _bind(held[-1], name)
    except BaseException:
        for one in held:
            one.close()
        raise
    return held


def _bind(one: socket.socket, name: str) -> None:
    address = f"\0{MARK}{hashlib.sha256(name.encode()).hexdigest()}"  # a path may be longer than an address
    for _ in range(_TRIES):  # a watchdog holds it for a moment after it has removed its journal
        try:
            one.bind(address)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        time.sleep(_PAUSE_S)
    raise TakenError(name)
