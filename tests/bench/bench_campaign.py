"""What would be found in a recorded campaign by the detector and the diagnosis as they are now.

    python tests/bench/bench_campaign.py FILE... [--sensitivity NAME] [--no-table]

Method: `prismtop anomaly campaign -o FILE.json.gz` keeps the batches, the readings of counters and the ground
truth, controls included. Here they go through the product's own judge and diagnosis in ticks of 50 ms, as in
a live session, and are scored by the product's own `anomaly.episodes`; the effect of each fault is measured
again. What differs from the live run: trees are fitted inline, and the time that answers take costs nothing.
Prints the table of each file and the sum of all; asserts nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.anomaly.campaign import SETTLE_NS, Result  # noqa: E402
from prismtop.anomaly.catalogue import scenario  # noqa: E402
from prismtop.anomaly.effect import Measure  # noqa: E402
from prismtop.anomaly.episodes import match, score  # noqa: E402
from prismtop.anomaly.labels import Label  # noqa: E402
from prismtop.anomaly.machine_speed import COUNTER  # noqa: E402
from prismtop.commands.campaign_report import table  # noqa: E402
from prismtop.diagnosis.live import LiveDiagnoser  # noqa: E402
from prismtop.latency.judge import LatencyJudge  # noqa: E402
from prismtop.model import Alert, AttachState, Batch, Replay  # noqa: E402
from prismtop.session import Session  # noqa: E402
from prismtop.settings import Settings  # noqa: E402
from prismtop.sources.tick import SourceTick  # noqa: E402
from prismtop.trace.load import Trace, load  # noqa: E402
from prismtop.trace.own import GroundTruth  # noqa: E402

TICK_NS = 50_000_000


class Recorded:
    """A source that hands out what a trace holds, tick by tick, as fast as it is asked."""

    def __init__(self, trace: Trace) -> None:
        self.group, self.clock = trace.group, trace.clock
        self._batches = [replace(batch, prediction=None) for batch in trace.batches()]
        self._counters = sorted(trace.counters(), key=lambda reading: reading.time_ns)
        self._ends = [batch.end_ns for batch in self._batches]
        self._times = [reading.time_ns for reading in self._counters]
        self._b = self._c = 0
        self.now_ns = trace.start_ns
        self.end_ns = trace.end_ns
        self._replay = Replay(path="", position_ns=self.now_ns, start_ns=trace.start_ns, end_ns=trace.end_ns)

    def poll(self) -> SourceTick:
        self.now_ns += TICK_NS
        b, c = bisect_right(self._ends, self.now_ns), bisect_right(self._times, self.now_ns)
        made = SourceTick(
            time_ns=self.now_ns,
            state=AttachState.LIVE,
            batches=tuple(self._batches[self._b : b]),
            counters=tuple(self._counters[self._c : c]),
            replay=self._replay,
        )
        self._b, self._c = b, c
        return made

    def close(self) -> tuple[str, ...]:
        return ()


def labels_of(trace: Trace) -> list[Label]:
    """Every injection; causes are those that the catalogue has now."""
    made = []
    for story in trace.stories:
        for _, noun in story.marks():
            if isinstance(noun, GroundTruth):
                said: Any = noun.args
                end = noun.start_ns + noun.duration_ns
                made.append(
                    Label(
                        scenario=noun.scenario,
                        kind=said["kind"],
                        pid=noun.pid,
                        intensity=said["intensity"],
                        seed=said["seed"],
                        ramp_s=said["ramp_s"],
                        start_ns=noun.start_ns,
                        end_ns=end,
                        planned_end_ns=end,
                        rollback_ok=said["rollback"] == "ok",
                        causes=scenario(noun.scenario).causes,
                    )
                )
    return sorted(made, key=lambda label: label.start_ns)


def judged(trace: Trace, sensitivity: str) -> tuple[list[Batch], tuple[Alert, ...]]:
    """The batches, and the alerts with their causes."""
    source = Recorded(trace)
    judge = LatencyJudge(Settings(sensitivity=sensitivity), trace.group, inline=True)
    session = Session(source, judge=judge, diagnoser=LiveDiagnoser(), figures=False)
    batches: list[Batch] = []
    alerts: dict[int, Alert] = {}
    while source.now_ns < source.end_ns:
        frame = session.tick()
        batches += frame.new_batches
        alerts.update({alert.id: alert for alert in frame.changed_alerts})
    return batches, tuple(alerts.values())


def rerun(path: Path, sensitivity: str, shown: bool) -> Result:
    trace = load([path])
    labels = labels_of(trace)
    batches, alerts = judged(trace, sensitivity)
    first = labels[0].start_ns - 5 * 10**9 if labels else trace.start_ns

    def disturbed(batch: Batch) -> bool:
        return any(
            batch.start_ns < label.end_ns + SETTLE_NS and batch.end_ns > label.start_ns for label in labels
        )

    quiet = [batch for batch in batches if batch.start_ns >= first and not disturbed(batch)]
    effects = Measure(batches, quiet)
    labels = [replace(label, effect=effects.of(label.start_ns, label.end_ns)) for label in labels]
    episodes = match(labels, alerts, [batch.end_ns for batch in batches])
    speeds = sorted(
        (reading.time_ns, reading.value)
        for reading in trace.counters()
        if reading.name == COUNTER and reading.value is not None
    )
    figures = score(episodes, alerts, first, trace.end_ns, speeds=speeds)
    result = Result(episodes, figures, tuple(batches), alerts, (), (), True)
    if shown:
        print(f"\n{path.name}")
        for line in table(result, (), len(labels)):
            print(line)
        print_alerts(result, first)
    return result


def print_alerts(result: Result, first_ns: int) -> None:
    """Every alert with the injection that it belongs to."""
    owners = {alert.id: episode.label.scenario for episode in result.episodes for alert in episode.alerts}
    for alert in sorted(result.alerts, key=lambda alert: alert.opened_ns):
        at = (alert.opened_ns - first_ns) / 1e9
        length = ((alert.closed_ns or alert.opened_ns) - alert.opened_ns) / 1e9
        causes = " ".join(f"{cause.id}:{cause.score:.2f}" for cause in alert.causes[:4])
        owner = owners.get(alert.id, "FALSE")
        print(f"  {at:7.1f} s +{length:5.1f}  {owner:24s} {alert.text:50s} {causes}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--sensitivity", default="normal")
    parser.add_argument("--no-table", action="store_true")
    args = parser.parse_args()
    started = time.process_time()
    results = [rerun(path, args.sensitivity, not args.no_table) for path in args.files]
    scores = [result.score for result in results]
    hits = [e for result in results for e in result.episodes if e.counts and e.found]
    counted = sum(s.counted for s in scores)
    quiet_h = sum(s.quiet_s for s in scores) / 3600
    false = sum(s.false_alarms for s in scores)
    print(
        f"\nsum: {len(hits)} of {counted} found; {false} false in {quiet_h:.2f} h; "
        f"{sum(s.control_alerts for s in scores)} in {sum(s.controls for s in scores)} controls; "
        f"clouded {sum(s.clouded for s in scores)}; top-1 {sum(e.named(1) for e in hits)}, "
        f"top-3 {sum(e.named(3) for e in hits)} of {len(hits)} "
        f"({time.process_time() - started:.0f} s of CPU)"
    )


if __name__ == "__main__":
    main()
