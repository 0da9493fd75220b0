"""A deep capture without a target: links whose status is scripted, collectors, a merge that writes a line."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prismtop.deepdive.driver import DeepDive
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import WrittenTrace
from prismtop.deepdive.tools import Tools
from prismtop.errors import UnavailableError
from prismtop.model import Batch, Capture, CaptureRequest, Frame, Layer, LayerState
from prismtop.sources.deep_link import DeepFacts, DeepOptions, DeepStatus, FetchedDeep
from tests.factories import MS, make_batch, make_frame, make_target

TORCH = DeepFacts(torch="2.13.0", cuda="", graphs=False)
START = 10**12
SECOND = 10**9


def make_link(pid: int = 4242, **changes: Any) -> Any:
    """A `ProbeLink`, as far as choosing one goes."""
    target = make_target(pid, **changes)
    return SimpleNamespace(pid=pid, target=target, state="live", plans={})


def script(start_ns: int, *, batches: int = 50) -> list[DeepStatus]:
    """What a target says in the polls after the start: one status a poll, the last for ever."""
    window = (start_ns + 100 * MS, start_ns + 100 * MS + batches * 8 * MS)
    ready = DeepStatus(
        phase="ready",
        batches=batches,
        thread=77,
        start_stall_ns=900 * MS,
        stop_stall_ns=100 * MS,
        window_ns=window,
        layers=(("operators", "on", "torch.profiler"), ("gpu", "off", "no CUDA"), ("gc", "on", "callbacks")),
        path="/tmp/profile.json",
        size=9,
    )
    return [
        DeepStatus("waiting"),
        DeepStatus("starting", thread=77),
        DeepStatus("capturing", batches // 2, 77, 900 * MS, window_ns=None),
        replace(ready, phase="stopping"),
        replace(ready, phase="exporting"),
        ready,
    ]


@dataclass
class FakeDive:
    """A `DeepLink` whose status is scripted."""

    link: Any
    options: DeepOptions
    world: World
    calls: list[str] = field(default_factory=list)
    polled: int = 0
    warnings: list[str] = field(default_factory=list)

    def facts(self) -> DeepFacts:
        return self.world.facts

    def prepare(self) -> None:
        self.calls.append("prepare")
        if self.world.hold_prepare is not None:
            self.world.hold_prepare.wait(60)
        self.warnings.append("it compiles the capture itself")
        if self.world.prepare_fails:
            raise UnavailableError("no interpreter like its own is at hand.")

    def start(self) -> None:
        self.calls.append("start")

    def cancel(self) -> None:
        self.calls.append("cancel")

    def finish(self) -> bool:
        self.calls.append("finish")
        if self.world.finishes:
            self.world.script = script(START)[3:]
            self.polled = 0
        return self.world.finishes

    def poll(self) -> DeepStatus:
        if self.world.poll_fails:
            raise RuntimeError("the ring is not there")
        if "cancel" in self.calls and self.world.obeys:
            return DeepStatus("cancelled")
        statuses = self.world.statuses.get(self.link.pid, self.world.script)
        status = statuses[min(self.polled, len(statuses) - 1)]
        self.polled += 1
        return status

    def fetch(self, folder: Path) -> FetchedDeep:
        self.calls.append("fetch")
        self.world.folders.append(folder)
        if self.world.fetch_fails:
            raise UnavailableError("the file is gone.")
        profile = folder / f"{self.link.pid}.json"
        profile.write_text("{}")
        return FetchedDeep(self.link.pid, profile, None)


class FakeCollector:
    """The scheduler's layer; may fail at any step."""

    name = "scheduler"

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[str] = []
        self.begun_ns = world.collector_begun_ns

    @property
    def running(self) -> bool:
        return self.calls == ["start"] and not self.world.collector_slow

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if what in self.world.collector_fails:
            raise RuntimeError(f"{what} went wrong")

    def before(self) -> Layer:
        return Layer(self.name, LayerState.PARTIAL, "schedstat at 50 Hz")

    def start(self) -> None:
        self._do("start")

    def stop(self) -> None:
        self._do("stop")

    def events(self) -> Iterator[LayerEvent]:
        self._do("events")
        if self.world.hold_events is not None:
            self.world.hold_events.wait(60)
        yield LayerEvent(self.name, "instant", "switch", START, 0, 4242, 77, {})

    def after(self) -> Layer:
        self._do("after")
        read = "; read" if "events" in self.calls else ""
        return Layer(self.name, LayerState.PARTIAL, f"schedstat at 50 Hz{read}")


