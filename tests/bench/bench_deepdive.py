"""What a deep capture costs the engine that is captured. Prints figures; asserts nothing.

    python tests/bench/bench_deepdive.py [--captures 12] [--batches 50] [--rows 24] [--context 64]
                                           [--python] [--budget 0.04]

A process of the transformers engine's Python (install.sh hf) decodes with a real Qwen3 model, one thread,
without a pause. It is captured again and again. For each capture the CPU time of the model thread per step
(CLOCK_THREAD_CPUTIME_ID, which other processes disturb least) is compared:

    in the window    all steps inside it / as many steps just before it, means: steps with operators and steps
                     without, which a window of short steps has both
    of those, with   steps inside it with operators, and without / those before it, medians
    afterwards       steps after the export / the same steps before: what stays
    nothing          steps before / steps before those: what this machine's noise does

and printed are median and quartiles over the captures. Stalls at start and stop are the guest's own
measurement (CLOCK_MONOTONIC); what the export did is the longest step between the end of the window and the
end of the export. The default is a step of about 1 ms; `--rows 64 --context 768` makes one of 10 ms. An
operator event costs the engine about 0.3 us: a step of 590 of them, as here, is slowed by 0.17 ms, however
long it is; so steps of 1 ms have operators in some only. `--python` captures Python functions instead of
operators.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.session import Session  # noqa: E402
from prismtop.sources.deep_link import BUDGET, DeepLink, DeepOptions, DeepStatus  # noqa: E402
from prismtop.sources.live import AttachOptions, attach  # noqa: E402
from prismtop.targets.discovery import group_of  # noqa: E402
from prismtop.targets.profiles import load_profiles  # noqa: E402
from tests.integration.deep import links_of  # noqa: E402
from tests.integration.engines import ENGINES, PROFILE, write_profile  # noqa: E402

MARGIN = 5
"""Steps left out at each edge of a window: they hold the stalls."""


@dataclass(frozen=True)
class Capture:
    """One capture: its status, when it was ready, its profile's size, and the engine's steps around it."""

    status: DeepStatus
    ready_ns: int
    ends: Sequence[int]
    used: Sequence[int]
    gaps: Sequence[tuple[int, int]]

    def steps(self, begin: int, end: int) -> list[float]:
        """CPU ns of the steps that lie in [begin, end)."""
        pairs = zip(self.ends[1:], self.used[1:], self.used[:-1], strict=True)
        return [float(used - before) for at, used, before in pairs if begin <= at < end]

    def around(self) -> tuple[list[float], list[float], list[float], list[float]]:
        """(earlier, before, inside, after)."""
        assert self.status.window_ns is not None
        begin, end = self.status.window_ns
        count = self.status.batches - MARGIN
        old = self.steps(0, begin - (self.status.start_stall_ns or 0))[: -2 * MARGIN]
        inside = self.steps(begin, end)[MARGIN:-1]
        after = self.steps(self.ready_ns, 1 << 62)[2 * MARGIN :]
        return old[-2 * count : -count], old[-count:], inside, after[:count]

    def by_layer(self) -> tuple[list[float], list[float]]:
        """Steps of the window (with operators, without them)."""
        assert self.status.window_ns is not None
        begin, end = self.status.window_ns
        made: tuple[list[float], list[float]] = ([], [])
        # Recording is switched at the end of a step, and the engine notes the time right after that.
        ends = zip(self.ends[:-1], self.ends[1:], self.used[:-1], self.used[1:], strict=True)
        for start, at, before, now in ends:
            if begin <= start and at < end:
                made[any(off <= start < on for off, on in self.gaps)].append(float(now - before))
        return made

    def export_ms(self) -> tuple[float, float]:
        """Longest step while the files were written, and a usual one: wall time."""
        assert self.status.window_ns is not None
        pairs = list(zip(self.ends[1:], self.ends[:-1], strict=True))
        # The step in which the window ended holds the stop.
        end = self.status.window_ns[1] + (self.status.stop_stall_ns or 0)
        during = [at - before for at, before in pairs if before >= end and at <= self.ready_ns]
        usual = statistics.median(at - before for at, before in pairs)
        return max(during, default=0) / 1e6, usual / 1e6


@contextlib.contextmanager
def engine(folder: Path, rows: int, context: int, size: str) -> Iterator[subprocess.Popen[str]]:
    """A decoding process; its first line was read."""
    write_profile(folder, PROFILE.replace("engine_loop", "deep_engine"))
    model = ENGINES / "models" / f"qwen3-{size}"
    process = subprocess.Popen(
        [
            str(ENGINES / "hf" / "bin" / "python"),
            str(ROOT / "tests" / "bench" / "deep_engine.py"),
            str(model),
            str(rows),
            str(context),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the engine did not start: is it installed (install.sh hf), with its model?")
        yield process
    finally:
        process.kill()
        process.wait()


def asked(process: subprocess.Popen[str]) -> tuple[list[int], list[int]]:
    """Ends of the steps since the last question, and the thread's CPU time then."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    ends, used = json.loads(process.stdout.readline())
    return ends, used


