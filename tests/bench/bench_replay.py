"""Reading traces: events a second of CPU, memory, opening, seeking.

    python tests/bench/bench_replay.py [--gigabytes 1] [--runs 3]

Makes a recording of ours and a torch.profiler trace of that size in the temporary folder, and deletes them.
Every figure comes from a process of its own: CPU time is `time.process_time` of the work alone (imports
excluded, for `open` included), memory is `ru_maxrss`. Prints medians; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

EVENTS = """
import json, resource, sys, time
if sys.argv[2] == "json": sys.modules["msgspec"] = None
from pathlib import Path
import numpy
from prismtop.trace.reader import TraceReader
start, count = time.process_time(), 0
for events in TraceReader(Path(sys.argv[1])).events(): count += len(events)
cpu = time.process_time() - start
print(json.dumps([count, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
NOUNS = """
import json, resource, sys, time
from prismtop.trace.load import load
trace = load([sys.argv[1]])
start, count = time.process_time(), 0
for moment in trace.moments():
    count += 1
    if count == 100_000: break
cpu = time.process_time() - start
print(json.dumps([count, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
OPEN = """
import json, resource, time
wall = time.perf_counter()
import sys
from prismtop.session import Session
from prismtop.sources.replay import ReplaySource
from prismtop.trace.load import load
trace = load([sys.argv[1]])
source = ReplaySource(trace)
session = Session(source, replay=source.controls)
source.controls.step(1)
frame = session.tick()
assert frame.new_batches
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - wall, time.process_time(), rss]))
"""
SEEK = """
import json, random, resource, sys, time
from prismtop.session import Session
from prismtop.sources.replay import ReplaySource
from prismtop.trace.load import load
trace = load([sys.argv[1]])
source = ReplaySource(trace)
source.controls.toggle()
session = Session(source, replay=source.controls)
session.tick()
random.seed(1)
walls, cpus = [], []
for _ in range(300):
    source.controls.seek_fraction(random.random())
    wall, cpu = time.perf_counter(), time.process_time()
    frame = session.tick()
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
    assert frame.batches
