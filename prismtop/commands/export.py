"""`prismtop export`: counters, latencies and alerts for Prometheus and OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prismtop.commands.attaching import open_session
from prismtop.commands.choose import describe, only_group, profiles_in_use
from prismtop.commands.context import Context, closing_session
from prismtop.commands.watch import Ticking
from prismtop.errors import EXIT_OK
from prismtop.export import jsonl
from prismtop.export.metrics import Totals
from prismtop.model import AttachState, Lost

_ENDED = (AttachState.GONE, AttachState.DETACHED)


@dataclass(frozen=True)
class ExportOptions:
    """Where to. Without either, Prometheus on its default address.

    Attributes:
        prometheus: address to listen on; None without.
        otlp: URL of a collector; None without.
        interval_s: seconds between two pushes by OTLP.
        duration_s: stop after so long; None runs until the engine ends or a signal comes.
    """

    prometheus: str | None = None
    otlp: str | None = None
    interval_s: float = 10.0
    duration_s: float | None = None


def run(context: Context, pids: Sequence[int], options: ExportOptions) -> int:
    """Export what is seen of the engine that `pids` name, or of the only one that runs.

    Raises:
        UsageError, UnavailableError: an address that is none or is taken; the OpenTelemetry SDK is missing.
    """
    totals = Totals()
    with _exporters(context, totals, options) as where:
        profiles = profiles_in_use()
        group = only_group(context, pids, profiles)
        session = open_session(context, group, profiles, figures=False, counters=True, sinks=(totals,))
        with closing_session(context, session):
            if context.json:
                context.write(jsonl.document("export", dict(where)))
                context.out.flush()
            for kind, url in where.items():
                context.report.say(f"{describe(group)}: {kind} {url}")
            _follow(context, session, options.duration_s)
    return EXIT_OK


def listing(context: Context) -> int:
    """Every counter: name, unit, source, how often it is read, meaning."""
    from prismtop.counters.catalogue import CATALOGUE
    from prismtop.counters.catalogue import listing as rows

    if context.json:
        counters = [
            {
                "name": spec.name,
                "unit": spec.unit,
                "source": spec.source,
                "period_s": spec.period_s,
                "signal": spec.signal,
                "labels": list(spec.labels),
                "meaning": spec.meaning,
            }
            for spec in CATALOGUE.values()
        ]
        context.write(jsonl.document("counters", {"counters": counters}))
        return EXIT_OK
    for name, unit, source, period, meaning in rows():
        context.write(f"{name:<38} {unit:<12} {source:<9} {period:<4} {meaning}")
    return EXIT_OK


@contextmanager
def _exporters(context: Context, totals: Totals, options: ExportOptions) -> Iterator[dict[str, str]]:
    """Open the ways out before anything is attached to: a port that is taken must not cost the target."""
    from prismtop.export.otlp import Pushes
    from prismtop.export.prometheus import DEFAULT_ADDRESS, Scrapes, parse_address

    address = options.prometheus
    if address is None and options.otlp is None:
        address = DEFAULT_ADDRESS
    opened: list[Scrapes | Pushes] = []
    where: dict[str, str] = {}
    try:
        if address is not None:
            scrapes = Scrapes(totals, *parse_address(address))
            opened.append(scrapes)
            where["prometheus"] = scrapes.url
        if options.otlp is not None:
            pushes = Pushes(totals, options.otlp, options.interval_s)
            opened.append(pushes)
            where["otlp"] = pushes.url
        yield where
    finally:
        with context.signals.shielded():
            for one in opened:
                one.close()
                if isinstance(one, Pushes) and one.failed:
                    total = one.failed + one.sent
                    context.report.say(f"{one.failed} of {total} pushes did not reach {one.url}")


def _follow(context: Context, session: Ticking, duration_s: float | None) -> None:
    """Tick until the time is over, the target ended, or a signal came. Nothing is printed but warnings."""
    period_s = 1 / context.settings.tick_hz
    end = None if duration_s is None else time.monotonic() + duration_s
    said: set[str] = set()
    lost = Lost()
    with context.signals.deferred():
        while True:
            started = time.monotonic()
            frame = session.tick()
            for text in frame.warnings:
                if text not in said:
                    said.add(text)
                    context.report.say(text)
            if frame.lost != lost:
                lost = frame.lost
                context.report.say(f"lost {lost.records} records so far")
            context.signals.check()
            now = time.monotonic()
            if frame.state in _ENDED:
                context.report.say("the engine ended, or the probe left it")
                return
            if end is not None and now >= end:
                return
            time.sleep(max(0.0, started + period_s - now))
            context.signals.check()
