"""Turns of an unknown engine's loop: which candidate is the loop, and its ticks as batches.

A tick says when a turn ended, no more: such batches have neither stages nor workload. A turn in which the
thread mostly waited cannot be told from one with a slow device: its CPU time splits it, `suspect` says so.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from prismtop.model import Batch, Mode, Origin
from prismtop.probe import agent
from prismtop.sources.ring import Record

TICKS = 3
SPREAD_NS = 250_000_000
"""So many turns, or calls, over at least this time make a candidate the loop."""
TURNS_PER_CALL = 20
"""A loop whose function is called anew this seldom is still the loop."""
GAP = 10
"""A turn of so many medians, or a gap between two calls, was a wait."""
PAUSE_NS = 1_000_000
_MEDIAN_OF = 101
_ENOUGH = 9
_CPU, _STARTS, _IS_CALL, _LINE, _CHOICE = range(6, 11)
"""Places of v1 to v5 in a record; see `agent.Loop`."""


@dataclass(frozen=True)
class Choice:
    """The loop.

    Attributes:
        fid: of its hook.
        calls: the function's calls are the turns; otherwise its jumps are.
        line: where the loop is; 0 when only its calls are seen.
    """

    fid: int
    calls: bool
    line: int


@dataclass
class _Seen:
    """What one candidate did so far: its turns and its calls, each as a number and the time of the first."""

    ticks: int = 0
    first_tick: int = 0
    last_tick: int = 0
    calls: int = 0
    first_call: int = 0
    last_call: int = 0
    starts: int = 0
    line: int = 0
    choice: int = 0

    def ticked(self, time_ns: int) -> None:
        self.ticks += 1
        self.last_tick = time_ns
        if self.ticks == 1:
            self.first_tick = time_ns

    def called(self, time_ns: int) -> None:
        self.calls += 1
        self.last_call = time_ns
        if self.calls == 1:
            self.first_call = time_ns

    @property
    def turns(self) -> bool:
        return self.ticks >= TICKS and self.last_tick - self.first_tick >= SPREAD_NS

    @property
    def is_called(self) -> bool:
        return self.calls >= TICKS and self.last_call - self.first_call >= SPREAD_NS


class LoopChooser:
    """Tells the loop from what it calls.

    Args:
        hooks: hook number -> whether it is of kind `loop`, in order of preference: outermost function first.
    """

    def __init__(self, hooks: Mapping[int, bool]) -> None:
        self._hooks = dict(hooks)
        self._seen = {fid: _Seen() for fid in hooks}

    def feed(self, records: Sequence[Record]) -> None:
        """Count what the candidates did."""
        for record in records:
            fid = record[3] & 0xFFFF
            seen = self._seen.get(fid)
            if seen is None:
                continue
            if not self._hooks[fid]:
                if record[2] - record[1] >= agent.MIN_TURN_NS:
                    seen.called(record[2])
                continue
            seen.starts = record[_STARTS]
            if record[_IS_CALL]:
                seen.called(record[2])
                continue
            if record[_CHOICE] != seen.choice:
                seen.choice, seen.ticks = record[_CHOICE], 0
            seen.ticked(record[2])
            seen.line = record[_LINE]

    def drop(self, fids: Iterable[int]) -> None:
        """Forget candidates whose hooks were taken out."""
        for fid in fids:
            self._seen.pop(fid, None)

    def decide(self) -> Choice | None:
        """The outermost loop that turns and was not entered anew; failing that one entered seldom; failing
        that the outermost function that is called again and again."""
        loops = [(fid, seen) for fid, seen in self._seen.items() if seen.turns]
        for most in (0.0, 1 / TURNS_PER_CALL):
            for fid, seen in loops:
                if seen.starts <= most * seen.ticks:
                    return Choice(fid, False, seen.line)
        called = (fid for fid, seen in self._seen.items() if seen.is_called)
        return next((Choice(fid, True, 0) for fid in called), None)

    def keep(self, choice: Choice) -> int:
        """Bit mask of the hooks to keep: the loop's, and those around it, which may prove it wrong."""
        order = list(self._seen)
        return sum(1 << fid for fid in order[: order.index(choice.fid) + 1])


@dataclass
class _Thread:
    """One thread that turns the loop."""

    last_end_ns: int | None = None
    lengths: deque[int] = field(default_factory=lambda: deque(maxlen=_MEDIAN_OF))
    median_ns: float | None = None

    def add(self, length_ns: int) -> None:
        self.lengths.append(length_ns)
        if len(self.lengths) >= _ENOUGH and (self.median_ns is None or len(self.lengths) % _ENOUGH == 0):
            self.median_ns = median(self.lengths)


class TickAssembler:
    """The chosen loop's records in, one batch per turn out."""

    def __init__(self, pid: int, engine: str, number: Callable[[], int] | None = None) -> None:
        self._pid, self._engine = pid, engine
        self._number = number or itertools.count().__next__
        self._threads: dict[int, _Thread] = {}
        self._choice: Choice | None = None
        self._loop = False

    def follow(self, choice: Choice, *, loop: bool) -> None:
        """Assemble the turns of `choice` from now on.

        Args:
            loop: whether its hook is of kind `loop`, whose records are turns; otherwise they are calls.
        """
        self._choice, self._loop = choice, loop
        self._threads.clear()

    def gap(self) -> None:
        """Records were lost."""
        for thread in self._threads.values():
            thread.last_end_ns = None

    def feed(self, records: Sequence[Record]) -> list[Batch]:
        """One batch per record of the loop."""
        made = []
        for record in records:
            if self._choice is None or record[3] & 0xFFFF != self._choice.fid:
                continue
            if self._loop and bool(record[_IS_CALL]) != self._choice.calls:
                continue
            made.append(self._batch(record, self._threads.setdefault(record[4], _Thread())))
        return made

    def _batch(self, record: Record, thread: _Thread) -> Batch:
        start, end = record[1], record[2]
        length, waited = end - start, 0
        usual = thread.median_ns
        cpu = record[_CPU] if self._loop else agent.MISSING
        if usual is not None and length > GAP * usual and cpu != agent.MISSING and 2 * cpu < length:
            waited = length - max(0, cpu)
        else:
            thread.add(length)
        before, thread.last_end_ns = thread.last_end_ns, end
        apart = 0 if before is None else max(0, start - before)
        # Calls have something between them in every turn; between ticks are only turns too short for a batch.
        idle = apart if self._loop or (usual is not None and apart > GAP * usual) else 0
        period = None if before is None or waited or idle > PAUSE_NS else end - before
        suspect = ""
        if waited:
            suspect = f"waited {waited / 1e9:.3g} s: idle or a slow device, a tick cannot tell"
        elif (record[3] >> 16) & agent.FLAG_RAISED:
            suspect = "raised an exception"
        return Batch(
            pid=self._pid,
            engine=self._engine,
            seq=self._number(),
            start_ns=start + waited,
            duration_ns=length - waited,
            period_ns=period,
            mode=Mode.UNKNOWN,
            origin=Origin.EXACT,
            idle_ns=idle + waited,
            suspect=suspect,
        )
