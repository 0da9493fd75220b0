"""Request latency from the arrival, first-token and finish events that hooks report."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prismtop.model import FirstToken, Request
from prismtop.probe import agent
from prismtop.sources.hook_code import EVENT_KINDS

MAX_REQUESTS = 65_536
MAX_WAIT_NS = 3_600 * 10**9
"""An arrival that was stamped longer ago is not believed."""
EVENT = agent.FLAG_EVENT << 16
"""In the fourth word of a record that carries request events."""
_KIND = {number: name for name, number in EVENT_KINDS.items()}


@dataclass(frozen=True)
class RequestEvent:
    """One event: kind, CLOCK_MONOTONIC ns, the engine's request id hashed, and two numbers (see `Event`)."""

    kind: str
    time_ns: int
    id: int
    a: int
    b: int


def events_of(record: tuple[int, ...]) -> Iterator[RequestEvent]:
    """Events packed in a record that carries `agent.FLAG_EVENT`: up to three of (id, a, b), their number in
    v9.
    """
    kind = _KIND.get(record[3] >> 20)
    if kind is None:
        return
    for n in range(max(0, min(3, record[14]))):
        yield RequestEvent(kind, record[2], *record[5 + 3 * n : 8 + 3 * n])


@dataclass
class _Life:
    arrived_ns: int | None = None
    prompt_tokens: int | None = None
    first_ns: int | None = None


class RequestTracker:
    """Follows requests from arrival to finish; forgets the oldest beyond `MAX_REQUESTS`.

    An event that comes again counts once: in an overlapped engine the batch after a request's last one still
    holds the request.
    """

    def __init__(self) -> None:
        self._lives: OrderedDict[int, _Life] = OrderedDict()
        self._finished: OrderedDict[int, None] = OrderedDict()

    def feed(
        self, events: Sequence[RequestEvent], wall_minus_mono_ns: int
    ) -> tuple[list[FirstToken], list[Request]]:
        """Take events in order of time; return first tokens and finished requests.

        Args:
            wall_minus_mono_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC of now, for arrivals that a frontend
                stamped: wall time may have been set since the session began.
        """
        first: list[FirstToken] = []
        finished: list[Request] = []
        for event in events:
            if event.kind == "arrival":
                self._arrive(event, wall_minus_mono_ns)
            elif event.id in self._finished:
                continue
            elif event.kind == "finish":
                finished.append(self._finish(event))
            else:
                life = self._lives.setdefault(event.id, _Life())
                if life.first_ns is None:
                    life.first_ns = event.time_ns
                    waited = None if life.arrived_ns is None else event.time_ns - life.arrived_ns
                    first.append(FirstToken(event.time_ns, waited))
        for known in (self._lives, self._finished):
            while len(known) > MAX_REQUESTS:
                known.popitem(last=False)
        return first, finished

    def _arrive(self, event: RequestEvent, wall_minus_mono_ns: int) -> None:
        arrived = event.time_ns
        if event.a > 0:
            stamped = event.a * 1000 - wall_minus_mono_ns
            if 0 <= event.time_ns - stamped < MAX_WAIT_NS:
                arrived = stamped
        self._finished.pop(event.id, None)
        self._lives[event.id] = _Life(arrived, event.b if event.b > 0 else None)

    def _finish(self, event: RequestEvent) -> Request:
        life = self._lives.pop(event.id, _Life())
        self._finished[event.id] = None
        tokens = event.a if event.a >= 0 else None
        ttft = tpot = None
        if life.arrived_ns is not None and life.first_ns is not None:
            ttft = life.first_ns - life.arrived_ns
        if life.first_ns is not None and tokens is not None and tokens > 1:
            tpot = (event.time_ns - life.first_ns) // (tokens - 1)
        return Request(event.time_ns, ttft, tpot, tokens, life.prompt_tokens)
