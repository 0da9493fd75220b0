"""What sampling counters costs, and how long a scrape takes. Prints figures; asserts nothing.

Method. Three processes with 60 sleeping threads each, two more of which work a little; the real NVML binding
over the stub of tests/unit/nvml_stub.c with 8 GPUs (it returns at once: what a driver adds is not in here).
The sampler reads once a second as in the product, in a process of its own; a session's counter history takes
its readings ten times a second. CPU is user + system time of that process, all threads, after 10 s to settle,
over the wall time; the median of 10 s windows. `alone` is the same process without the sampler. The worker
that times the engine's core counts itself.
A scrape is GET /metrics over the loopback address with those counters and the histograms of 2,000 batches in
three modes, 300 times; the server and the client share the machine.

    python tests/bench/bench_counters.py [SECONDS]
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

CHILD = """
import threading, time
for n in range(59):
    busy = n < 2
    def body(busy=busy):
        while True:
            if busy:
                sum(range(2000))
            time.sleep(0.02 if busy else 3600)
    threading.Thread(target=body, daemon=True).start()
print("up", flush=True)
time.sleep(3600)
"""
SETTLE_S, WINDOW_S = 10.0, 10.0


def cpu_s() -> float:
    return time.process_time()


def windows(seconds: float, tick: object = None) -> list[float]:
    """CPU share of this process in consecutive windows."""
    shares = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        cpu, wall = cpu_s(), time.monotonic()
        while time.monotonic() - wall < WINDOW_S:
            if callable(tick):
                tick()
            time.sleep(0.1)
        shares.append((cpu_s() - cpu) / (time.monotonic() - wall))
    return shares


def main(seconds: float = 40.0) -> None:
    from prismtop.commands import attaching
    from prismtop.counter_history import CounterHistory
    from prismtop.counters.sampler import make_sampler
    from prismtop.model import Counter, Group, Mode, ProcessId, Target
    from prismtop.settings import Settings
    from prismtop.targets.procfs import read_stat
    from tests.factories import MS, make_batch, make_frame
    from tests.unit.nvml_play import compiled

    with tempfile.TemporaryDirectory() as folder:
        library = compiled(Path(folder), "-DSTEP_MS=500")
        control = Path(folder) / "control"
        control.touch()
        from tests.unit.nvml_scene import Scene

        scene = Scene(str(library), str(control))
        scene.c.ngpu = 8
        threading.Thread(target=_clock, args=(scene,), daemon=True).start()
        children = [subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) for _ in range(3)]
        try:
            members = []
            for child in children:
                assert child.stdout is not None
                child.stdout.readline()
                stat = read_stat(child.pid)
                assert stat is not None
                members.append(Target(ProcessId(child.pid, stat.start_time), "x", "worker", True, "x"))
                scene.c.pid[len(members) - 1] = child.pid
            # As the product does (commands/attaching.py).
            gc.freeze()
            gc.set_threshold(*attaching._COLLECT)
            alone = windows(WINDOW_S, lambda: None)
            sampler = make_sampler(Settings(), Group("x", None, tuple(members)))
            history = CounterHistory()
            # Not all of them: what a benchmark hoards the garbage collector goes through, over and over.
            seen: list[Counter] = []
            count = [0]

            def tick() -> None:
                readings = sampler.read()
                history.add(readings)
                count[0] += len(readings)
                seen.extend([one for one in readings if one.name.startswith("sampler_")])

            end = time.monotonic() + SETTLE_S
            while time.monotonic() < end:
                tick()
                time.sleep(0.1)
            seen.clear()
            count[0] = 0
            began = time.monotonic()
            before = _threads()
            shares = windows(seconds, tick)
            took = time.monotonic() - began
            by_thread = {name: (ns - before.get(name, 0)) / took / 1e9 for name, ns in _threads().items()}
            per_s = count[0] / (time.monotonic() - began)
            own = [
                [c.value or 0.0 for c in seen if c.name == "sampler_cpu_ratio" and c.device == lane]
                for lane in ("host", "devices", "speed worker")
            ]
            rounds = [
                c.value or 0.0 for c in seen if c.name == "sampler_round_seconds" and c.device == "host"
            ]
            latest = history.latest
            sampler.close()
        finally:
            for child in children:
                child.kill()
                child.wait()
    base = statistics.median(alone)
    total = statistics.median(shares)
    print(f"readings                 {per_s:.0f} a second, {len(latest)} series")
    print(f"this process alone       {100 * base:.2f} % of a core")
    print(f"with sampling            {100 * total:.2f} % (sampling: {100 * (total - base):.2f} %)")
    print(
        "the sampler's own count  "
        f"host {100 * statistics.median(own[0]):.2f} %, devices {100 * statistics.median(own[1]):.2f} %"
    )
    worker = statistics.median(own[2]) if own[2] else 0.0
    print(f"the speed worker         {100 * worker:.2f} % (a process of its own)")
    print(f"both                     {100 * (total - base + worker):.2f} % of a core")
    for name, share in sorted(by_thread.items(), key=lambda one: -one[1]):
        print(f"  thread {name:<28} {100 * share:.2f} %")
    print(f"one round of the host    median {1e3 * statistics.median(rounds):.2f} ms (180 threads)")
    batches = tuple(
        make_batch(n, mode=(Mode.DECODE, Mode.PREFILL, Mode.MIXED)[n % 3], duration_ns=(1 + n % 60) * MS)
        for n in range(2000)
    )
    _scrapes(make_frame(0, new_batches=batches, counters=latest))
    print(f"load average             {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _threads() -> dict[str, int]:
    """CPU time of this process's threads in ns (schedstat)."""
    made = {}
    for thread in threading.enumerate():
        text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
        made[thread.name] = int(text.split()[0])
    return made


def _clock(scene: object) -> None:
    while True:
        scene.c.now_us = time.time_ns() // 1000  # type: ignore[attr-defined]
        time.sleep(0.5)


def _scrapes(frame: object) -> None:
    from dataclasses import replace

    from prometheus_client import CollectorRegistry, generate_latest

    from prismtop.export.metrics import Totals
    from prismtop.export.prometheus import Exposition, Scrapes

    totals = Totals()
    now = time.monotonic_ns()
    fresh = tuple(replace(c, time_ns=now, period_ns=10**12) for c in frame.counters)  # type: ignore[attr-defined]
    totals.take(replace(frame, counters=fresh))  # type: ignore[type-var]
    registry = CollectorRegistry()
    registry.register(Exposition(totals))
    rendered = []
    for _ in range(100):
        began_ns = time.thread_time_ns()
        generate_latest(registry)
        rendered.append((time.thread_time_ns() - began_ns) / 1e6)
    rendered.sort()
    print(f"rendering a scrape       p50 {rendered[50]:.1f} ms, p95 {rendered[95]:.1f} ms of CPU")
    scrapes = Scrapes(totals, "127.0.0.1", 0)
    took, size, samples = [], 0, 0
    cpu = time.process_time()
    for _ in range(300):
        began = time.perf_counter()
        with urllib.request.urlopen(scrapes.url) as answer:
            text = answer.read()
        took.append(time.perf_counter() - began)
        size, samples = len(text), sum(not line.startswith(b"#") for line in text.splitlines())
    cpu = (time.process_time() - cpu) / 300
    scrapes.close()
    took.sort()
    print(
        f"scrape of {samples} samples   p50 {1e3 * took[150]:.1f} ms, p95 {1e3 * took[285]:.1f} ms, "
        f"CPU {1e3 * cpu:.1f} ms with its client ({size // 1024} KiB)"
    )


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
