"""Service level objectives: attainment, goodput, the error budget, the alert when it burns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from prismtop.latency.episodes import SLO
from prismtop.model import Alert, Headroom, Interference, Request, Severity, SloStatus, SloTargets

WINDOW_S = 60.0
FAST_BURN, CALM_BURN = 10.0, 2.0
"""Burn at which an alert opens and closes: at 10 an hour uses the error budget of ten."""
LEAST_REQUESTS = 20
MS = 1e6


class _Met(NamedTuple):
    time_ns: int
    began_ns: int
    ttft: bool | None
    tpot: bool | None
    e2e: bool | None
    all: bool | None


class SloGuard:
    """The last minute of finished requests against the targets.

    Args:
        targets: in ms.
        target_share: share of requests that must meet all of them, below 1.
        ids: numbers for alerts.
        pid: the process that alerts are about.
    """

    def __init__(self, targets: SloTargets, target_share: float, ids: Iterator[int], pid: int = 0) -> None:
        self.targets = targets
        self._allowed = 1.0 - target_share
        self._ids = ids
        self._pid = pid
        self._met: deque[_Met] = deque()
        self._since_ns: int | None = None
        self._seq = 0
        self._alert: Alert | None = None
        self._changed: list[Alert] = []

    def take(self, requests: Iterable[Request], now_ns: int) -> None:
        """Take finished requests."""
        if self._since_ns is None:
            self._since_ns = now_ns
        for request in requests:
            self._met.append(_met(request, self.targets))
        edge = now_ns - int(WINDOW_S * 1e9)
        while self._met and self._met[0].time_ns < edge:
            self._met.popleft()

    def status(
        self, now_ns: int, headroom: Headroom, interference: Interference | None, seq: int = 0
    ) -> SloStatus:
        """The figures of the window as of `now_ns`; opens or closes the alert.

        Args:
            seq: the latest batch, for the alert; 0 when there was none since.
        """
        self._seq = seq or self._seq
        met = self._met
        elapsed = (now_ns - self._since_ns) / 1e9 if self._since_ns is not None else 0.0
        window = min(WINDOW_S, elapsed)
        known = [one.all for one in met if one.all is not None]
        attained = sum(known) / len(known) if known else None
        burn = None if attained is None else (1.0 - attained) / self._allowed
        self._watch(burn, len(known), attained, now_ns)
        return SloStatus(
            targets=self.targets,
            window_s=window,
            requests=len(met),
            ttft=_share(one.ttft for one in met),
            tpot=_share(one.tpot for one in met),
            e2e=_share(one.e2e for one in met),
            attainment=attained,
            goodput_per_s=sum(known) / window if known and window > 0 else None,
            budget_burn=burn,
            headroom=headroom,
            interference=interference,
        )

    def alerts(self) -> tuple[Alert, ...]:
        """Alerts that changed since the last call."""
        changed, self._changed = tuple(self._changed), []
        return changed

    def close(self, now_ns: int) -> None:
        """Close the alert, if one is open."""
        if self._alert is not None:
            self._changed.append(replace(self._alert, closed_ns=now_ns, last_seq=self._seq))
            self._alert = None

    def _watch(self, burn: float | None, requests: int, attained: float | None, now_ns: int) -> None:
        if burn is None or attained is None or burn <= CALM_BURN:
            self.close(
                now_ns
            )  # also when no request came for a minute: there is nobody left to miss a target
            return
        alert, seq = self._alert, self._seq
        if alert is None and (burn < FAST_BURN or requests < LEAST_REQUESTS):
            return
        text = (
            f"{100 * attained:.1f} % of {requests} requests met their targets: the error budget burns "
            f"{burn:.0f} times as fast as it may"
        )
        if alert is None:
            began = min(one.began_ns for one in self._met if one.all is False)
            started = max(began, self._since_ns or 0, now_ns - int(WINDOW_S * 1e9))
            alert = Alert(
                next(self._ids), SLO, Severity.CRITICAL, now_ns, started, self._pid, seq, seq, 0, 0, text
            )
        self._alert = replace(alert, last_seq=seq, text=text)
        self._changed.append(self._alert)


def _met(request: Request, targets: SloTargets) -> _Met:
    ttft = _holds(request.ttft_ns, targets.ttft_ms)
    # A request of one token has no time per output token, and met any target for it.
    one_token = request.output_tokens is not None and request.output_tokens <= 1
    tpot = True if one_token and targets.tpot_ms is not None else _holds(request.tpot_ns, targets.tpot_ms)
    e2e = _holds(end_to_end_ns(request), targets.e2e_ms)
    asked = [
        value
        for value, target in ((ttft, targets.ttft_ms), (tpot, targets.tpot_ms), (e2e, targets.e2e_ms))
        if target is not None
    ]
    if any(value is False for value in asked):
        every: bool | None = False
    else:
        every = None if any(value is None for value in asked) else True
    took = end_to_end_ns(request) or request.ttft_ns or 0
    return _Met(request.finished_ns, request.finished_ns - took, ttft, tpot, e2e, every)


def end_to_end_ns(request: Request) -> int | None:
    """From arrival to the last token; None when a part was not seen."""
    if request.ttft_ns is None or request.output_tokens is None:
        return None
    if request.output_tokens <= 1:
        return request.ttft_ns
    if request.tpot_ns is None:
        return None
    return request.ttft_ns + request.tpot_ns * (request.output_tokens - 1)


def _holds(value_ns: int | None, target_ms: float | None) -> bool | None:
    return None if value_ns is None or target_ms is None else value_ns / MS <= target_ms


def _share(values: Iterable[bool | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
