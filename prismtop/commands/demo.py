"""`prismtop demo`: start the embedded engine with load, and attach to it as to any other."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import prismtop
from prismtop.commands import watch
from prismtop.commands.attaching import open_session
from prismtop.commands.choose import describe, named_group, profiles_in_use
from prismtop.commands.context import Context, closing_session
from prismtop.commands.screen import open_screen
from prismtop.errors import UnavailableError
from prismtop.safe_text import safe_text

HEADLESS_BATCHES = 200
_SIZES = ("--layers", "6", "--hidden", "384", "--intermediate", "1024")
"""Decode steps of 4 to 12 ms on one slow core: long enough for every hook to stay within the budget."""
_RATE = 3.0
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 3.0
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)
_prctl = ctypes.CDLL(None).prctl  # resolved here: between fork and exec nothing may need a lock


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs; a number of batches or a duration means headless.

    `pattern`, `rate` (requests a second) and `seed` go to the load generator.
    """

    headless: bool = False
    batches: int | None = None
    duration_s: float | None = None
    pattern: str = "mixed"
    rate: float | None = None
    seed: int = 0


def run(context: Context, options: DemoOptions) -> int:
    """Start engine and load, attach, show; end both on every way out."""
    profiles = profiles_in_use()
    batches = options.batches
    limited = batches is not None or options.duration_s is not None
    headless = options.headless or context.json or limited
    if not headless and not context.interactive:
        context.report.say("no terminal for the screen: showing a table, as with --headless")
        headless = True
    if headless and not limited:
        batches = HEADLESS_BATCHES
    with engine_under_load(context, options) as pid:
        group = named_group([pid], profiles)
        if not headless:
            return open_screen(context, group, profiles)
        session = open_session(
            context, group, profiles, figures=False, counters=watch.wants_counters(context)
        )
        with closing_session(context, session):
            watched = watch.stream(context, session, batches=batches, duration_s=options.duration_s)
        return watch.conclude(context, watched, batches, describe(group))


@contextmanager
def engine_under_load(context: Context, options: DemoOptions) -> Iterator[int]:
    """The demo engine's pid, while it serves the load generator. Both end with the block.

    Raises:
        UnavailableError: the engine did not come up; the sentence ends with what it said.
    """
    # Started there, both import the prismtop that is running, whatever the current directory holds.
    home = Path(prismtop.__file__).resolve().parent.parent
    with tempfile.TemporaryFile() as errors, _ends_with_block(context) as started:
        with context.report.status("starting the demo engine"):
            server = _start(
                ["prismtop.demo.server", "--port", "0", "--die-with-parent", str(os.getpid()), *_SIZES],
                home,
                errors,
                _traceable,
            )
            started.append(server)
            port = _port(server, errors)
        load = ["prismtop.demo.load", "--url", f"http://127.0.0.1:{port}", "--duration", "0"]
        load += ["--pattern", options.pattern, "--seed", str(options.seed)]
        load += ["--rate", str(_RATE if options.rate is None else options.rate)]
        started.append(_start(load, home, errors, _dies_with_parent))
        try:
            yield server.pid
        finally:
            _say_how_it_ended(context, server, errors)


@contextmanager
def _ends_with_block(context: Context) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        with context.signals.shielded():
            for process in reversed(started):
                _stop(process)


def _start(
    module: Sequence[str], home: Path, errors: IO[bytes], before: Callable[[], None]
) -> subprocess.Popen[bytes]:
    # A session of its own: ctrl-c in the terminal must reach prismtop only, which then detaches first.
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd=home,
        start_new_session=True,
        preexec_fn=before,
    )


def _say_how_it_ended(context: Context, server: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """One sentence about an engine that has ended before it was asked to."""
    status = server.poll()
    if status is None:
        return
    errors.seek(0)
    said = errors.read(65536).decode("utf-8", "replace").strip().splitlines()
    last = f"; its last words: {safe_text(said[-1], 200)}" if said else ""
    how = f"killed by signal {-status}" if status < 0 else f"with status {status}"
    context.report.say(f"the demo engine had ended {how}{last}")


def _traceable() -> None:
    # Under Yama's ptrace_scope 1 only ancestors may trace, and prismtop's helper is a sibling. The engine is
    # ours to open up; without Yama the call fails with EINVAL and nothing is lost.
    _prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)


def _dies_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _port(server: subprocess.Popen[bytes], errors: IO[bytes]) -> int:
    """Wait for `listening on 127.0.0.1:PORT`."""
    assert server.stdout is not None
    line = b""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not line.endswith(b"\n") and (left := deadline - time.monotonic()) > 0:
        if not select.select([server.stdout], [], [], left)[0]:
            break
        got = os.read(server.stdout.fileno(), 256)
        if not got:
            break
        line += got
    port = line.decode("ascii", "replace").rsplit(":", 1)[-1].strip()
    if port.isdigit():
        return int(port)
    errors.seek(0)
    said = errors.read(65536).decode("utf-8", "replace").strip().splitlines()
    reason = f": {safe_text(said[-1], 200)}" if said else f" within {_START_TIMEOUT_S:.0f} s"
    raise UnavailableError(
        f"the demo engine did not start{reason}.",
        fix=f"Run `{sys.executable} -m prismtop.demo.server` to see why.",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL when that is not enough."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
