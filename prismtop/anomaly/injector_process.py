"""The injector as a process beside the monitor: its death undoes what it did, and its work is not ours."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import prismtop
from prismtop.anomaly.scenario import Request, Scenario
from prismtop.errors import UnavailableError

_READY_S = 60.0
_END_S = 30.0


class InjectorProcess:
    """Runs orders one after the other.

    Raises:
        UnavailableError: it did not start.
    """

    def __init__(self) -> None:
        home = Path(prismtop.__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prismtop.anomaly.injector"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=home,
            start_new_session=True,  # ctrl-c reaches the campaign, which ends it in order
        )
        self._waiting = b""
        self._wait_for("ready", _READY_S)

    def prepare(self, scenario: Scenario, request: Request) -> None:
        """Do what takes time before the first fault. Raises UnavailableError."""
        self.order(scenario, request, duration_s=0)
        self._wait_for("prepared", _READY_S)

    def order(self, scenario: Scenario, request: Request, duration_s: float | None = None) -> None:
        """Run a scenario now; `events` tells how it goes."""
        fields = {**request.__dict__, "scenario": scenario.id}
        if duration_s is not None:
            fields["duration_s"] = duration_s
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(fields).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise UnavailableError("the injector ended.") from None

    def events(self, timeout_s: float = 0.0) -> list[dict[str, Any]]:
        """What it has said since the last call. Raises UnavailableError when it has ended."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        if not select.select([fd], [], [], timeout_s)[0]:
            return []
        got = os.read(fd, 65536)
        if not got:
            raise UnavailableError("the injector ended.", fix="`prismtop anomaly recover`")
        *lines, self._waiting = (self._waiting + got).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End it; what it was doing is undone first."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                pass
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _wait_for(self, event: str, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            for said in self.events(left):
                if said["event"] == event:
                    return
                if said["event"] == "failed":
                    raise UnavailableError(str(said["reason"]))
        raise UnavailableError("the injector does not answer.")
