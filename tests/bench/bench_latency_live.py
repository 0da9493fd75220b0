"""Alerts an hour over the demo engine as a user starts it, in real time, beside how fast its core was.

    python tests/bench/bench_latency_live.py run FILE SECONDS     `prismtop demo`, its JSON lines kept in FILE
    python tests/bench/bench_latency_live.py judge FILE [HZ]      what was said then, and what is said offline

Method: nothing is injected, so an alert is false unless the machine itself became slower. On a virtual
machine it does: a neighbour on the other half of a physical core makes everything take up to twice as long,
for seconds or minutes, and an alert about that is true. So a process of its own times a fixed piece of work
(that of the product's speed worker) on the engine's core, 50 times a second, as CPU time. An engine of
matrices is not slowed by as much as that work: by its power ALPHA, fitted over all decode batches against
what they should have cost. Four series are judged by the product's judge, without a kept model:

    wall                the batches as they were
    constant speed      durations divided by how slow the core was within 50 ms (median of 5 timings)
    shifted             the same with timings of one minute earlier: what dividing by chance does
    +40 % for 2 s       constant speed, with decode batches that much slower, once a minute: what alerts about
                        the machine look like must still be found

Of all but the first, batches in which the engine's thread was ready and waited for a core (schedstat: 2 ms
and more around them) are not judged: this is two cores for an engine, its load, prismtop and this program.
Prints; asserts nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.counters.speed_worker import time_work  # noqa: E402
from prismtop.latency.judge import LatencyJudge  # noqa: E402
from prismtop.model import Alert, Batch, Group, Mode, Workload  # noqa: E402
from prismtop.settings import Settings  # noqa: E402

HZ = 50
AROUND = 5
SLOW = 1.15
WAITED_NS = 2_000_000
EARLIER_NS = 60 * 10**9
INJECTED_NS, FACTOR = 2 * 10**9, 1.4
SKIP_NS = 60 * 10**9
PROCESSOR = 36
"""Column of /proc/PID/stat after the name: the core it ran on last (proc(5))."""


def run(file: Path, seconds: float) -> None:
    """Let `prismtop demo` say what it sees; time its engine's core meanwhile."""
    speeds = file.with_suffix(".speed")
    command = [sys.executable, "-m", "prismtop", "demo", "--headless", "--json", "-n", "1000000000"]
    with file.open("w") as out:
        demo = subprocess.Popen([*command, "--duration", str(seconds)], stdout=out, cwd=ROOT)
        try:
            timer = None
            while timer is None and demo.poll() is None:
                time.sleep(1.0)
                pid = _engine(file)
                if pid is not None:
                    timer = subprocess.Popen([sys.executable, __file__, "time", str(pid), str(speeds)])
            demo.wait()
        finally:
            for process in (demo, timer):
                if process is not None and process.poll() is None:
                    process.terminate()
                    process.wait()


def _engine(file: Path) -> int | None:
    with file.open() as lines:
        for line in lines:
            record = json.loads(line) if line.endswith("\n") else {}
            if record.get("type") == "session":
                return int(record["pids"][0])
    return None


def time_core(pid: int, file: Path) -> None:
    """Time the work where the busiest thread of a process runs, until the process has ended."""
    task = Path(f"/proc/{pid}/task")
    thread, until = task / str(pid), 0.0
    with file.open("w") as out:
        while True:
            try:
                if time.monotonic() > until:
                    thread = max(task.iterdir(), key=lambda one: int(_stat(one)[11]))
                    until = time.monotonic() + 10.0
                os.sched_setaffinity(0, {int(_stat(thread)[PROCESSOR])})
                waited = (thread / "schedstat").read_text().split()[1]
            except (OSError, ValueError, IndexError):
                return
            out.write(f"{time.time_ns()} {time_work()} {waited}\n")
            time.sleep(1 / HZ)


def _stat(thread: Path) -> list[str]:
    return (thread / "stat").read_text().rpartition(")")[2].split()


