"""A deep capture in one process, from outside: puts it in, follows it, brings its files here.

What the target says is untrusted: texts and numbers are checked, and its files are read through the
descriptors that it holds open (/proc/PID/fd), which lead to no name and hence to nobody else's file.
"""

from __future__ import annotations

import marshal
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prismtop.errors import UnavailableError
from prismtop.probe import agent
from prismtop.probe.program import program
from prismtop.safe_text import safe_text
from prismtop.sources.deep_events import unpacked
from prismtop.sources.deep_facts import DeepFacts, facts_of
from prismtop.sources.deep_fetched import FetchedDeep
from prismtop.sources.deep_files import created, free, opened, owner_here, swept
from prismtop.sources.deep_finish import finish_idle
from prismtop.sources.payload import compile_for
from prismtop.sources.probe_link import ProbeLink
from prismtop.sources.ring import NOT_PARSED

__all__ = ["DeepFacts", "DeepLink", "DeepOptions", "DeepStatus", "FetchedDeep"]

FINAL = ("ready", "failed", "cancelled", "gone")
PHASES = ("waiting", "starting", "capturing", "stopping", "exporting", *FINAL)
LAYERS = ("operators", "python", "gpu", "gc", "stacks")
MAX_PROFILE_BYTES = 2 << 30
MAX_EVENTS_BYTES = 256 << 20
COPY_BYTES = 1 << 20
COMPARED = 6
"""Batches before the window that those in it are compared with, so that it can be kept cheap."""
BUDGET = 0.04
"""With it a window of 50 steps of 1 ms with 590 operators each is slowed by less than 12 %: batches without
operators that follow some with them find cold caches. Of long batches it is at most
`prismtop.probe.deep_share.LONG_BUDGET`."""

_started: weakref.WeakSet[ProbeLink] = weakref.WeakSet()
"""Links through which the profiler was started before: its first start in a process takes longest."""


@dataclass(frozen=True)
class DeepOptions:
    """What to capture in one process.

    Attributes:
        batches, max_s: the window ends at the boundary that is the first to reach one of them.
        operators: PyTorch's profiler, where PyTorch is loaded.
        python: calls of Python functions on the model thread.
        gpu: activities of the device too, through CUPTI.
        stacks: the Python stack of each operator.
        max_events: function calls and returns that are kept at most.
        budget: share by which operators may slow the batches of the window, all of them together: batches
            are left out to keep it. 0 is all operators, whatever that costs.
    """

    batches: int
    max_s: float
    operators: bool
    python: bool
    gpu: bool
    stacks: bool
    max_events: int
    budget: float = BUDGET


@dataclass(frozen=True)
class DeepStatus:
    """How it stands in the target.

    Attributes:
        phase: `waiting starting capturing stopping exporting ready failed cancelled gone`; the last four are
            final.
        batches: boundaries seen inside the window.
        thread: native id of the model thread; 0 before the first boundary.
        start_stall_ns, stop_stall_ns: how long the model thread stood still; None before.
        window_ns: CLOCK_MONOTONIC.
        layers: (layer name as in `model.Layer`, on/partial/off, reason); empty before the window.
        path: PyTorch's profile, seen from here; empty when there is none.
        size: bytes of it.
        events_path: our own events in the target's packed form, seen from here; `fetch` unpacks them.
        error: why it failed.
    """

    phase: str = "waiting"
    batches: int = 0
    thread: int = 0
    start_stall_ns: int | None = None
    stop_stall_ns: int | None = None
    window_ns: tuple[int, int] | None = None
    layers: tuple[tuple[str, str, str], ...] = ()
    path: str = ""
    size: int = 0
    events_path: str = ""
    error: str = ""