class World:
    """Everything around a `DeepDive`."""

    def __init__(self, directory: Path, *pids: int, **changes: Any) -> None:
        self.facts = TORCH
        self.script = script(START)
        self.statuses: dict[int, list[DeepStatus]] = {}
        self.obeys = True
        self.finishes = False
        self.prepare_fails = self.fetch_fails = self.poll_fails = False
        self.collector_fails: tuple[str, ...] = ()
        self.collector_begun_ns = 0
        self.collector_slow = False
        self.spares: list[str] = []
        self.write_fails = False
        self.hold: threading.Event | None = None
        self.hold_events: threading.Event | None = None
        self.hold_prepare: threading.Event | None = None
        self.dives: list[FakeDive] = []
        self.collectors: list[FakeCollector] = []
        self.folders: list[Path] = []
        self.written: list[dict[str, Any]] = []
        links = [make_link(pid, ranks=(("TP", rank),)) for rank, pid in enumerate(pids or (4242,))]
        self.directory = directory
        self.deepdive = DeepDive(
            changes.pop("links", links),
            directory=directory,
            counters=self,
            tools=Tools(
                self._open,
                self._collectors,
                self._write,
                lambda: self.spares.append("begin"),
                lambda: self.spares.append("end"),
                threads=False,
            ),
            **changes,
        )
        self.now_ns = START
        self.seq = 0
        self.frame = self._frame(0)

    def _open(self, link: Any, options: DeepOptions) -> FakeDive:
        made = FakeDive(link, options, self)
        self.dives.append(made)
        return made

    def _collectors(
        self, pids: Sequence[int], hot: Mapping[int, int], request: CaptureRequest
    ) -> list[FakeCollector]:
        self.hot = dict(hot)
        made = FakeCollector(self)
        self.collectors.append(made)
        return [made]

    def _write(
        self,
        target: Path,
        *,
        frames: Sequence[Frame],
        fetched: Sequence[FetchedDeep],
        layers: Iterable[LayerEvent],
        capture: Capture,
    ) -> WrittenTrace:
        if self.hold is not None:
            self.hold.wait(60)
        if self.write_fails:
            raise OSError(28, "No space left on device")
        events = list(layers)
        self.written.append(
            {"target": target, "frames": frames, "fetched": fetched, "layers": events, "capture": capture}
        )
        target.write_text("[]")
        counts = {("operators", 4242): 5000, ("scheduler", 0): len(events), ("batches", 4242): 50}
        return WrittenTrace(5051, 2, 3000, counts, ())

    # -- a CounterSource

    def read(self) -> tuple[()]:
        return ()

    def fast(self, hz: float, seconds: float) -> None:
        self.fast_calls = (hz, seconds)

    def close(self) -> None:
        pass

    # -- time

    def _frame(self, batches: int, ms: float = 8.0, **changes: Any) -> Frame:
        made: list[Batch] = []
        for _ in range(batches):
            cost = int(ms * MS)
            made.append(make_batch(self.seq, self.now_ns, duration_ns=cost - 1000, period_ns=cost))
            self.seq += 1
            self.now_ns += cost
        kept = (*self.frame.batches, *made)[-512:] if hasattr(self, "frame") else tuple(made)
        frame = make_frame(0, time_ns=self.now_ns, new_batches=tuple(made), **changes)
        return replace(frame, batches=kept)

    def tick(self, batches: int = 8, ms: float = 8.0, idle_s: float = 0.0, **changes: Any) -> Capture | None:
        """Some batches of `ms` each, then a pause; what the driver says."""
        frame = self._frame(batches, ms, **changes)
        self.now_ns += int(idle_s * SECOND)
        self.frame = replace(frame, time_ns=self.now_ns)
        return self.deepdive.take(self.frame)

    def warm_up(self) -> None:
        """Batches to compare with."""
        for _ in range(15):
            self.tick()
        self.script = script(self.now_ns)

    def start(self, **request: Any) -> Capture:
        return self.deepdive.start(CaptureRequest(**request), self.frame)

    def until_final(self, ticks: int = 50) -> Capture:
        """Tick until it has ended."""
        for _ in range(ticks):
            capture = self.tick()
            if capture is not None and capture.phase.final:
                return capture
        raise AssertionError(f"it does not end: {capture}")
