"""From rules that fire on single batches to alerts: episodes that open, go on and close."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from prismtop.latency.detector import DRIFT, SHIFT, SPIKE
from prismtop.model import Alert, Batch, Severity

STALL, THROUGHPUT, SLO = "stall", "throughput", "slo"
HOLD_NS = 5 * 10**9
"""Time without a firing rule after which an episode closes; alarms closer than that are one episode."""
LONGEST_HOLD_NS = 120 * 10**9
CROWD = 6
"""Episodes within `CROWD_NS` from which on the hold doubles with each: a storm becomes one long episode.
Grave ones are told each time they come: they neither count nor wait.
"""
CROWD_NS = 600 * 10**9
UPDATE_NS = 10**9
CRITICAL_RATIO = 0.5
GRAVE_SHARE = 0.1
"""Share of the time from an episode's first to its last batch that is lost in a grave one: hiccups that come
again and again, each of them large, cost less.
"""
CRITICAL_STALL_NS = 10**9
FADED = 1 / 3
"""Share of what is typical for a grave episode below which a batch does not keep it open."""
ANOTHER = 5.0
"""Times what is typical for an episode beyond which (and grave) what comes is another, worse one."""
_LATEST = 5
_RATIOS = 512
_RANK = {SPIKE: 0, STALL: 1, THROUGHPUT: 2, DRIFT: 3, SHIFT: 4}


@dataclass(frozen=True)
class Alarm:
    """A rule fired on a batch.

    Attributes:
        kind: of the alert that it makes.
        batch: that batch.
        excess_ns: time beyond the expected.
        expected_ns: what was expected.
        first_seq, first_ns: where the detector places the first batch of what it found.
        earlier: excess and count of the batches from there to this one, this one excluded.
    """

    kind: str
    batch: Batch
    excess_ns: int
    expected_ns: int
    first_seq: int
    first_ns: int
    earlier: tuple[int, int] = (0, 0)


@dataclass
class _Open:
    id: int
    kind: str
    alarm: Alarm
    opened_ns: int
    last_ns: int
    last_seq: int
    batches: int
    excess_ns: int
    expected_ns: int
    hold_ns: int
    worst_ns: int
    told_ns: int
    modes: set[str] = field(default_factory=set)
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_RATIOS))
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))
    typical: float = 0.0


class Episodes:
    """The episodes of one engine process; at most one is open.

    Args:
        ids: numbers for alerts, shared by all processes of a session.
    """

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self._open: _Open | None = None
        self._recent: deque[int] = deque(maxlen=16)
        self._changed: list[Alert] = []

    @property
    def is_open(self) -> bool:
        """Whether an episode is under way."""
        return self._open is not None

    def alarm(self, alarm: Alarm) -> None:
        """A rule fired: open an episode, or go on with the one that is open."""
        batch, episode = alarm.batch, self._open
        if episode is not None and _another(episode, batch.end_ns):
            self.close()
            episode = None
        fresh = episode is None
        if episode is None:
            episode = self._opened(alarm)
        else:
            if _RANK[alarm.kind] > _RANK[episode.kind]:
                episode.kind = alarm.kind
        self._count(episode, batch, alarm.excess_ns, alarm.expected_ns)
        if fresh or batch.end_ns - episode.told_ns >= UPDATE_NS:
            episode.told_ns = batch.end_ns
            self._changed.append(_alert(episode, None))

    def go_on(self, batch: Batch, excess_ns: int, expected_ns: int) -> None:
        """A batch of the open episode on which no rule fired: it counts, and opens nothing."""
        if self._open is not None:
            self._count(self._open, batch, excess_ns, expected_ns)

    @staticmethod
    def _count(episode: _Open, batch: Batch, excess_ns: int, expected_ns: int) -> None:
        ratio = excess_ns / max(expected_ns, 1)
        episode.latest.append(ratio)
        if _grave(episode) and ratio < FADED * episode.typical:
            return  # over; what is left of it may be an episode of its own
        episode.batches += 1
        episode.excess_ns += excess_ns
        episode.expected_ns += expected_ns
        episode.last_ns = max(episode.last_ns, batch.end_ns)
        episode.last_seq = batch.seq
        episode.worst_ns = max(episode.worst_ns, excess_ns)
        episode.modes.add(batch.mode.value)
        episode.ratios.append(ratio)
        if episode.batches % _LATEST == 0:
            episode.typical = _middle(episode.ratios)

    def pass_time(self, now_ns: int) -> None:
        """Close the episode if nothing has fired for long enough."""
        episode = self._open
        if episode is None or now_ns - episode.last_ns < HOLD_NS:
            return
        if now_ns - episode.last_ns >= episode.hold_ns or _grave(episode):
            self.close()

    def close(self, remark: str = "", only: str = "") -> None:
        """Close the episode that is open (`only`: if it is of that kind), with a remark at the end of its
        sentence.
        """
        episode = self._open
        if episode is not None and only in ("", episode.kind):
            self._changed.append(_alert(episode, episode.last_ns, remark))
            if not _grave(episode):
                self._recent.append(episode.opened_ns)
            self._open = None

    def take(self) -> tuple[Alert, ...]:
        """Alerts that changed since the last call, each once, as it is now."""
        if not self._changed:
            return ()
        latest = {alert.id: alert for alert in self._changed}
        self._changed.clear()
        return tuple(latest.values())

    def _opened(self, alarm: Alarm) -> _Open:
        now = alarm.batch.end_ns
        crowd = sum(1 for opened in self._recent if now - opened < CROWD_NS)
        excess, count = alarm.earlier
        hold = min(LONGEST_HOLD_NS, HOLD_NS << max(0, crowd - CROWD + 1))
        self._open = _Open(
            id=next(self._ids),
            kind=alarm.kind,
            alarm=alarm,
            opened_ns=now,
            last_ns=now,
            last_seq=alarm.batch.seq,
            batches=count,
            excess_ns=excess,
            expected_ns=alarm.expected_ns * count,
            hold_ns=hold,
            worst_ns=alarm.excess_ns,
            told_ns=now,
        )
        return self._open


def _critical(episode: _Open) -> bool:
    """Whether it took half as long again as expected, or one batch was a second late."""
    heavy = episode.batches >= 5 and episode.excess_ns > CRITICAL_RATIO * episode.expected_ns
    return heavy or (episode.kind == STALL and episode.worst_ns >= CRITICAL_STALL_NS)


def _middle(values: deque[float]) -> float:
    return sorted(values)[len(values) // 2]


def _another(episode: _Open, now_ns: int) -> bool:
    """Whether the latest batches are so much worse than the others that something else has begun. What gets
    worse in its first seconds is one thing.
    """
    young = now_ns - episode.alarm.first_ns < HOLD_NS
    if young or episode.batches < 4 * _LATEST or len(episode.latest) < _LATEST:
        return False
    return _middle(episode.latest) > max(1.0, ANOTHER * episode.typical)


def _grave(episode: _Open) -> bool:
    length = episode.last_ns - episode.alarm.first_ns
    return _critical(episode) and episode.excess_ns >= GRAVE_SHARE * length


def _alert(episode: _Open, closed_ns: int | None, remark: str = "") -> Alert:
    ratio = _middle(episode.ratios) if episode.ratios else 0.0
    between = episode.kind in (STALL, THROUGHPUT)
    return Alert(
        id=episode.id,
        kind=episode.kind,
        severity=Severity.CRITICAL if _critical(episode) else Severity.WARNING,
        opened_ns=episode.opened_ns,
        started_ns=episode.alarm.first_ns,
        pid=episode.alarm.batch.pid,
        first_seq=episode.alarm.first_seq,
        last_seq=episode.last_seq,
        batches=episode.batches,
        excess_ns=episode.excess_ns,
        text=_text(episode, ratio) + (f"; {remark}" if remark else ""),
        closed_ns=closed_ns,
        excess_pct=None if between else round(100 * ratio, 1),
    )


def _text(episode: _Open, ratio: float) -> str:
    count = "1 batch" if episode.batches == 1 else f"{episode.batches} batches"
    if episode.kind == STALL:
        return f"no batch for {episode.worst_ns / 1e6:.0f} ms longer than usual while requests waited"
    if episode.kind == THROUGHPUT:
        return f"{100 * ratio:.0f} % of step time lost before {count}, steps themselves as expected"
    modes = "/".join(sorted(episode.modes))
    drift = " (drifting)" if episode.kind == DRIFT else ""
    return f"{modes} {100 * ratio:+.0f} % for {count}{drift}"
