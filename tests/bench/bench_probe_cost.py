"""What a probe that is in costs the engine. Prints figures; asserts nothing.

    python tests/bench/bench_probe_cost.py scripted|demo|hf|vllm|sgl [--pairs 12] [--window 5]

1. By its own measure: events a batch x the ns that an event costs (`ProbeCost`), per process, as a share of
   the engine's step and of a step of 8 ms.
2. Paired: under a constant load, windows with the probe in alternate with windows without it, in both orders.
   The step time of a window comes from the engine, not from us: vLLM's and the demo's own inter-token latency
   (/metrics), the steps that the scripted engine counts, or the tokens that a client of the others receives.
   Printed are the ratios with / without of neighbouring windows: median, quartiles, and the same for pairs of
   two windows without, which is what this machine's noise does. For engines that do not spin while they wait,
   also the time on the CPU per step (/proc/PID/schedstat), which other processes disturb less.

A real engine is started, on the tiny model, unless `--pid` and `--port` name one that runs.
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
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.model import Frame  # noqa: E402
from prismtop.session import Session  # noqa: E402
from prismtop.sources.live import AttachOptions, attach  # noqa: E402
from prismtop.targets.discovery import group_of  # noqa: E402
from prismtop.targets.profiles import load_profiles  # noqa: E402
from tests.integration.engines import Server, scripted, serving  # noqa: E402

Counter = Callable[[], tuple[float, float]]
"""(steps so far, seconds that they took so far, by the engine's own clock or wall time)."""


@dataclass(frozen=True)
class Engine:
    """An engine under load: how to count its steps, and the pids whose CPU time tells something."""

    pid: int
    profiles: Path | None
    count: Counter
    counted: str
    cpu_pids: tuple[int, ...]


def on_cpu_ns(pids: Sequence[int]) -> int:
    """Time on the CPU of all threads, from /proc/PID/task/TID/schedstat."""
    total = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total


def sample(port: int, *names: str) -> list[float]:
    """Values of the named samples of /metrics, labels summed."""
    found = dict.fromkeys(names, 0.0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            name = line.split("{")[0].split(" ")[0]
            if name in found:
                found[name] += float(line.rsplit(" ", 1)[1])
    return [found[name] for name in names]


@contextlib.contextmanager
def scripted_engine() -> Iterator[Engine]:
    """2 ms steps in which the main thread sleeps."""
    with tempfile.TemporaryDirectory() as folder, scripted(Path(folder), "3.11", "busy") as engine:
        yield Engine(
            engine.pid,
            engine.home / "config" / "prismtop" / "engines",
            lambda: (float(engine.steps()), time.monotonic()),
            "wall time per step that it counted",
            (engine.pid,),
        )


@contextlib.contextmanager
def demo_engine() -> Iterator[Engine]:
    """The demo with the sizes of `prismtop demo`."""
    from prismtop.commands.demo import _SIZES

    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0", "--die-with-parent", *_SIZES],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = int(server.stdout.readline().rsplit(":", 1)[1])
    steady = ("--duration", "0", "--pattern", "steady", "--rate", "3")
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", "--url", f"http://127.0.0.1:{port}", *steady],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )

    def count() -> tuple[float, float]:
        tokens, total = sample(
            port, "demo:inter_token_latency_seconds_count", "demo:inter_token_latency_seconds_sum"
        )
        return tokens, total

    try:
        time.sleep(3)
        yield Engine(server.pid, None, count, "its own inter-token latency", (server.pid,))
    finally:
        for process in (load, server):
            process.terminate()
            process.wait()


@contextlib.contextmanager
def real_engine(kind: str, pid: int, port: int) -> Iterator[Engine]:
    """A real engine under load: vLLM with four streams side by side, the others with one."""
    with contextlib.ExitStack() as stack:
        if pid:
            server = Server(kind, pid, port, "models/qwen3-tiny")
        else:
            server = stack.enter_context(serving(kind))
        if kind != "vllm":
            received = [0]
            threading.Thread(target=_streams, args=(server.url, server.model, received), daemon=True).start()
            time.sleep(5)
            count = lambda: (float(received[0]), time.monotonic())  # noqa: E731
            yield Engine(
                server.pid, None, count, "wall time per token that a lone client receives", (server.pid,)
            )
            return
        extra = ("--extra", '{"ignore_eos": true}')
        load = server.load("--n", "4", "--rounds", "100000", "--max-tokens", "400", "--chat", *extra)
        stack.callback(load.wait)
        stack.callback(load.kill)
        time.sleep(5)
        names = ("vllm:inter_token_latency_seconds_count", "vllm:inter_token_latency_seconds_sum")

        def own() -> tuple[float, float]:
            tokens, seconds = sample(server.port, *names)
            return tokens, seconds

        yield Engine(server.pid, None, own, "its own inter-token latency", ())


def _streams(url: str, model: str, received: list[int]) -> None:
    """One stream after the other; each chunk counts as a step."""
    body = {
        "model": model,
        "max_tokens": 400,
        "stream": True,
        "messages": [{"role": "user", "content": "def f(x)"}],
    }
    while True:
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60) as answer:
            for line in answer:
                received[0] += line.startswith(b"data:")


def open_on(engine: Engine) -> Session:
    """Attach as `watch` does."""
    profiles = load_profiles(engine.profiles)
    group = group_of(engine.pid, profiles)
    return Session(attach(group, profiles[group.engine], AttachOptions(metrics=False)))


def window(engine: Engine, seconds: float, tick: Callable[[], object]) -> tuple[float, float]:
    """(ms a step, CPU ms a step) over a window in which `tick` runs ten times a second."""
    steps, clock = engine.count()
    cpu = on_cpu_ns(engine.cpu_pids)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tick()
        time.sleep(0.1)
    used = on_cpu_ns(engine.cpu_pids) - cpu
    after, clock_after = engine.count()
    done = max(1.0, after - steps)
    return (clock_after - clock) / done * 1e3, used / done / 1e6


def own_measure(frames: Sequence[Frame], batches: int, seconds: float, step_ms: float) -> None:
    """Print what the probes say of themselves: medians over the ticks."""
    for pid in {cost.pid: None for cost in frames[-1].costs}:
        costs = [c for frame in frames for c in frame.costs if c.pid == pid and c.events_per_s and c.share]
        if not costs or not batches:
            print(f"  process {pid}: too few events to tell")
            continue
        events = statistics.median(c.events_per_s or 0.0 for c in costs) / (batches / seconds)
        ns = statistics.median(c.per_event_ns or 0.0 for c in costs)
        share = statistics.median(c.share or 0.0 for c in costs)
        us = events * ns / 1e3
        print(
            f"  process {pid}: {events:.1f} events a step x {ns:.0f} ns = {us:.1f} us: "
            f"{us / step_ms / 10:.2f} % of {step_ms:.2f} ms, {us / 80:.3f} % of 8 ms; "
            f"shown {100 * share:.2f} %"
        )


def ratios(name: str, pairs: Sequence[tuple[float, float]]) -> None:
    """One line: median and quartiles of first / second, as a change in per cent."""
    values = [100 * (a / b - 1) for a, b in pairs if a > 0 and b > 0]
    if len(values) < 2:
        return
    low, _, high = statistics.quantiles(values, n=4)
    print(f"  {name:44s} {statistics.median(values):+6.2f} %   quartiles {low:+6.2f} .. {high:+6.2f} %")


def measure(engine: Engine, pairs: int, seconds: float) -> None:
    """Alternate windows and print both parts."""
    on: list[tuple[float, float]] = []
    off: list[tuple[float, float]] = []
    frames: list[Frame] = []
    batches = 0
    for number in range(pairs):
        for attached in (number % 2 == 0, number % 2 == 1):
            if not attached:
                off.append(window(engine, seconds, lambda: None))
                continue
            session = open_on(engine)
            try:
                end = time.monotonic() + 1.0
                while time.monotonic() < end:  # hooks go in
                    session.tick()
                    time.sleep(0.05)
                before = session.tick().total_batches
                on.append(window(engine, seconds, lambda s=session: frames.append(s.tick())))  # type: ignore[misc]
                batches += session.tick().total_batches - before
            finally:
                for note in session.close():
                    print(f"  {note}")
            time.sleep(0.5)
    step_ms = statistics.median(x[0] for x in off)
    print(f"by its own measure ({pairs} windows of {seconds:g} s, {batches / pairs / seconds:.0f} batches/s)")
    own_measure(frames, batches, pairs * seconds, step_ms)
    print(f"paired, with / without: {engine.counted}, median {step_ms:.3f} ms without")
    for index, name in ((0, "step"), (1, "time on the CPU per step")):
        ratios(name, [(a[index], b[index]) for a, b in zip(on, off, strict=True)])
        ratios(
            f"{name}, without / without",
            [(a[index], b[index]) for a, b in zip(off[::2], off[1::2], strict=False)],
        )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    """Measure one engine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("engine", choices=("scripted", "demo", "hf", "vllm", "sgl"))
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--window", type=float, default=5.0)
    parser.add_argument("--pid", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.engine == "scripted":
        made = scripted_engine()
    elif options.engine == "demo":
        made = demo_engine()
    else:
        made = real_engine(options.engine, options.pid, options.port)
    with made as engine:
        measure(engine, options.pairs, options.window)


if __name__ == "__main__":
    main()