class Speeds:
    """How slow the core was at a time: 1 is its usual full speed."""

    def __init__(self, file: Path, every: int = 1) -> None:
        rows = [tuple(map(int, line.split())) for line in file.read_text().splitlines()[:-1]][::every]
        self.times = [at for at, _, _ in rows]
        took = [float(one) for _, one, _ in rows]
        waited = [ns for _, _, ns in rows]
        self._waited = [0, *(later - before for before, later in pairwise(waited))]
        full = sorted(took)[len(took) // 10]
        half = AROUND // 2
        self.slow = [median(took[max(0, n - half) : n + half + 1]) / full for n in range(len(took))]

    def at(self, now_ns: int) -> float:
        """The nearest reading's."""
        n = bisect_left(self.times, now_ns)
        return self.slow[min(n, len(self.slow) - 1)]

    def waited(self, batch: Batch) -> bool:
        """Whether the engine's thread was ready and had no core for long around then."""
        first, last = bisect_left(self.times, batch.start_ns), bisect_left(self.times, batch.end_ns)
        return sum(self._waited[first : last + 1]) >= WAITED_NS

    @property
    def share(self) -> float:
        """Of the time in which it was slow."""
        return sum(one > SLOW for one in self.slow) / len(self.slow)


def batches(file: Path) -> Iterator[Batch]:
    """The batches of the JSON lines, on the wall clock."""
    names = ("batch_size", "prefill_tokens", "decode_tokens", "context_tokens", "max_context")
    with file.open() as lines:
        for line in lines:
            if '"type":"batch"' not in line or not line.endswith("\n"):
                continue
            said = json.loads(line)
            work = said["workload"]
            period = said.get("period_us")
            yield Batch(
                pid=said["pid"],
                engine="demo",
                seq=said["seq"],
                start_ns=int(said["t_us"] * 1e3),
                duration_ns=int(said["dur_us"] * 1e3),
                period_ns=None if period is None else int(period * 1e3),
                idle_ns=int(said.get("idle_us", 0) * 1e3),
                mode=Mode(said["mode"]),
                workload=Workload(
                    **{name: work.get(name) for name in (*names, "new_requests", "running", "waiting")}
                ),
            )


def alpha_of(given: Iterable[Batch], speeds: Speeds) -> float:
    """By which power of the work's slowness decode batches are slowed: least squares of logarithms, within
    groups of the same size and about the same context.
    """
    groups: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for batch in given:
        work = batch.workload
        if batch.mode is Mode.DECODE and work.batch_size and work.context_tokens is not None:
            pair = log(speeds.at(_middle_ns(batch))), log(batch.duration_ns)
            groups[work.batch_size, work.context_tokens // 64].append(pair)
    above = below = 0.0
    for pairs in groups.values():
        x, y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        above += sum((one - x) * (other - y) for one, other in pairs)
        below += sum((one - x) ** 2 for one, _ in pairs)
    return above / below


def _middle_ns(batch: Batch) -> int:
    return batch.start_ns + batch.duration_ns // 2


def divided(given: Iterable[Batch], speeds: Speeds, alpha: float, by_ns: int = 0) -> Iterator[Batch]:
    """Durations at constant speed; what lies between two batches stays as it was. Batches in which the engine
    waited for a core are marked as not to be judged.
    """
    for batch in given:
        duration = int(batch.duration_ns / speeds.at(_middle_ns(batch) - by_ns) ** alpha)
        less = batch.duration_ns - duration
        period = None if batch.period_ns is None else max(1, batch.period_ns - less)
        suspect = "waited for a core" if speeds.waited(batch) else batch.suspect
        yield replace(batch, duration_ns=duration, period_ns=period, suspect=suspect)


def injected(given: Iterable[Batch], places: list[int]) -> Iterator[Batch]:
    """Two seconds of slower batches in each minute but the first two; where, goes to `places`."""
    due = None
    for batch in given:
        due = batch.start_ns + 2 * SKIP_NS if due is None else due
        if batch.start_ns >= due and batch.mode is Mode.DECODE:
            places.append(batch.start_ns)
            due += SKIP_NS
        if places and batch.mode is Mode.DECODE and batch.start_ns < places[-1] + INJECTED_NS:
            more = int(batch.duration_ns * (FACTOR - 1))
            period = None if batch.period_ns is None else batch.period_ns + more
            batch = replace(batch, duration_ns=batch.duration_ns + more, period_ns=period)
        yield batch


def alerts_of(given: Iterable[Batch]) -> tuple[list[Alert], int, float]:
    """Alerts, batches and hours of a series."""
    judge = LatencyJudge(Settings(), Group("demo", None, ()), inline=True)
    said: dict[int, Alert] = {}
    first, last, count = 0, 0, 0
    for batch in given:
        engine = judge.engine(batch.pid)
        engine.take(batch)
        first, last, count = first or batch.start_ns, batch.end_ns, count + 1
        said.update((alert.id, alert) for alert in engine.alerts(batch.end_ns))
    said.update((alert.id, alert) for alert in judge.finish())
    return list(said.values()), count, (last - first) / 3600e9


def judge(file: Path, hz: float = HZ) -> None:
    """Print what was said live, and of each series."""
    opened = set()
    with file.open() as lines:
        for line in lines:
            if '"type":"alert"' in line and line.endswith("\n"):
                opened.add(json.loads(line)["id"])
    speeds = Speeds(file.with_suffix(".speed"), max(1, round(HZ / hz)))
    print(
        f"live: {len(opened)} alerts; the core was slow (> {SLOW}) in {100 * speeds.share:.0f} % of timings"
    )
    alpha = alpha_of(batches(file), speeds)
    print(f"alpha {alpha:.2f}")
    places: list[int] = []
    at_speed = list(divided(batches(file), speeds, alpha))
    series = {
        "wall": batches(file),
        "constant speed": at_speed,
        "shifted": divided(batches(file), speeds, alpha, EARLIER_NS),
        "+40 % for 2 s": injected(at_speed, places),
    }
    for name, one in series.items():
        alerts, count, hours = alerts_of(one)
        print(f"{name}: {count} batches, {hours:.2f} h: {len(alerts)} alerts = {len(alerts) / hours:.1f} /h")
        if name == "+40 % for 2 s":
            found = sum(any(at <= a.opened_ns < at + INJECTED_NS for a in alerts) for at in places)
            print(f"    {found} of {len(places)} of them found while they last")
            continue
        for alert in alerts[:30]:
            length = ((alert.closed_ns or alert.opened_ns) - alert.started_ns) / 1e9
            slow = median([speeds.at(alert.started_ns + n * int(length * 1e8)) for n in range(11)])
            print(f"    {length:.1f} s, core {slow:.2f}: {alert.kind}: {alert.text}")


def main() -> None:
    """See the head of this file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    what, *given = sys.argv[1:]
    if what == "run":
        run(Path(given[0]), float(given[1]))
    elif what == "time":
        time_core(int(given[0]), Path(given[1]))
    else:
        judge(Path(given[0]), *(float(one) for one in given[1:2]))


if __name__ == "__main__":
    main()
