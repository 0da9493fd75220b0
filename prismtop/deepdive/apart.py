"""The merge in a process of its own: it takes a core for a second or more, and the interpreter's lock too.

In a thread it would hold up the session, whose ticks are what keeps the probe in the engine; a thread that
gives way to others (nice) would even hold the lock while it waits for a core.

Half of what it takes to merge a window of 50 batches is the start of Python and numpy, so the process can be
begun before all is there.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import WrittenTrace, stripped, write_trace
from prismtop.errors import PrismtopError, UnavailableError
from prismtop.model import Capture, Frame
from prismtop.one_thread import ONE_THREAD
from prismtop.safe_text import safe_text
from prismtop.sources.deep_fetched import FetchedDeep

NICE = 5
"""The engine comes first. Where Linux leaves ordinary processes waiting, one that was raised stays so."""
_SIZE_BYTES = 8
_SAID_BYTES = 1 << 16
_END_S = 0.5


class Apart:
    """`write_trace` in another process, which ends with this one. One trace at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: _Process | None = None
        self._asked: _Process | None = None
        self._ended = False

    def begin(self) -> None:
        """Start the process, which then waits; nothing when one waits already. Never raises: `write` says
        why it cannot be.
        """
        with self._lock:
            self._ended = False
            if self._spare is None:
                with contextlib.suppress(OSError):
                    self._spare = _Process()

    def end(self) -> None:
        """Let a process that waits end, and stop one that writes: no file stays. Until `begin` comes again
        nothing is written.
        """
        with self._lock:
            self._ended = True
            spare, self._spare = self._spare, None
            if self._asked is not None:
                self._asked.terminate()
        if spare is not None:
            spare.close()

    def write(
        self,
        target: Path,
        *,
        frames: Sequence[Frame],
        fetched: Sequence[FetchedDeep],
        layers: Iterable[LayerEvent],
        capture: Capture,
    ) -> WrittenTrace:
        """As `write_trace`.

        Raises:
            PrismtopError: as `write_trace`; or the process died, or was ended.
            OSError: it cannot be started.
        """
        parts = (target, stripped(frames), fetched, list(layers), capture)
        given = pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)
        process = self._taken()
        try:
            return process.ask(given)
        finally:
            with self._lock:
                self._asked = None
            process.close()

    def _taken(self) -> _Process:
        with self._lock:
            if self._ended:
                raise UnavailableError("it was cancelled.")
            spare, self._spare = self._spare, None
            if spare is not None and not spare.alive:
                spare.close()
                spare = None
            self._asked = spare or _Process()
            return self._asked


class _Process:
    """The other process. It ends when its standard input is closed, by us or by our end."""

    def __init__(self) -> None:
        home = str(Path(__file__).resolve().parent.parent.parent)
        paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._said = os.memfd_create("merge-said")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prismtop.deepdive.apart"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError:
            os.close(self._said)
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, given: bytes) -> WrittenTrace:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # when it has died it says more than that
            self._process.stdin.write(len(given).to_bytes(_SIZE_BYTES, "little") + given)
            self._process.stdin.flush()
        answer = self._process.stdout.read()
        code = self._process.wait()
        if code != 0 or not answer:
            said = os.pread(self._said, _SAID_BYTES, 0).decode("utf-8", "replace").strip().splitlines()
            why = safe_text(said[-1], 200) if said else f"it ended with {code}"
            raise UnavailableError(f"the process that merges failed: {why}.")
        result: WrittenTrace | tuple[str, str, int] = pickle.loads(answer)
        if isinstance(result, WrittenTrace):
            return result
        message, fix, number = result
        raise PrismtopError(message, exit_code=number, fix=fix)

    def terminate(self) -> None:
        self._process.terminate()

    def close(self) -> None:
        os.close(self._said)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.kill()  # nothing when it has ended; one that was asked nothing has nothing to lose
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)


def main() -> None:
    """The other process: what to write comes on stdin, what was written goes to stdout."""
    os.setpgrp()  # ctrl-c is for the one who asked, who ends this one or lets it finish
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the unfinished file is removed
    if os.getpriority(os.PRIO_PROCESS, 0) >= 0:
        os.nice(NICE)
    _preload()
    size = int.from_bytes(sys.stdin.buffer.read(_SIZE_BYTES), "little")
    given = sys.stdin.buffer.read(size)
    if not given or len(given) < size:
        return
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    target, frames, fetched, layers, capture = pickle.loads(given)
    new = not os.path.lexists(target)
    try:
        try:
            written = write_trace(target, frames=frames, fetched=fetched, layers=layers, capture=capture)
        except PrismtopError as error:
            result: object = (error.message, error.fix, error.exit_code)
        else:
            result = written
        sys.stdout.buffer.write(pickle.dumps(result))
        sys.stdout.buffer.flush()
    except SystemExit:  # asked to end when the file had its name, but nobody had heard of that
        if new:
            target.unlink(missing_ok=True)
        raise


def _preload() -> None:
    """What the merge imports when it needs it."""
    import numpy.ma  # noqa: F401

    import prismtop.deepdive.breakdown
    import prismtop.deepdive.timeline  # noqa: F401


def _end_with(asked: int) -> None:
    """The one who asked has ended."""
    os.read(asked, 1)  # not by way of `sys.stdin`, whose lock the end of the interpreter wants
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
    os._exit(0)  # all is written: the one who asked waits for the end, which takes the interpreter 20 ms