class DeepLink:
    """A deep capture in one process; made anew for each capture."""

    def __init__(self, link: ProbeLink, options: DeepOptions) -> None:
        self._link, self._options = link, options
        self.pid = link.pid
        self.warnings: list[str] = []
        self._data = b""
        self._number = 0
        self._wanted = self._cancelled = False
        self._fetched = self._released = False
        self._owner: int | None = None
        self._folder = ""
        self._seen = -1
        self._status = DeepStatus()

    def facts(self) -> DeepFacts:
        """What can be known of the process from outside, without touching it."""
        return facts_of(self._link.target, profiled=self._link in _started)

    def prepare(self) -> None:
        """Compile the capture for the target's Python; any thread. Without a compiler for it the target does
        so, and `warnings` says what that costs.
        """
        link, chosen = self._link, self._options
        text = program("deep")
        made = compile_for(text, link.pid, link.status.python or link.target.python)
        facts = self.facts()
        self._owner = owner_here(link.pid)
        options = {
            "batches": max(1, chosen.batches),
            "max_ns": int(chosen.max_s * 1e9),
            "operators": chosen.operators,
            "python": chosen.python,
            "gpu": chosen.gpu,
            "stacks": chosen.stacks,
            "max_events": chosen.max_events,
            "compare": COMPARED if chosen.budget else 0,
            "budget": chosen.budget,
            # Letting go of CUPTI while graphs are in use crashed before CUDA 12.6 (pytorch#112507).
            "teardown": facts.graphs is False or _at_least(facts.cuda, (12, 6)),
        }
        if made is None:
            self.warnings.append(
                f"process {link.pid}: no interpreter like its own is at hand, so it compiles the capture "
                "itself (15 to 30 ms at one batch boundary)"
            )
        magic, code = made if made is not None else (agent.NO_MAGIC, text)
        # Version 2 of marshal is read alike by every Python from 3.4 on.
        self._data = magic + link.nonce.encode() + marshal.dumps((code, options), 2)

    def start(self) -> None:
        """Post the command; in the thread that polls the link.

        Raises:
            UnavailableError: no probe is in the process, or it has no room.
        """
        if not self._data:
            self.prepare()
        if self._link.state not in ("live", "armed"):
            raise UnavailableError(
                f"The probe is not in process {self.pid} any more.", fix="Attach again, then capture."
            )
        self._wanted = True
        self._post()

    def _post(self) -> None:
        """The command waits until the probe has all its hooks in: setting up has no time for a guest."""
        ring = self._link.ring
        status = self._link.status
        if ring is None or self._number or status.todo or not status.base_ns or ring.pending:
            return
        self._number = ring.load(self._data)
        if self._options.operators:
            _started.add(self._link)

    def cancel(self) -> None:
        """End it and leave no file; in the thread that polls the link. Nothing when it has ended."""
        self._cancelled = True
        self._release()

    def _release(self) -> None:
        ring = self._link.ring
        if not self._number or self._released or ring is None or ring.state != agent.RUNNING:
            return
        if ring.pending and ring.acknowledged >= self._number:
            return  # somebody else's command: it must not be lost
        self._released = True
        ring.command(agent.OP_CANCEL)

    def finish(self) -> bool:
        """End a window whose time is over while the engine is idle, so that no batch ends it; any thread. See
        `prismtop.sources.deep_finish`: it returns whether anything was done, and takes up to a second.
        """
        return self._status.phase == "capturing" and finish_idle(self._link, self._status.thread)

    def poll(self) -> DeepStatus:
        """How it stands; in the thread that polls the link. Cheap."""
        if self._fetched or self._cancelled:
            self._release()
        if self._status.phase in FINAL:
            return self._status
        self._status = self._look()
        return self._status

    def _look(self) -> DeepStatus:
        ring = self._link.ring
        if self._link.state == "exited" or (self._link.state == "detached" and ring is None):
            return self._gone(
                "the process ended" if self._link.state == "exited" else "the probe is out of it"
            )
        if not self._number:
            if self._cancelled:
                return DeepStatus("cancelled")
            if self._wanted:
                self._post()
            return self._status
        assert ring is not None
        number = ring.guest_number()
        if number != self._seen and number % 2 == 0:
            told = ring.guest_told()
            if told.get("load") == self._number:
                self._seen = number
                return self._read(told, ring.guest_batches)
        if ring.state != agent.RUNNING:
            why = "its lease ended" if ring.state == agent.LEASE_EXPIRED else "the probe left it"
            return self._gone(why)
        if not os.path.exists(f"/proc/{self.pid}"):
            return self._gone("the process ended")
        if ring.acknowledged >= self._number and ring.guest_told().get("load") != self._number:
            # Another command took its place before the engine had seen it.
            self._number = 0
            return self._look()
        if self._status.phase == "capturing" and ring.guest_batches != self._status.batches:
            return replace(self._status, batches=min(ring.guest_batches, 1 << 31))
        return self._status

    def _gone(self, why: str) -> DeepStatus:
        if self._folder and not os.path.exists(f"/proc/{self.pid}") and not self._sweep():
            why += f", and may have left {safe_text(self._folder)}"
        error = f"process {self.pid}: {why}"
        return replace(self._status, phase="gone", error=error, path="", events_path="")

    def _sweep(self) -> bool:
        return self._owner is not None and swept(self._folder, self._owner)

    def _read(self, told: Mapping[str, Any], batches: int) -> DeepStatus:
        """Checked, since the target wrote it."""
        try:
            phase = str(told["phase"])
            if phase not in PHASES:
                raise ValueError(phase)
            if "layers" not in told:
                return replace(self._status, phase=phase, error=safe_text(str(told.get("error", "")))[:400])
            start, stop = (int(ns) for ns in told["stalls"])
            begin, end = (int(ns) for ns in told["window"])
            layers = tuple(
                (str(name), str(state), safe_text(str(reason))[:300])
                for name, state, reason in told["layers"]
            )
            if any(name not in LAYERS or state not in ("on", "partial", "off") for name, state, _ in layers):
                raise ValueError("layers")
            self._folder = str(told["folder"])
            files = {str(name): (int(fd), int(size)) for name, (fd, size) in told["files"].items()}
            profile, size = files.get("profile", (-1, 0))
            events, _ = files.get("events", (-1, 0))
            return DeepStatus(
                phase=phase,
                batches=min(batches, 1 << 31),
                thread=int(told["thread"]),
                start_stall_ns=start or None,
                stop_stall_ns=stop or None,
                window_ns=(begin, end) if begin and end else None,
                layers=layers,
                path=self._path(profile) if phase == "ready" else "",
                size=size if phase == "ready" else 0,
                events_path=self._path(events) if phase == "ready" else "",
                error=safe_text(str(told["error"]))[:400],
            )
        except NOT_PARSED:
            error = f"process {self.pid}: its status makes no sense"
            return replace(self._status, phase="failed", error=error)

    def _path(self, fd: int) -> str:
        return f"/proc/{self.pid}/fd/{fd}" if fd >= 0 else ""

    def fetch(self, folder: Path) -> FetchedDeep:
        """Copy what was captured into `folder`, and free it in the target; any thread, once.

        The files are `deep-PID.json` (PyTorch's profile) and `deep-PID.jsonl` (our events), mode 0600.

        Raises:
            UnavailableError: there is nothing, the process has ended, or what is there cannot be right.
            PermissionDeniedError: its descriptors cannot be read.
        """
        status = self._status
        if status.phase != "ready" or self._fetched:
            raise UnavailableError(f"Process {self.pid} has nothing to fetch ({status.phase}).")
        profile = events = None
        try:
            if status.path:
                profile = folder / f"deep-{self.pid}.json"
                with opened(status.path, self.pid, MAX_PROFILE_BYTES) as source, created(profile) as target:
                    while piece := source.read(COPY_BYTES):
                        target.write(piece)
                    free(source)
            if status.events_path:
                events = folder / f"deep-{self.pid}.jsonl"
                with opened(status.events_path, self.pid, MAX_EVENTS_BYTES) as source:
                    packed = source.read(MAX_EVENTS_BYTES)
                    free(source)
                with created(events) as target:
                    for line in unpacked(packed):
                        target.write(line)
        except OSError as error:
            raise UnavailableError(
                f"The capture of process {self.pid} could not be copied to {folder} ({error.strerror})."
            ) from error
        finally:
            self._fetched = True
        return FetchedDeep(self.pid, profile, events)


def _at_least(version: str, wanted: tuple[int, ...]) -> bool:
    numbers = version.split(".")
    try:
        return tuple(int(number) for number in numbers[: len(wanted)]) >= wanted
    except ValueError:
        return False
