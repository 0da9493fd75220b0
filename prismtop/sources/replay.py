"""A trace as a source of batches: the same ticks as from a live engine, on a virtual clock.

The screen's thread only notes what it wants (`ReplayControls`); the thread that polls applies it.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prismtop.model import (
    Alert,
    AttachState,
    Batch,
    Counter,
    EngineMetrics,
    FirstToken,
    HookStatus,
    Lost,
    ProbeCost,
    ProcessId,
    Replay,
    Request,
)
from prismtop.sources.replay_controls import Controls
from prismtop.sources.tick import SourceTick
from prismtop.trace.load import Trace
from prismtop.trace.own import LostSoFar, Said, SessionInfo, StateChange
from prismtop.trace.story import Moment

SPEEDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, math.inf)
LEAD_NS = 500_000_000
"""How far before an anomaly one lands."""
PREROLL_NS = 10 * 10**9
"""What is shown at most of the time before a place that one jumps to."""
PER_POLL = 4000
"""Moments taken in one poll at most: beyond, a replay falls behind its clock instead of stopping the
screen."""
FRAME_BATCHES = 64
"""Batches in a tick as recorded at most: a live session sees no more in one poll."""
_NEVER = 1 << 63
_NO_METRICS = EngineMetrics(reason="not in a trace")
_ORDER = {StateChange: 0, LostSoFar: 0, Said: 0, Batch: 1, FirstToken: 2, Request: 3, Counter: 4, Alert: 5}


@dataclass
class _Taken:
    """What one tick will hold."""

    batches: list[Batch] = field(default_factory=list)
    first: list[FirstToken] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    time_ns: int | None = None


class ReplaySource:
    """Plays a trace. One owner polls it; its controls may be used from any thread.

    Args:
        trace: what is played.
        speed: trace seconds a second; infinity is as fast as can be.
        from_ns: where it starts; by default at the start.
        rank, pids: only batches of this rank, of these processes.
        as_recorded: one tick per frame of the recorded session, at infinite speed: what a printer of every
            line needs. Otherwise a tick is whatever the clock has passed.
        anomalies: gives the times of anomalies; asked once, when somebody first looks for one.
        now: the real clock, ns.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        speed: float = 1.0,
        from_ns: int | None = None,
        rank: int | None = None,
        pids: Sequence[int] = (),
        as_recorded: bool = False,
        anomalies: Callable[[], Sequence[int]] = tuple,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.group = trace.group
        self.clock = trace.clock
        self.controls = Controls()
        self._trace = trace
        self._speed = speed
        self._rank = rank
        self._pids = frozenset(pids)
        self._as_recorded = as_recorded
        self._find_anomalies = anomalies
        self._anomalies: list[int] | None = None
        self._now = now
        self._real_ns = now()
        self._playing = True
        self._loop = False
        self._a_ns: int | None = None
        self._b_ns: int | None = None
        self._ends: deque[int] = deque(maxlen=2048)
        self._steps = 0
        self._jumped = False
        self._again_ns: int | None = None
        # The segments of one recording all tell of the same session.
        self._sessions: list[SessionInfo] = list(
            {story.session.base_ns: story.session for story in reversed(trace.stories)}.values()
        )[::-1]
        self._frame_ns: int | None = trace.session.time_ns if from_ns is None else None
        self._state: AttachState = trace.session.state
        self._note = trace.session.note
        self._hooks: tuple[HookStatus, ...] = ()
        self._costs: tuple[ProbeCost, ...] = ()
        self._lost: dict[int, Lost] = {}
        self._target_states: dict[ProcessId, str] = {}
        self._moments: Iterator[Moment] = iter(())
        self._waiting: Moment | None = None
        self.ended = False
        """Whether everything was played and nothing more will come by itself."""
        self._position_ns = trace.start_ns if from_ns is None else from_ns
        self._open(from_ns)

    def poll(self) -> SourceTick:
        """What the virtual clock has passed since the last poll."""
        taken = _Taken()
        now = self._now()
        elapsed, self._real_ns = now - self._real_ns, now
        if self._again_ns is not None:
            self._seek(self._again_ns)
        for name, value in self.controls.take():
            getattr(self, f"_do_{name}")(*value)
        if self._jumped:
            self._take(taken, self._position_ns, PER_POLL)
        if self._steps:
            self._step_on(taken)
        elif self._playing and not self.ended:
            self._play(taken, elapsed)
        if taken.batches:
            self._ends.extend(batch.end_ns for batch in taken.batches)
        jumped, self._jumped = self._jumped, False
        return self._tick(taken, jumped)

    def close(self) -> tuple[str, ...]:
        """Nothing is held that has to be given back."""
        self._moments = iter(())
        return ()

    def _tick(self, taken: _Taken, jumped: bool) -> SourceTick:
        trace = self._trace
        return SourceTick(
            time_ns=self._position_ns if taken.time_ns is None or not self._as_recorded else taken.time_ns,
            state=self._state,
            note=self._note,
            batches=tuple(taken.batches),
            first_tokens=tuple(taken.first),
            requests=tuple(taken.requests),
            hooks=self._hooks,
            costs=self._costs,
            lost=_sum(self._lost.values()),
            metrics=_NO_METRICS,
            warnings=tuple(taken.warnings),
            target_states=self._target_states,
            counters=tuple(taken.counters),
            alerts=tuple(taken.alerts),
            jumped=jumped,
            replay=Replay(
                path=str(trace.path),
                position_ns=min(self._position_ns, trace.end_ns),
                start_ns=trace.start_ns,
                end_ns=trace.end_ns,
                speed=self._speed if self._playing and not self.ended else 0.0,
                loop=self._loop,
                a_ns=self._a_ns,
                b_ns=self._b_ns,
            ),
        )

    # ------------------------------------------------------------------------------------------ the clock

    def _play(self, taken: _Taken, elapsed_ns: int) -> None:
        end = self._trace.end_ns
        until = self._b_ns if self._a_ns is not None and self._b_ns is not None else end
        if self._as_recorded and math.isinf(self._speed):
            self._take_frame(taken)
            return
        if math.isinf(self._speed):
            target = until
        else:
            target = min(until, self._position_ns + round(elapsed_ns * self._speed))
        if self._take(taken, target if target < end else _NEVER, PER_POLL):
            self._position_ns = max(self._position_ns, target)
        if self._a_ns is not None and self._b_ns is not None and self._position_ns >= self._b_ns:
            self._again_ns = self._a_ns
        elif self._position_ns >= end and self._waiting is None:
            if self._loop:
                self._again_ns = self._trace.start_ns
            else:
                self.ended = True

    def _take(self, taken: _Taken, target_ns: int, limit: int) -> bool:
        """Take what is due up to `target_ns`; whether all of it was."""
        for _ in range(limit):
            if self._waiting is None or self._waiting[0] > target_ns:
                return True
            self._position_ns = max(self._position_ns, self._waiting[0])
            self._put(taken, self._waiting)
            self._waiting = next(self._moments, None)
        return self._waiting is None or self._waiting[0] > target_ns

    def _take_frame(self, taken: _Taken) -> None:
        """One frame of the recorded session: within one, kinds of events come in a fixed order."""
        last = -1
        taken.time_ns, self._frame_ns = self._frame_ns, None
        while self._waiting is not None:
            time_ns, noun = self._waiting
            order = _ORDER.get(type(noun))
            if order is not None:
                late = taken.time_ns is not None and time_ns > taken.time_ns
                if order < last or late or len(taken.batches) >= FRAME_BATCHES:
                    break
                last = order
            self._position_ns = max(self._position_ns, time_ns)
            self._put(taken, self._waiting)
            if isinstance(noun, (StateChange, LostSoFar, Said)):
                taken.time_ns = noun.time_ns
            self._waiting = next(self._moments, None)
        self.ended = self._waiting is None

    def _step_on(self, taken: _Taken) -> None:
        for _ in range(PER_POLL):
            if self._waiting is None:
                self._steps = 0
                return
            before = len(taken.batches)
            self._position_ns = max(self._position_ns, self._waiting[0])
            self._put(taken, self._waiting)
            self._waiting = next(self._moments, None)
            self._steps -= len(taken.batches) - before
            if self._steps <= 0:
                self._steps = 0
                return

    def _put(self, taken: _Taken, moment: Moment) -> None:
        noun = moment[1]
        if isinstance(noun, Batch):
            if self._rank is not None and noun.rank != self._rank:
                return
            if not self._pids or noun.pid in self._pids:
                taken.batches.append(noun)
        elif isinstance(noun, Counter):
            taken.counters.append(noun)
        elif isinstance(noun, FirstToken):
            taken.first.append(noun)
        elif isinstance(noun, Request):
            taken.requests.append(noun)
        elif isinstance(noun, Alert):
            taken.alerts.append(noun)
        elif isinstance(noun, Said):
            taken.warnings.append(noun.text)
        elif isinstance(noun, StateChange):
            self._change(noun)
        elif isinstance(noun, LostSoFar):
            self._lost[0] = noun.lost

    def _change(self, change: StateChange) -> None:
        self._state, self._note = change.state, change.note
        if len(self._sessions) == 1:
            self._hooks, self._costs = change.hooks, change.costs
            self._target_states = dict(change.target_states)
            return
        pids = {hook.pid for hook in change.hooks} | {cost.pid for cost in change.costs}
        self._hooks = tuple(hook for hook in self._hooks if hook.pid not in pids) + change.hooks
        self._costs = tuple(cost for cost in self._costs if cost.pid not in pids) + change.costs
        self._target_states = {**self._target_states, **change.target_states}

    # ---------------------------------------------------------------------------------------- going places

    def _open(self, from_ns: int | None) -> None:
        """Stand before `from_ns`, with everything as it was then."""
        sessions = self._sessions
        self._state, self._note = sessions[0].state, sessions[0].note
        self._hooks = tuple(dict.fromkeys(hook for session in sessions for hook in session.hooks))
        self._costs = tuple(dict.fromkeys(cost for session in sessions for cost in session.costs))
        self._target_states = {k: v for session in sessions for k, v in session.target_states.items()}
        self._lost = {0: sessions[0].lost}
        if from_ns is not None:
            for story in self._trace.stories:
                for noun in story.state_before(from_ns):
                    self._put(_Taken(), (from_ns, noun))
        self._moments = self._trace.moments(from_ns)
        self._waiting = next(self._moments, None)
        self.ended = False

    def _seek(self, time_ns: int) -> None:
        time_ns = max(self._trace.start_ns, min(self._trace.end_ns, time_ns))
        self._frame_ns = None
        self._open(self._trace.shortly_before(time_ns, PREROLL_NS))
        self._ends.clear()
        self._position_ns = time_ns
        self._steps = 0
        self._again_ns = None
        self._jumped = True

    def _do_toggle(self) -> None:
        if self.ended:
            self._seek(self._trace.start_ns)
            self._playing = True
        else:
            self._playing = not self._playing

    def _do_step(self, batches: int) -> None:
        self._playing = False
        if batches >= 0:
            self._steps += batches
        elif self._ends:
            back = -1 + batches  # the batch before the one that is taken back
            ends = sorted(self._ends)
            self._seek(ends[back] if -back <= len(ends) else self._trace.start_ns)

    def _do_faster(self) -> None:
        self._speed = SPEEDS[min(bisect_right(SPEEDS, self._speed), len(SPEEDS) - 1)]

    def _do_slower(self) -> None:
        self._speed = SPEEDS[max(0, bisect_left(SPEEDS, self._speed) - 1)]

    def _do_seek_ns(self, time_ns: int) -> None:
        self._seek(time_ns)

    def _do_seek_fraction(self, fraction: float) -> None:
        if math.isfinite(fraction):
            start, end = self._trace.start_ns, self._trace.end_ns
            self._seek(start + round((end - start) * min(1.0, max(0.0, fraction))))

    def _do_skip_s(self, seconds: float) -> None:
        if math.isfinite(seconds):
            self._seek(self._position_ns + round(seconds * 1e9))

    def _do_next_anomaly(self) -> None:
        times = self._anomaly_times()
        at = bisect_right(times, self._position_ns + LEAD_NS)
        if at < len(times):
            self._seek(times[at] - LEAD_NS)

    def _do_previous_anomaly(self) -> None:
        times = self._anomaly_times()
        at = bisect_left(times, self._position_ns + LEAD_NS) - 1
        if at >= 0:
            self._seek(times[at] - LEAD_NS)

    def _anomaly_times(self) -> list[int]:
        if self._anomalies is None:
            self._anomalies = sorted(set(self._find_anomalies()))
        return self._anomalies

    def _do_mark_a(self) -> None:
        self._a_ns = self._position_ns
        if self._b_ns is not None and self._b_ns <= self._a_ns:
            self._b_ns = None

    def _do_mark_b(self) -> None:
        self._b_ns = self._position_ns
        if self._a_ns is not None and self._b_ns <= self._a_ns:
            self._a_ns = None

    def _do_clear_marks(self) -> None:
        self._a_ns = self._b_ns = None

    def _do_toggle_loop(self) -> None:
        self._loop = not self._loop


def _sum(totals: Any) -> Lost:
    made = Lost()
    for lost in totals:
        made = Lost(made.records + lost.records, made.torn + lost.torn, made.batches + lost.batches)
    return made
