"""What an attach and a detach do to the loop of an engine: 200 of them on a scripted engine under load.

    python tests/bench/bench_attach_gap.py [MINOR ...] [-n 200] [--nice N]

The engine (`tests/integration/targets/engine_loop.py spin`) takes 2 ms steps that do nothing but read the
clock; two more threads sleep, as those of torch do. Each round has four windows of equal length, in this
order: attach (and 20 batches), watch, detach, nothing. In each one the engine's own clock gives two figures:
the largest gap between two readings of the clock, and the longest step less its 2 ms (that one also holds
what happens between two steps: hooks that go in at a batch boundary). On a busy machine the loop has gaps of
its own, hence the window in which nothing is done. `--nice -20` (as root) lets the engine go first.

The stop of the thread used for the injection is measured outside, from the request to its release: an upper
bound. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.integration.engines import ScriptedEngine, batches_from, open_session, scripted  # noqa: E402
from tests.integration.targets.harness import find_python  # noqa: E402

STEP_US = 2000
WINDOWS = ("attach", "watch", "detach", "nothing")


def percentile(values: Sequence[float], q: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def show(name: str, values: Sequence[float]) -> None:
    """One line, in milliseconds."""
    print(
        f"  {name:44s} median {statistics.median(values):7.3f}  p95 {percentile(values, 0.95):7.3f}"
        f"  p99 {percentile(values, 0.99):7.3f}  max {max(values):7.3f} ms"
    )


def gaps(engine: ScriptedEngine) -> tuple[float, float]:
    """(largest gap between two readings, longest step beyond its length) in ms, and start anew."""
    found = engine.ask("gap anew")
    time.sleep(0.02)
    return found["gap_ns"] / 1e6, max(0.0, found["longest_ns"] / 1e6 - STEP_US / 1e3)


def measure(minor: str, count: int, nice: int) -> None:
    """Attach and detach `count` times and print what both clocks saw."""
    seen: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, list[float]] = defaultdict(list)
    pauses: list[float] = []
    setups: list[float] = []
    kinds: dict[str, int] = defaultdict(int)
    with (
        tempfile.TemporaryDirectory() as folder,
        scripted(Path(folder), minor, "spin", step_us=STEP_US) as engine,
    ):
        if nice:
            os.setpriority(os.PRIO_PROCESS, engine.pid, nice)
            with contextlib.suppress(OSError):  # sched(7): between sessions, the autogroup's value counts
                Path(f"/proc/{engine.pid}/autogroup").write_text(str(nice))
        for _ in range(count):
            gaps(engine)
            began = time.monotonic()
            session = open_session(engine)
            batches_from(session, 20)
            length = time.monotonic() - began
            note(seen, steps, "attach", gaps(engine))
            end = time.monotonic() + length
            while time.monotonic() < end:
                frame = session.tick()
                time.sleep(0.05)
            note(seen, steps, "watch", gaps(engine))
            began = time.monotonic()
            session.close()
            time.sleep(max(0.0, length - (time.monotonic() - began)))
            note(seen, steps, "detach", gaps(engine))
            time.sleep(length)
            note(seen, steps, "nothing", gaps(engine))
            (cost,), (link,) = frame.costs, session._source._links  # type: ignore[attr-defined]
            kinds[f"{link.injection.way.value}, {link.injection.thread_kind}"] += 1
            pauses.append((cost.attach_us or 0.0) / 1e3)
            setups.append((cost.setup_us or 0.0) / 1e3)
    print(f"CPython {minor}: {count} attaches, {dict(kinds)}")
    show("stop of the thread used (outside, upper bound)", pauses)
    show("building the probe, CPU of its thread", setups)
    for name in WINDOWS:
        show(f"{name}: largest gap of the loop's clock", seen[name])
    for name in WINDOWS:
        show(f"{name}: longest step beyond 2 ms", steps[name])
    for name in WINDOWS:
        over = sum(value > 1 for value in seen[name]), sum(value > 1 for value in steps[name])
        print(f"  windows above 1 ms, {name:8s}: clock {over[0]:4d}, step {over[1]:4d} of {count}")
    sys.stdout.flush()


def note(
    seen: dict[str, list[float]], steps: dict[str, list[float]], name: str, values: tuple[float, float]
) -> None:
    """Keep one window's figures."""
    seen[name].append(values[0])
    steps[name].append(values[1])


def main() -> None:
    """Measure on each version asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("minors", nargs="*", default=["3.11", "3.12", "3.14"])
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args()
    for minor in options.minors:
        if find_python(minor) is None:
            print(f"CPython {minor}: not installed")
            continue
        print(
            f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, engine at nice {options.nice}"
        )
        measure(minor, options.n, options.nice)


if __name__ == "__main__":
    main()