def wait(session: Session, seconds: float) -> None:
    """Tick as a monitor does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        session.tick()
        time.sleep(0.05)


def captures(
    process: subprocess.Popen[str], folder: Path, options: DeepOptions, count: int, step_s: float
) -> list[Capture]:
    """`count` captures, each with steps before and after it."""
    profiles = load_profiles(folder / "config" / "prismtop" / "engines")
    group = group_of(process.pid, profiles)
    session = Session(attach(group, profiles[group.engine], AttachOptions(metrics=False)))
    quiet_s = 2.5 * options.batches * step_s + 0.2
    found = []
    try:
        wait(session, 1.0)
        for _ in range(count):
            asked(process)
            wait(session, quiet_s)
            dive = DeepLink(links_of(session)[0], options)
            dive.prepare()
            dive.start()
            while (status := dive.poll()).phase not in ("ready", "failed", "gone"):
                wait(session, 0.1)
            if status.phase != "ready":
                raise SystemExit(f"the capture ended: {status.error}")
            ready_ns = time.monotonic_ns()
            fetched = dive.fetch(folder)
            assert fetched.events is not None
            lines = [json.loads(line) for line in fetched.events.read_text().splitlines()]
            gaps = [(each["t0"], each["t0"] + each["dur"]) for each in lines if each["layer"] == "unrecorded"]
            dive.poll()
            wait(session, quiet_s)
            found.append(Capture(status, ready_ns, *asked(process), gaps))
    finally:
        session.close()
    return found


def line(name: str, values: Sequence[float], unit: str) -> None:
    """Median and quartiles."""
    if len(values) < 2:
        return
    low, middle, high = statistics.quantiles(values, n=4)
    print(f"  {name:34s} {middle:+8.2f} {unit}   quartiles {low:+.2f} .. {high:+.2f}")


def ratios(
    pairs: Sequence[tuple[list[float], list[float]]],
    middle: Callable[[list[float]], float] = statistics.median,
) -> list[float]:
    """Per cent by which the median (or another `middle`) of the second is above that of the first."""
    return [
        100 * (middle(second) / middle(first) - 1)
        for first, second in pairs
        if len(first) > MARGIN and len(second) > MARGIN
    ]


def trimmed(values: list[float]) -> float:
    """The mean without the twentieth at either end."""
    cut = len(values) // 20
    return statistics.mean(sorted(values)[cut : len(values) - cut])


def report(made: Sequence[Capture]) -> None:
    """Print it all."""
    around = [capture.around() for capture in made]
    step = statistics.median(ns for _, before, _, _ in around for ns in before) / 1e6
    first = made[0].status
    state = ", ".join(f"{name} {state}" for name, state, _ in first.layers)
    print(f"{len(made)} captures of {first.batches} steps of {step:.2f} ms CPU; {state}")
    inside = ratios([(before, inside) for _, before, inside, _ in around], trimmed)
    line("in the window", inside, "%")
    parts = [capture.by_layer() for capture in made]
    for number, name in enumerate(("of those, with operators", "of those, without")):
        own = [(around[n][1], part[number]) for n, part in enumerate(parts)]
        line(name, ratios(own), "%")
        print(f"  {len([1 for part in parts for _ in part[number]])} steps")
    print(f"  in the window of the first         {inside[0]:+8.2f} %")
    line("afterwards", ratios([(before, after) for _, before, _, after in around]), "%")
    line("nothing", ratios([(earlier, before) for earlier, before, _, _ in around]), "%")
    line("nothing, means", ratios([(earlier, before) for earlier, before, _, _ in around], trimmed), "%")
    starts = [(capture.status.start_stall_ns or 0) / 1e6 for capture in made]
    stops = [(capture.status.stop_stall_ns or 0) / 1e6 for capture in made]
    print(f"  stall of the first start {starts[0]:.1f} ms, of its stop {stops[0]:.1f} ms")
    line("stall of later starts", starts[1:], "ms")
    line("stall of later stops", stops[1:], "ms")
    longest = [capture.export_ms() for capture in made]
    line("longest step in the export", [most for most, _ in longest], "ms")
    line("a usual step, wall time", [usual for _, usual in longest], "ms")
    window = [(c.status.window_ns[1] - c.status.window_ns[0]) / 1e6 for c in made if c.status.window_ns]
    line("window", window, "ms")
    print(f"  profile {statistics.median(capture.status.size for capture in made) / 1e6:.1f} MB")
    for capture in made[0], made[-1]:
        reason = next(reason for name, _, reason in capture.status.layers if name == "operators")
        print(f"  operators: {reason}")


def main() -> None:
    """Measure one engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--captures", type=int, default=12)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--python", action="store_true")
    parser.add_argument("--budget", type=float, default=BUDGET, help="0: operators in every step")
    chosen = parser.parse_args()
    options = DeepOptions(
        chosen.batches,
        60.0,
        not chosen.python,
        chosen.python,
        gpu=False,
        stacks=False,
        max_events=200_000,
        budget=chosen.budget,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with engine(folder, chosen.rows, chosen.context, chosen.size) as process:
            asked(process)
            time.sleep(1)
            ends, _ = asked(process)
            step_s = (ends[-1] - ends[0]) / 1e9 / max(1, len(ends) - 1)
            report(captures(process, folder, options, chosen.captures, step_s))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