at = lambda values, share: sorted(values)[int(share * len(values))] * 1000
print(json.dumps([at(cpus, .5), at(cpus, .95), at(walls, .5), at(walls, .95),
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main() -> None:
    """Make the files, measure, print, delete."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    size = int(options.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(prefix="prismtop-bench-") as folder:
        place = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        for name, make in (("recording of ours", ours), ("torch.profiler trace", kineto)):
            path = place / "trace.json"
            make(path, size)
            real = path.stat().st_size
            print(f"{name}: {real / 1e9:.2f} GB")
            for decoder in ("msgspec", "json"):
                made = [run(EVENTS, path, decoder) for _ in range(1 if decoder == "json" else options.runs)]
                count = made[0][0]
                cpu = statistics.median(one[1] for one in made)
                rss = max(one[2] for one in made)
                print(
                    f"  read, {decoder:8s} {count / cpu:9,.0f} events/s of CPU "
                    f"({real / count:.0f} bytes each), {rss:.0f} MB"
                )
            wall, cpu, rss = run(OPEN, path)
            print(f"  open first time  {wall:.2f} s wall, {cpu:.2f} s CPU, {rss:.0f} MB")
            made = [run(OPEN, path) for _ in range(5)]
            wall, cpu, rss = (statistics.median(one[n] for one in made) for n in range(3))
            print(f"  open with index  {wall:.2f} s wall, {cpu:.2f} s CPU, {rss:.0f} MB")
            count, cpu, rss = run(NOUNS, path)
            print(f"  play             {count / cpu:9,.0f} nouns/s of CPU, {rss:.0f} MB")
            cpu50, cpu95, wall50, wall95, rss = run(SEEK, path)
            print(
                f"  seek             p50 {cpu50:.1f} p95 {cpu95:.1f} ms CPU, "
                f"p50 {wall50:.1f} p95 {wall95:.1f} ms wall, {rss:.0f} MB"
            )
            path.unlink()


def run(program: str, *argv: object) -> list[float]:
    """What a program says of itself."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    made: list[float] = json.loads(done.stdout)
    return made


def ours(path: Path, size: int) -> None:
    """A session of 118 batches a second with a counter and a request now and then."""
    from prismtop.model import Counter, Request
    from prismtop.trace.events import Encoder
    from tests.factories import MS, make_batch, make_frame

    quiet = make_frame(0)
    encoder = Encoder(quiet)
    at = quiet.time_ns
    with path.open("w") as file:
        file.write("[\n" + ",\n".join(encoder.header()))
        seq = 0
        while file.tell() < size:
            for _ in range(50):
                batches = tuple(make_batch(seq + n, at + n * 17 * MS // 2) for n in range(8))
                at, seq = at + 68 * MS, seq + 8
                frame = replace(
                    quiet,
                    time_ns=at,
                    new_batches=batches,
                    new_counters=tuple(Counter(f"c{n}", "host", "ratio", at, seq / 7) for n in range(4)),
                    requests=(Request(at, 5 * MS, MS, 9, 12),),
                )
                file.write(",\n" + ",\n".join(encoder.events_of(frame)))
        file.write("\n]\n")


def kineto(path: Path, size: int) -> None:
    """As torch.profiler writes it: operators, runtime calls, kernels and flows, arguments, indented."""
    with path.open("w") as file:
        file.write('{\n  "schemaVersion": 1,\n  "deviceProperties": [],\n')
        file.write('  "baseTimeNanoseconds": 1751410836000000000,\n  "traceEvents": [\n')
        for step, text in enumerate(steps()):
            file.write(text if step == 0 else ",\n" + text)
            if file.tell() > size:
                break
        file.write("\n  ]\n}\n")


def steps() -> Iterator[str]:
    """One decode step after the other, 120 events each."""
    names = ("aten::linear", "aten::addmm", "cudaLaunchKernel", "aten::empty_strided")
    step = 0
    while True:
        ts = 1000.0 + 8100.0 * step
        made = [
            f'  {{"ph": "X", "cat": "user_annotation", "name": "execute_context_0(0)_generation_32(32)", '
            f'"pid": 851, "tid": 851, "ts": {ts:.3f}, "dur": 8000.123, "args": {{"External id": {step}}}}}'
        ]
        for n in range(40):
            at = ts + 190 * n
            cat = "cuda_runtime" if n % 4 == 2 else "cpu_op"
            made.append(
                f'  {{\n    "ph": "X", "cat": "{cat}", "name": "{names[n % 4]}", "pid": 851, "tid": 851,\n'
                f'    "ts": {at:.3f}, "dur": 150.500,\n    "args": {{\n      "External id": {step * 40 + n},'
                f'"Record function id": 0, "Ev Idx": {step * 40 + n}\n    }}\n  }}'
            )
            made.append(
                f'  {{\n    "ph": "X", "cat": "kernel", "name": "gemm_{n}<float, 128, 64>", "pid": 0,\n'
                f'    "tid": 7,\n'
                f'    "ts": {at + 60:.3f}, "dur": 100.250,\n    "args": {{\n      "device": 0, "stream": 7, '
                f'"correlation": {step * 40 + n}, "grid": [32, 8, 1], "block": [128, 1, 1]\n    }}\n  }}'
            )
            made.append(
                f'  {{\n    "ph": "s", "id": {step * 40 + n}, "pid": 851, "tid": 851, "ts": {at:.3f},\n'
                f'    "cat": "ac2g", "name": "ac2g"\n  }}'
            )
        yield ",\n".join(made)
        step += 1


if __name__ == "__main__":
    began = time.time()
    main()
    print(f"{time.time() - began:.0f} s in all, load {os.getloadavg()[0]:.1f}")
