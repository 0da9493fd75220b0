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


class Outside:
    """Every collector of a capture. A collector that fails is a layer that is off; the others go on.

    Args:
        make: makes them anew: an idle engine's are stopped, and others start with its next request.
        spawn: runs a job.
    """

    def __init__(self, make: Make, spawn: Spawn) -> None:
        self._make = make
        self._spawn = spawn
        self._collectors: Sequence[Collector] = ()
        self._starting: Job[None] | None = None
        self._stopping: Job[None] | None = None
        self._wanted_stop = False
        self._after: dict[str, Layer] = {}

    @property
    def running(self) -> bool:
        """Whether they were started and not yet asked to stop."""
        return self._starting is not None and not self._wanted_stop

    @property
    def stopped(self) -> bool:
        """Whether nothing of them runs."""
        return self._starting is None or (self._stopping is not None and self._stopping.done)

    def start(self) -> None:
        """Begin, unless they run."""
        if self.running or not self.stopped:
            return
        self._wanted_stop, self._stopping, self._after = False, None, {}
        self._starting = self._spawn("collect", self._start)

    def stop(self) -> None:
        """End them, as soon as they have begun."""
        if self._starting is not None and not self._wanted_stop:
            self._wanted_stop = True
            starting = self._starting
            self._stopping = self._spawn("collected", lambda: self._stop(starting))

    def wait(self, seconds: float) -> bool:
        """Wait until nothing of them runs."""
        return self._stopping is None or self._stopping.wait(seconds)

    def _start(self) -> None:
        self._collectors = tuple(self._make())
        for collector in self._collectors:
            try:
                collector.start()
            except Exception as error:  # one layer less, with the reason
                self._after[collector.name] = _failed(collector.name, error)

    def _stop(self, starting: Job[None]) -> None:
        starting.wait(60.0)
        for collector in self._collectors:
            try:
                collector.stop()
                self._after.setdefault(collector.name, collector.after())
            except Exception as error:
                self._after[collector.name] = _failed(collector.name, error)

    def layers(self) -> tuple[Layer, ...]:
        """What was collected."""
        if self._starting is not None and self._starting.error:
            return (Layer("scheduler", LayerState.OFF, self._starting.error),)
        if not self.stopped:
            return tuple(Layer(each.name, LayerState.OFF, LATE) for each in self._collectors)
        return tuple(self._after.values())

    def events(self) -> Iterator[LayerEvent]:
        """Of every collector; one that fails ends, and its layer says so."""
        if not self.stopped:
            return
        for collector in self._collectors:
            layer = self._after.get(collector.name)
            if layer is None or layer.state is LayerState.OFF:
                continue
            try:
                yield from collector.events()
            except Exception as error:
                why = _failed(collector.name, error).reason
                self._after[collector.name] = replace(layer, state=LayerState.PARTIAL, reason=why)


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
    return tuple(replace(layer, events=events.get(key, 0)) for key, layer in kept.items())


def _failed(name: str, error: Exception) -> Layer:
    return Layer(name, LayerState.OFF, safe_text(f"{type(error).__name__}: {error}", 200))
