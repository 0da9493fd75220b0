"""One process's deep capture, from outside (placeholder until the branches are merged)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prismtop.sources.probe_link import ProbeLink


@dataclass(frozen=True)
class DeepOptions:
    """What to capture in one process."""

    batches: int
    max_s: float
    operators: bool
    python: bool
    gpu: bool
    stacks: bool
    max_events: int


@dataclass(frozen=True)
class DeepStatus:
    """Where it stands."""

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


@dataclass(frozen=True)
class DeepFacts:
    """What is known from outside."""

    torch: str = ""
    cuda: str = ""
    graphs: bool | None = None
    subscriber: str = ""
    profiled: bool = False


@dataclass(frozen=True)
class FetchedDeep:
    """Files of one process."""

    pid: int
    profile: Path | None
    events: Path | None


class DeepLink:
    """One process."""

    def __init__(self, link: ProbeLink, options: DeepOptions) -> None:
        raise NotImplementedError

    def facts(self) -> DeepFacts:
        """From outside, cheap."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Compile; any thread."""
        raise NotImplementedError

    def start(self) -> None:
        """Post the command."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Take it back."""
        raise NotImplementedError

    def poll(self) -> DeepStatus:
        """Cheap."""
        raise NotImplementedError

    def fetch(self, folder: Path) -> FetchedDeep:
        """Copy the files."""
        raise NotImplementedError
