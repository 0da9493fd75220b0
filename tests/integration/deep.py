"""Deep captures of the scripted engine, driven by hand."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prismtop.session import Session
from prismtop.sources.deep_link import DeepLink, DeepOptions, DeepStatus
from prismtop.sources.live import LiveSource
from prismtop.sources.probe_link import ProbeLink
from tests.integration.engines import ROOT, ScriptedEngine

OPTIONS = DeepOptions(
    batches=50,
    max_s=30.0,
    operators=True,
    python=True,
    gpu=False,
    stacks=False,
    max_events=100_000,
    budget=0,  # nothing is left out of what is compared with what was done
)
PHASES = ("", "waiting", "starting", "capturing", "exporting", "ready", "failed", "cancelled", "gone")
FINAL = ("ready", "failed", "cancelled", "gone")


def links_of(session: Session) -> list[ProbeLink]:
    source = session._source
    assert isinstance(source, LiveSource)
    return list(source._links)


def dive_into(session: Session, **changes: Any) -> DeepLink:
    """A capture of the session's first process that has been started."""
    dive = DeepLink(links_of(session)[0], replace(OPTIONS, **changes))
    dive.prepare()
    dive.start()
    return dive


def phase_reached(
    session: Session,
    dive: DeepLink,
    *phases: str,
    within_s: float = 60.0,
    meanwhile: Callable[[], object] = lambda: None,
) -> DeepStatus:
    """Poll until it is in one of `phases`."""
    end = time.monotonic() + within_s
    while True:
        session.tick()
        status = dive.poll()
        if status.phase in phases:
            return status
        assert status.phase not in FINAL, status
        assert time.monotonic() < end, f"not within {within_s} s: {status}"
        meanwhile()
        time.sleep(0.002)


def captured(session: Session, folder: Path, **changes: Any) -> tuple[DeepStatus, list[dict[str, Any]]]:
    """A whole capture: its status and its events."""
    dive = dive_into(session, **changes)
    status = phase_reached(session, dive, "ready")
    found = dive.fetch(folder)
    assert found.events is not None
    session.tick()
    dive.poll()
    return status, [json.loads(line) for line in found.events.read_text().splitlines()]


def layer(status: DeepStatus, name: str) -> tuple[str, str]:
    """(state, reason) of a layer."""
    return next((state, reason) for found, state, reason in status.layers if found == name)


def untouched(
    engine: ScriptedEngine, before: dict[str, Any], within_s: float = 20.0, *, but: Sequence[str] = ()
) -> bool:
    """Whether the engine is, soon, what it was but for the module that the probe always leaves."""
    end = time.monotonic() + within_s
    known = dict.fromkeys(("modules", *but))
    while {**engine.state(), **known} != {**before, **known}:
        if time.monotonic() > end:
            now = engine.state()
            raise AssertionError({key: (before[key], now[key]) for key in now if now[key] != before[key]})
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def capturing_process(engine: ScriptedEngine, lease_s: float, batches: int = 50) -> Iterator[Monitor]:
    """A monitor of its own that captures `engine`."""
    profiles = engine.home / "config" / "prismtop" / "engines"
    argv = [sys.executable, "-m", "tests.integration.deep_process"]
    argv += [str(engine.pid), str(profiles), str(lease_s), str(batches)]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield Monitor(process)
    finally:
        process.kill()
        process.communicate()


class Monitor:
    """A process that captures."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def until(self, phase: str) -> str:
        """Wait until it says that the capture is in `phase`, or past it: a short one may go by unseen."""
        assert self.process.stdout is not None
        killer = threading.Timer(60, self.process.kill)
        killer.start()
        seen = []
        try:
            for line in self.process.stdout:
                seen.append(line.strip())
                if PHASES.index(seen[-1]) >= PHASES.index(phase):
                    return seen[-1]
        finally:
            killer.cancel()
        raise AssertionError(f"it ended without {phase}: {seen}")

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
