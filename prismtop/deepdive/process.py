"""One captured process: what the gate admitted, and how its part of the capture stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prismtop.deepdive.gate import Admitted, admit
from prismtop.errors import PrismtopError
from prismtop.model import CaptureRequest, Layer, LayerState
from prismtop.safe_text import safe_text
from prismtop.sources.deep_link import DeepFacts, DeepOptions, DeepStatus, FetchedDeep
from prismtop.sources.probe_link import ProbeLink

MAX_EVENTS = 200_000
"""Function calls kept in the target: about 30 MB there."""

BEFORE_WINDOW = ("", "waiting", "starting")
GONE = ("failed", "cancelled", "gone")
ENDED = ("ready", "failed", "cancelled", "gone")


class Dive(Protocol):
    """A `DeepLink`.

    Attributes:
        warnings: sentences for a person, since it was made.
    """

    warnings: list[str]

    def facts(self) -> DeepFacts:
        """What is known of the process from outside."""

    def prepare(self) -> None:
        """Compile; in any thread. Raises PrismtopError."""

    def start(self) -> None:
        """Post the command; in the thread that polls."""

    def cancel(self) -> None:
        """Stop it and remove its files; in the thread that polls."""

    def finish(self) -> bool:
        """End a window whose time is over in an idle engine; in any thread. Whether anything was done."""

    def poll(self) -> DeepStatus:
        """How it stands; in the thread that polls. After `fetch` it lets the target free its files."""

    def fetch(self, folder: Path) -> FetchedDeep:
        """Bring its files here; in any thread."""


OpenDive = Callable[[ProbeLink, DeepOptions], Dive]


@dataclass
class Captured:
    """One process of a capture.

    Attributes:
        pid: of the process.
        dive: how it is captured.
        admitted: what the gate lets it do.
        posted: whether the command was posted.
        status: as it was polled last.
        failed: why nothing comes from inside this process; empty while something may.
        lingers: its part was given up while the profiler runs on: the engine's next batch ends it.
    """

    pid: int
    dive: Dive
    admitted: Admitted
    posted: bool = False
    status: DeepStatus | None = None
    failed: str = ""
    lingers: bool = False
    fetched: FetchedDeep | None = field(default=None)

    @property
    def phase(self) -> str:
        """Of the target's own part."""
        return self.status.phase if self.status is not None else ""

    @property
    def over(self) -> bool:
        """Whether nothing more happens in the process."""
        return bool(self.failed) or not self.posted or self.phase in ENDED

    @property
    def stall_ns(self) -> int | None:
        """Measured at start and stop together; None when neither was."""
        if self.status is None:
            return None
        found = [ns for ns in (self.status.start_stall_ns, self.status.stop_stall_ns) if ns is not None]
        return sum(found) if found else None

    def start(self) -> None:
        """Post the command."""
        self.posted = True
        try:
            self.dive.start()
        except PrismtopError as error:
            self.failed = error.message.rstrip(".")

    def poll(self) -> None:
        """See how it stands; a failure stays one."""
        if self.lingers:  # for one poll longer: the batch that ended it is not like others
            self.lingers = self.phase not in GONE
            self.status = self.dive.poll()
        if not self.posted or self.over:
            return
        self.status = self.dive.poll()
        if self.phase == "failed":
            self.failed = self.status.error or "the profiler did not start"
        elif self.phase == "gone":
            self.failed = "the process or its probe is gone"

    def cancel(self) -> None:
        """Stop it, unless it has ended; what cannot be stopped from here ends with the probe's lease."""
        if not self.posted or self.phase in ("failed", "cancelled", "gone"):
            return
        try:
            self.dive.cancel()
        except Exception as error:
            self.failed = f"it could not be cancelled: {safe_text(str(error), 200)}"

    def give_up(self, why: str) -> None:
        """Go on without its part, which ends with the engine's next batch."""
        self.cancel()
        self.failed, self.lingers = why, True

    def release(self) -> None:
        """Its files are here or lost: the target may forget them."""
        if self.posted and self.phase == "ready":
            self.dive.poll()

    def layers(self) -> tuple[Layer, ...]:
        """What was collected inside it; before that, what is planned."""
        if self.status is not None and self.status.layers and not self.failed:
            # Why the gate kept something out is known here; the target was only told to leave it out.
            refused = {each.name: each for each in self.admitted.layers if each.state is LayerState.OFF}
            return tuple(
                refused[name]
                if name in refused and state == LayerState.OFF.value
                else Layer(name, LayerState(state), reason, pid=self.pid)
                for name, state, reason in self.status.layers
            )
        if not self.failed:
            return self.admitted.layers
        return tuple(
            layer
            if layer.state is LayerState.OFF
            else Layer(layer.name, LayerState.OFF, self.failed, pid=self.pid)
            for layer in self.admitted.layers
        )


def model_links(links: Sequence[ProbeLink]) -> list[ProbeLink]:
    """Probed processes that run the model, lowest rank first.

    Where one is another's parent (vLLM's engine core and its workers) the parent only schedules; where some
    have ranks, those without have another role.
    """
    parents = {link.target.id for link in links}
    workers = [link for link in links if link.target.parent in parents]
    ranked = [link for link in links if any(kind != "DP" for kind, _ in link.target.ranks)]
    chosen = workers or ranked or [link for link in links if _launches(link)] or list(links)
    return sorted(chosen, key=lambda link: (link.target.rank or 0, link.pid))


def _launches(link: ProbeLink) -> bool:
    return any(plan.hook.stage == "launch" for plan in link.plans.values())


def opened(link: ProbeLink, request: CaptureRequest, open_dive: OpenDive) -> Captured:
    """A process as the gate lets it be captured. Raises PrismtopError."""
    facts = open_dive(link, _options(request, None)).facts()
    admitted = admit(facts, request, link.pid)
    return Captured(link.pid, open_dive(link, _options(request, admitted)), admitted)


def _options(request: CaptureRequest, admitted: Admitted | None) -> DeepOptions:
    return DeepOptions(
        batches=request.batches,
        max_s=request.max_s,
        operators=bool(admitted and admitted.operators),
        python=bool(admitted and admitted.python),
        gpu=bool(admitted and admitted.gpu),
        stacks=False,
        max_events=MAX_EVENTS,
    )
