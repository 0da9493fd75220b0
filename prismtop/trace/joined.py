"""Several recordings of ours as one session on one clock, when their files are merged.

A file has one session, whose base and clock hold for everything in it, and its events lie in the order in
which the session saw them. So the recordings' events are put on the clock of the one that began first and
interleaved, and what each of them says of its probes is said together.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from prismtop.trace.lenient import ns_of
from prismtop.trace.own import (
    CAT_ALERT,
    CAT_BATCH,
    CAT_COUNTER,
    CAT_REQUEST,
    CAT_SESSION,
    CAT_STAGE,
    READING_EVENT,
)

Event: TypeAlias = dict[str, Any]
NewPid: TypeAlias = Callable[[Any], Any]
SAME_CLOCK_NS = 10**9
"""Sessions whose wall clock differs by less ran under one CLOCK_MONOTONIC: the rest is the clock's
discipline."""
_SEEN = (CAT_ALERT, CAT_COUNTER, CAT_REQUEST, CAT_SESSION)
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError)


def on_one_clock(sessions: Sequence[Event]) -> tuple[int, list[int]]:
    """The offset of the wall clock to use, and when each recording's base was by it (Unix ns).

    Wall clocks are set and disciplined: recordings under one CLOCK_MONOTONIC keep to that.
    """
    first = min(sessions, key=lambda session: int(session["base_ns"]))
    wall = int(first["wall_minus_mono_ns"])
    zeros = []
    for session in sessions:
        own = int(session["wall_minus_mono_ns"])
        zeros.append(int(session["base_ns"]) + (wall if abs(own - wall) < SAME_CLOCK_NS else own))
    return wall, zeros


def in_order(streams: Iterable[Iterable[Event]]) -> Iterator[Event]:
    """Events of several recordings in the order in which their sessions saw them."""
    keyed = (_seen(stream) for stream in streams)
    return (event for _, event in heapq.merge(*keyed, key=lambda pair: pair[0]))


def _seen(events: Iterable[Event]) -> Iterator[tuple[int, Event]]:
    """Each event with the time at which it was seen, as `Story.moments` takes it; the stages of a batch, and
    what is no noun of its own, stay behind the event before them.
    """
    latest = -(1 << 63)
    for event in events:
        at, cat = ns_of(event.get("ts")), event.get("cat")
        if at is not None and cat == CAT_BATCH:
            latest = max(latest, at + (ns_of(event.get("dur")) or 0))
        elif at is not None and (cat in _SEEN or event.get("name") == READING_EVENT):
            latest = max(latest, at)
        yield latest, event


class Joined:
    """The one session of a merged file.

    Args:
        sessions: what each recording says of its own, with the ids that its processes have now.
        base_ns, wall_ns: CLOCK_MONOTONIC of the file's time 0, and the offset of the wall clock.
        shifts: what is added to the times of each recording.
    """

    def __init__(
        self,
        sessions: Sequence[tuple[Event, NewPid]],
        base_ns: int,
        wall_ns: int,
        shifts: Sequence[int],
    ) -> None:
        self._sessions = sessions
        self._base_ns, self._wall_ns, self._shifts = base_ns, wall_ns, shifts
        self._first = min(range(len(sessions)), key=lambda n: int(sessions[n][0]["base_ns"]))
        self._bases = sorted({int(args["base_ns"]) for args, _ in sessions})
        self._states = [_state(args, new_pid) for args, new_pid in sessions]

    def args(self) -> Event:
        """Of the event that describes it."""
        made = dict(self._sessions[self._first][0])
        members = {
            (str(member["id"]), str(member["ranks"])): member
            for args, new_pid in self._sessions
            for member in (_member(member, new_pid) for member in args["members"])
        }
        return {
            **made,
            "segment": 0,
            "base_ns": self._base_ns,
            "wall_minus_mono_ns": self._wall_ns,
            "time_ns": int(made["time_ns"]) + self._shifts[self._first],
            "members": list(members.values()),
            **self._together(),
        }

    def own_args(self, number: int, cat: object, args: Event) -> Event:
        """Arguments of an event of one recording that hold times, process ids, or what else is its own."""
        try:
            return self._own_args(number, cat, dict(args))
        except _DAMAGED:
            return args

    def _own_args(self, number: int, cat: object, made: Event) -> Event:
        session, new_pid = self._sessions[number]
        if cat == CAT_ALERT:
            for name in ("opened_ns", "closed_ns", "started_ns"):
                if type(made.get(name)) is int:
                    made[name] += self._shifts[number]
            made["pid"] = new_pid(made.get("pid"))
            made["id"] = alert_id(made.get("id"), int(session["base_ns"]), self._bases)
        elif cat == CAT_STAGE and "of" in made:
            made["of"] = new_pid(made["of"])
        elif cat == CAT_BATCH:
            self._batch(made, session, new_pid)
        elif cat == CAT_SESSION and "state" in made:
            self._states[number] = _state(made, new_pid)
            made.update(self._together())
        return made

    def _batch(self, made: Event, session: Event, new_pid: NewPid) -> None:
        engine = session["engine"]
        if engine != self._sessions[self._first][0]["engine"]:
            made.setdefault("engine", engine)
        parts = made.get("breakdown")
        if isinstance(parts, dict):
            made["breakdown"] = {**parts, "pid": new_pid(parts.get("pid"))}
        if isinstance(made.get("ranks"), list):
            made["ranks"] = [[rank, new_pid(pid), ns] for rank, pid, ns in made["ranks"]]

    def _together(self) -> Event:
        return {
            name: [row for state in self._states for row in state[name]]
            for name in ("hooks", "costs", "target_states")
        }


def alert_id(own: Any, base_ns: int, bases: Sequence[int]) -> Any:
    """An alert's id among those of several recordings, which all count from one; segments of one share it."""
    return own * len(bases) + bases.index(base_ns) if type(own) is int else own


def _state(args: Mapping[str, Any], new_pid: NewPid) -> Mapping[str, list[Any]]:
    return {
        "hooks": [[hook, stage, new_pid(pid), *rest] for hook, stage, pid, *rest in args["hooks"]],
        "costs": [{**cost, "pid": new_pid(cost["pid"])} for cost in args["costs"]],
        "target_states": [[new_pid(pid), *rest] for pid, *rest in args["target_states"]],
    }


def _member(member: Event, new_pid: NewPid) -> Event:
    made = {**member, "id": [new_pid(member["id"][0]), member["id"][1]]}
    if member["parent"] is not None:
        made["parent"] = [new_pid(member["parent"][0]), member["parent"][1]]
    return made
