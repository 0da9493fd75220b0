"""The helper process as its parent sees it: one interpreter for all injections of an attach.

Starting an interpreter is most of what an injection costs, and on a machine whose cores are all taken it is
most of the time that passes between the first and the last process of an engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import prismtop
from prismtop.attach.errors import HelperError, from_fields
from prismtop.attach.placement import keep_off, own_processors
from prismtop.own_priority import autogroup_nice, set_autogroup_nice

Meanwhile = Callable[[], None]

_PATIENCE_S = 60.0  # beyond a request's own timeout; the helper is never killed
_LOOK_S = 0.25  # how often `meanwhile` is called
_END_S = 2.0  # from the end of its input to its own
_CHUNK = 1 << 16


def nothing() -> None:
    """What is done meanwhile, as a rule."""


class Helper:
    """Starts `python -m prismtop.attach.helper` with the first request and ends it when it is closed.

    It holds no thread of any process between two requests, and ends by itself when its parent dies.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""
        self._held: BaseException | None = None

    def __enter__(self) -> Helper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self.raise_held()

    def raise_held(self) -> None:
        """Raise what interrupted a request; its result was returned all the same."""
        held, self._held = self._held, None
        if held is not None:
            raise held

    def ask(self, request: dict[str, Any], timeout_s: float, meanwhile: Meanwhile = nothing) -> Any:
        """Send one request and wait for its result.

        A request that was sent is carried out, whatever happens here: its result says what has to be taken
        back. So an interruption (Ctrl-C, an error in `meanwhile`) is held until there is one, see
        `raise_held`; a second one is not.

        Args:
            timeout_s: the request's own, in seconds; a minute more is waited.
            meanwhile: called several times a second while it is waited for.

        Raises:
            AttachError: the one that the helper reported.
            HelperError: it ended without an answer, or is still at it.
        """
        process, cpus = self._started(int(request["pid"])), sorted(own_processors())
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({**request, "cpus": cpus}).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._ended(process) from None
        end = time.monotonic() + timeout_s
        try:
            line = self._line(process, end + _PATIENCE_S, meanwhile)
        except BaseException as interruption:
            self._held = self._held or interruption
            line = self._line(process, end + _END_S, nothing)
        if line is None:
            self._process = None  # its next answer would be taken for another request's
            self.raise_held()
            # It may be holding a thread that gets no CPU. Killing it would be safe, but leaving it is safer.
            raise HelperError(
                f"The helper process {process.pid} is still waiting for process {request['pid']} to be "
                "scheduled.",
                fix="See whether the target's cgroup is throttled; the helper ends by itself.",
            )
        try:
            answer = json.loads(line)
        except ValueError:
            ended = self._ended(process)
            self.raise_held()
            raise ended from None
        if answer["last"]:
            self.close()
        if not answer["ok"]:
            self.raise_held()
            raise from_fields(answer["error"], answer["message"], answer["exit_code"], answer["fix"])
        return answer["result"]

    def close(self) -> None:
        """Let it end."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)

    def _started(self, pid: int) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        if not sys.executable:
            raise HelperError("prismtop cannot find its own Python interpreter to start its helper with.")
        root = str(Path(prismtop.__file__).parent.parent)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(x for x in (root, os.environ.get("PYTHONPATH", "")) if x)
        self._read = b""
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-m", "prismtop.attach.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        # Its start takes a tenth of a second of CPU: not on the processor of the engine's loop.
        keep_off(pid, own_processors(), (self._process.pid,))
        _share_priority(self._process)
        return self._process

    def _line(self, process: subprocess.Popen[bytes], end: float, meanwhile: Meanwhile) -> bytes | None:
        """The next line, what there was of it when the process ended, or None when the time is over."""
        assert process.stdout is not None
        fd = process.stdout.fileno()
        while b"\n" not in self._read:
            left = end - time.monotonic()
            if left <= 0:
                return None
            if select.select([fd], [], [], min(left, _LOOK_S))[0]:
                chunk = os.read(fd, _CHUNK)
                if not chunk:
                    break
                self._read += chunk
            else:
                _share_priority(process)  # it may have been raised since
                meanwhile()
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _ended(self, process: subprocess.Popen[bytes]) -> HelperError:
        """Why it ended without an answer."""
        self._process = None
        said = b""
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError, OSError):
            said = process.communicate(timeout=_END_S)[1] or b""
        if process.returncode is not None and process.returncode < 0:
            return HelperError(
                f"The helper process was killed by signal {-process.returncode}; the target goes on.",
                fix="Try again; see 'dmesg' if it was the kernel's OOM killer.",
            )
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return HelperError(f"The helper process failed: {lines[-1][:200] if lines else 'no output'}.")


def _share_priority(process: subprocess.Popen[bytes]) -> None:
    """A session of its own begins at nice 0, whatever ours was raised to: see `OwnPriority`."""
    session = autogroup_nice()
    if session is not None and session < 0:
        set_autogroup_nice(session, pid=process.pid)
