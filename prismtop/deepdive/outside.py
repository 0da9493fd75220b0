"""The collectors of one capture: started, stopped and asked in threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from prismtop.deepdive.job import Job
from prismtop.deepdive.layer import Collector, LayerEvent
from prismtop.model import Layer, LayerState
from prismtop.safe_text import safe_text

Make = Callable[[], Sequence[Collector]]
Spawn = Callable[[str, Callable[[], None]], Job[None]]

LATE = "it did not stop in time"
START_S = 60.0
MISSED_NS = 1_000_000


class Outside:
    """Every collector of a capture. A collector that fails is a layer that is off; the others go on.

    Args:
        make: makes them anew: an idle engine's are stopped, and others start with its next request.
        spawn: runs a job.
    """

    def __init__(self, make: Make, spawn: Spawn) -> None:
        self._make = make
        self._spawn = spawn
        self._collectors: list[_Guarded] = []
        self._starting: Job[None] | None = None
        self._stopping: Job[None] | None = None

    @property
    def running(self) -> bool:
        """Whether they were started and not yet asked to stop."""
        return self._starting is not None and self._stopping is None

    @property
    def collecting(self) -> bool:
        """Whether each of them has really begun, or never will."""
        return self._starting is None or (
            self._starting.done and all(each.running for each in self._collectors)
        )

    @property
    def stopped(self) -> bool:
        """Whether nothing of them runs."""
        return self._starting is None or (self._stopping is not None and self._stopping.done)

    def start(self) -> None:
        """Begin, unless they run."""
        if self.stopped:
            self._stopping, self._collectors = None, []
            self._starting = self._spawn("collect", self._start)

    def stop(self) -> None:
        """End them, as soon as they have begun."""
        if self._starting is not None and self._stopping is None:
            starting = self._starting
            self._stopping = self._spawn("collected", lambda: self._stop(starting))

    def _start(self) -> None:
        self._collectors = [_Guarded(collector) for collector in self._make()]
        for each in self._collectors:
            each.start()

    def _stop(self, starting: Job[None]) -> None:
        starting.wait(START_S)
        for each in self._collectors:
            each.stop()

    def layers(self, window_ns: int = 0) -> tuple[Layer, ...]:
        """What was collected; complete once `events` was read.

        Args:
            window_ns: begin of the captured window, of which a collector may have missed a part.
        """
        if self._starting is not None and self._starting.error:
            return (Layer("scheduler", LayerState.OFF, self._starting.error),)
        return tuple(each.layer(window_ns, late=not self.stopped) for each in self._collectors)

    def events(self) -> Iterator[LayerEvent]:
        """Of every collector; one that fails ends, and its layer says so."""
        if self.stopped:
            for each in self._collectors:
                yield from each.events()


class _Guarded:
    """A collector whose errors are its layer's reason."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._failed: Layer | None = None

    @property
    def running(self) -> bool:
        return self._failed is not None or bool(getattr(self._collector, "running", True))

    def start(self) -> None:
        self._try(self._collector.start)

    def stop(self) -> None:
        self._try(self._collector.stop)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # one layer less, with the reason
            self._failed = self._failed or _failed(self._collector.name, error)

    def layer(self, window_ns: int, *, late: bool) -> Layer:
        if self._failed is not None:
            return self._failed
        if late:
            return Layer(self._collector.name, LayerState.OFF, LATE)
        try:
            layer = self._collector.after()
        except Exception as error:
            return _failed(self._collector.name, error)
        missed_ns = getattr(self._collector, "begun_ns", 0) - window_ns
        if layer.state is LayerState.OFF or not window_ns or missed_ns < MISSED_NS:
            return layer
        reason = f"it began {missed_ns / 1e6:.0f} ms after the window; {layer.reason}"
        return replace(layer, state=LayerState.PARTIAL, reason=reason)

    def events(self) -> Iterator[LayerEvent]:
        if self._failed is not None:
            return
        try:
            yield from self._collector.events()
        except Exception as error:
            failed = _failed(self._collector.name, error)
            self._failed = replace(failed, state=LayerState.PARTIAL)


def planned(make: Make) -> tuple[Layer, ...]:
    """What collectors would do here."""
    made: list[Layer] = []
    for collector in make():
        try:
            made.append(collector.before())
        except Exception as error:
            made.append(_failed(collector.name, error))
    return tuple(made)


def combined(
    layers: Sequence[Layer], events: Mapping[tuple[str, int], int] | None = None
) -> tuple[Layer, ...]:
    """Each layer of each process once, the one that is more on; with its number of events in the trace."""
    order = (LayerState.ON, LayerState.PARTIAL, LayerState.OFF)
    kept: dict[tuple[str, int], Layer] = {}
    for layer in layers:
        key = layer.name, layer.pid
        if key not in kept or order.index(layer.state) < order.index(kept[key].state):
            kept[key] = layer
    if events is None:
        return tuple(kept.values())
    return tuple(replace(layer, events=_counted(layer, events)) for layer in kept.values())


def _counted(layer: Layer, events: Mapping[tuple[str, int], int]) -> int:
    """Events of a layer of one process, or of all processes."""
    return sum(count for (name, pid), count in events.items() if name == layer.name and layer.pid in (0, pid))


def _failed(name: str, error: Exception) -> Layer:
    return Layer(name, LayerState.OFF, safe_text(f"{type(error).__name__}: {error}", 200))
