"""What `prismtop watch --json` costs and how late it is. Prints figures; asserts nothing.

Method: a demo engine under steady load of its own; `watch` as a separate process, its stdout read here line
by line. Lag is the wall time at which a line was read here minus the end of its batch (`t_us` + `dur_us`), so
it includes the assembly, the tick, the pipe and this reader. CPU is user + system time of the `watch` process
from its first batch to its last, over the same wall time. RSS is its peak (VmHWM).

    python tests/bench/bench_watch.py [SECONDS] [REQUESTS_PER_S]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def cpu_s(pid: int) -> float:
    """User and system time of a process, of threads that have ended too: by its CPU clock, to the nanosecond
    (clock_getcpuclockid(3): the id is made of the pid).
    """
    return time.clock_gettime(~pid << 3 | 2)


def peak_rss_mb(pid: int) -> float:
    """VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(seconds: float = 20.0, rate: float = 3.0) -> None:
    """Run it and print one line per figure."""
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0", "--die-with-parent"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = "http://127.0.0.1:" + server.stdout.readline().rsplit(":", 1)[1].strip()
    arguments = ["--url", url, "--duration", "0", "--pattern", "steady", "--rate", str(rate)]
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    time.sleep(2)
    started = time.time()
    watch = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "prismtop",
            "watch",
            "--pid",
            str(server.pid),
            "--json",
            "--duration",
            str(seconds),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    lags: list[float] = []
    first = cpu_first = wall_first = 0.0
    lost, rss, cpu, wall = 0, 0.0, 0.0, 0.0
    try:
        assert watch.stdout is not None
        reader = os.fdopen(os.dup(watch.stdout.fileno()), "rb", buffering=1 << 16)
        for raw in reader:
            now = time.time()
            line = json.loads(raw)
            if line["type"] == "lost":
                lost += line["count"]
            if line["type"] != "batch":
                continue
            if not lags:
                first, cpu_first, wall_first = now - started, cpu_s(watch.pid), now
            lags.append(now * 1e3 - (line["t_us"] + line["dur_us"]) / 1e3)
            if len(lags) % 50 == 0:
                rss, cpu, wall = peak_rss_mb(watch.pid), cpu_s(watch.pid), now
    finally:
        for process in (watch, load, server):
            process.terminate()
            process.wait()
    if wall <= wall_first:
        sys.exit(f"only {len(lags)} batches were seen")
    per_s = len(lags) / (wall - wall_first)
    print(f"batches seen             {len(lags)} ({per_s:.0f}/s), {lost} records lost")
    print(f"start to first batch     {first:.2f} s")
    print(f"batch end to line        p50 {statistics.median(lags):.1f}  p99 {percentile(lags, 0.99):.1f} ms")
    share = (cpu - cpu_first) / (wall - wall_first)
    print(f"CPU of watch             {100 * share:.2f} % of a core at {per_s:.0f} batches/s")
    print(f"peak RSS of watch        {rss:.0f} MB")
    print(f"load average             {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
