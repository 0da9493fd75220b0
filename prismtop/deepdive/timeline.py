"""Everything that can be added up, of all processes of a trace, as columns on one clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prismtop.deepdive.activity import DEVICE_KINDS, HOST_KINDS, Kind, PartOfTrace
from prismtop.deepdive.intervals import Intervals, Times, union

Whole = NDArray[np.int64]
_FRAMEWORK = frozenset((*DEVICE_KINDS, *HOST_KINDS))


@dataclass(frozen=True)
class Columns:
    """Spans: process, native thread or device, what it is, number of its name (-1: none), start, end (ns)."""

    pid: Whole
    unit: Whole
    kind: Whole
    name: Whole
    start: Times
    end: Times

    def where(self, keep: NDArray[np.bool_] | Whole) -> Columns:
        """Those of them that are kept, or in this order."""
        return Columns(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    def of(self, *kinds: Kind) -> Columns:
        """Those of these kinds."""
        return self.where(np.isin(self.kind, [int(kind) for kind in kinds]))

    @property
    def covered(self) -> Intervals:
        """Their union."""
        return union(self.start, self.end)

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Timeline:
    """A trace's spans.

    Attributes:
        columns: all of them, sorted by start.
        names: by number.
        model_threads: native id of the thread that runs the model, by pid, where it is known.
        layers: names of layers that were collected, so that nothing seen means that nothing was.
        ranks: rank by pid, where it is known.
        instead: who had the core while a thread was ready: nanoseconds by (pid, native thread id), by name.
        windows: (first, last) sync marker of a process's profile, which goes on for longer than its spans do.
        full: whether spans were left out, because there are too many.
    """

    columns: Columns
    names: tuple[str, ...]
    model_threads: Mapping[int, int] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
    ranks: Mapping[int, int] = field(default_factory=dict)
    windows: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    instead: Mapping[tuple[int, int], Mapping[str, int]] = field(default_factory=dict)
    full: bool = False

    @cached_property
    def pids(self) -> tuple[int, ...]:
        """Processes with spans of a framework: operators, runtime calls, kernels."""
        return tuple(int(pid) for pid in np.unique(self.columns.of(*_FRAMEWORK).pid))

    @cached_property
    def has_devices(self) -> bool:
        """Whether anything ran on a device."""
        return bool(np.isin(self.columns.kind, [int(kind) for kind in DEVICE_KINDS]).any())

    def process(self, pid: int) -> Columns:
        """Spans of one process."""
        return self.columns.where(self.columns.pid == pid)

    def model_thread(self, pid: int) -> int | None:
        """The thread that runs the model: known, or the one with most time in operators and launches."""
        if pid in self.model_threads:
            return self.model_threads[pid]
        rows = self.process(pid).of(*HOST_KINDS)
        if not len(rows):
            return None
        threads, inverse = np.unique(rows.unit, return_inverse=True)
        return int(threads[np.argmax(np.bincount(inverse, weights=rows.end - rows.start))])


def timeline_of(
    parts: Iterable[PartOfTrace],
    *,
    model_threads: Mapping[int, int] | None = None,
    layers: frozenset[str] = frozenset(),
    ranks: Mapping[int, int] | None = None,
    windows: Mapping[int, tuple[int, int]] | None = None,
    instead: Mapping[tuple[int, int], Mapping[str, int]] | None = None,
) -> Timeline:
    """Put collections together; spans that cannot be added up (kind OTHER) are left out."""
    names: list[str] = []
    made: list[Columns] = []
    full = False
    for part in parts:
        rows = part.activities
        full |= rows.full
        kind = np.frombuffer(rows.kind, np.int8).astype(np.int64)
        keep = part.good & (kind != Kind.OTHER)
        track = np.frombuffer(rows.track, np.int32)
        pids, units = _owners(track, part.owners)
        name = np.frombuffer(rows.name, np.int32).astype(np.int64)
        name = np.where(name >= 0, name + len(names), -1)
        names += rows.names
        made.append(Columns(pids, units, kind, name, part.start, part.end).where(keep))
    fields = Columns.__dataclass_fields__
    none = np.zeros(0, np.int64)
    whole = Columns(*(np.concatenate([none, *(getattr(one, name) for one in made)]) for name in fields))
    order: Whole = np.argsort(whole.start, kind="stable")
    return Timeline(
        whole.where(order),
        tuple(names),
        model_threads or {},
        layers,
        ranks or {},
        windows or {},
        instead or {},
        full,
    )


def _owners(track: NDArray[np.int32], owners: Mapping[int, tuple[int, int]]) -> tuple[Whole, Whole]:
    size = max(owners, default=0) + 1
    table = np.zeros((size, 2), np.int64)
    for number, owner in owners.items():
        table[number] = owner
    return table[track, 0], table[track, 1]
