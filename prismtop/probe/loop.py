"""Ticks of a loop of an engine that no profile knows."""

from __future__ import annotations

import time
from _thread import get_ident
from typing import Any

from prismtop.probe.layout import *

MIN_TURN_NS = 100_000  # a turn of an unknown loop that used less CPU ran no batch: it polls
HOT_TURN_NS, HOT_TURNS = 5_000, 4096  # a loop that turns so fast, so often, only computes: it is switched off
SETTLED_NS = 10_000_000_000  # a loop that ticked for so long is the one; a wider one around it starts it anew


class Loop:
    """Ticks of a loop that was already turning when the probe came, from JUMP events of its code.

    Which jump closes the loop is learned from the jumps: of nested loops it is the outermost that turns, and
    the jumps of the others are switched off one by one. Calls of the function are recorded too: one that is
    called anew is not the running loop. A record has the thread's CPU time, the calls so far, whether it is
    a call, the line of the loop, and how often another loop was chosen, in v1 to v5.
    """

    def __init__(self, agent: Any, fid: Any, code: Any) -> None:
        self.agent, self.fid, self.code = agent, fid, code
        self.low = self.high = self.line = self.choice = self.since = 0
        self.starts = self.turned = self.used = 0
        self.heads: tuple[int, ...] = ()
        self.ticks: dict[int, Any] = {}
        self.calls: dict[int, Any] = {}

    def jump(self, offset: Any, destination: Any) -> Any:
        try:
            now = time.monotonic_ns()
            if offset <= self.high and destination in self.heads or self.learn(offset, destination, now):
                if self.turn(self.ticks, now, 0):
                    return None
                self.heads, self.high = (), 0
        except Exception as error:
            self.agent.fault(error)
            return None
        return self.agent.mon.DISABLE

    def start(self) -> Any:
        try:
            self.starts += 1
            return None if self.turn(self.calls, time.monotonic_ns(), 1) else self.agent.mon.DISABLE
        except Exception as error:
            self.agent.fault(error)

    def learn(self, offset: Any, destination: Any, now: Any) -> Any:
        """Whether a jump that was not seen before belongs to the loop. Two ranges of one loop (`continue`)
        share their head or overlap in part; those of different loops are nested or apart."""
        if destination not in self.heads:
            inside = self.low <= destination and offset <= self.high
            around = destination <= self.low and self.high <= offset
            apart = offset < self.low or self.high < destination
            if self.heads and (inside or around and now - self.since > SETTLED_NS):
                return False
            if around or apart or not self.heads:
                self.heads, self.low, self.high, self.since = (), destination, offset, now
                self.choice += 1
                self.line = next((x for a, b, x in self.code.co_lines() if a <= destination < b and x), 0)
                self.ticks.clear()
            self.heads += (destination,)
        self.low, self.high = min(self.low, destination), max(self.high, offset)
        return True

    def turn(self, turns: Any, now: Any, call: Any) -> Any:
        """One tick or call on this thread; False when so many came so fast that they can be no batches."""
        ag = self.agent
        if ag.state != RUNNING:
            return True
        thread, cpu = get_ident(), time.thread_time_ns()
        before, spent = turns.get(thread, (now, cpu))
        turns[thread] = now, cpu
        busy = cpu - spent
        self.turned += 1
        self.used += busy
        if busy >= MIN_TURN_NS:
            values = (MISSING, busy, self.starts, call, self.line, self.choice)
            ag.write(before, now, self.fid, values + (MISSING,) * 5)
            if ag.odd:
                ag.spent(self.fid, time.monotonic_ns() - now)
        ag.look(now)
        if self.turned < HOT_TURNS:
            return True
        mean, self.turned, self.used = self.used // self.turned, 0, 0
        return mean >= HOT_TURN_NS
