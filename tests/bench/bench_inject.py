"""How long an attach stops the target: 200 attaches through the real helper process.

    python tests/bench/bench_inject.py [MINOR ...] [-n 200]

Two clocks. Ours: from the request to stop a thread to its release (an upper bound; `pause_us`). The
target's own: a loop thread that does nothing but read its clock and notes every gap above 0.1 ms. On a
busy machine that loop has gaps of its own, so two other windows follow each attach: one in which the
helper process runs and injects nothing, and one of nothing at all. With --boost (root) the target goes in
front of all other work, as an engine that has its cores to itself. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.attach.ladder import Handshake, Injection, helper_may_attach, inject  # noqa: E402
from prismtop.attach.payload import safe_template  # noqa: E402
from prismtop.attach.process import read_stat  # noqa: E402
from tests.integration.targets.harness import find_python  # noqa: E402

# The loop thread is the main thread, as in an engine; two more threads sleep. It prints its gaps at the end.
TARGET = """
import json, os, signal, sys, threading, time
for _ in range(int(sys.argv[1])):
    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
gaps, clock, done = [], time.monotonic_ns, [False]
signal.signal(signal.SIGUSR1, lambda *a: done.__setitem__(0, True))
print('PID', os.getpid(), flush=True)
end = clock() + int(float(sys.argv[2]) * 1e9)
last = clock()
while not done[0]:
    now = clock()
    if now - last > 100000:
        gaps.append((last, now - last))
    if now > end:
        break
    last = now
print(json.dumps(gaps), flush=True)
"""
# The sign that it ran stays until the next one, as that of a probe does: where it is gone before it is seen,
# the main thread is stopped once more to nudge it.
BODY = """
import os, sys
os.close(sys.__dict__.pop('_bench_fd', None) or os.dup(0))
sys._bench_fd = os.memfd_create('prismtop-%s')
"""


def percentile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` of all lie; nan for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def longest_gap(gaps: list[tuple[int, int]], start: int, end: int) -> float:
    """Microseconds of the longest gap of the loop that overlaps a window."""
    return max((g / 1e3 for at, g in gaps if at < end and at + g > start), default=0.0)


def measure(python: str, threads: int, count: int, boost: bool) -> None:
    """Attach `count` times and print what both clocks saw."""
    target = subprocess.Popen(
        [python, "-c", TARGET, str(threads), str(count * 3 + 30)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert target.stdout is not None
    try:
        pid = int(target.stdout.readline().split()[1])
        start_time = read_stat(pid).start_time
        if boost:
            os.setpriority(os.PRIO_PROCESS, pid, -20)
            Path(f"/proc/{pid}/autogroup").write_text("-20")
        done: list[Injection] = []
        attached: list[tuple[int, int]] = []
        control: list[tuple[int, int]] = []
        quiet: list[tuple[int, int]] = []
        for _ in range(count):
            nonce = secrets.token_hex(6)
            began = time.monotonic_ns()
            source = safe_template(BODY % nonce, nonce)
            done.append(inject(pid, start_time, source, started=Handshake.of(nonce), timeout_s=0.1))
            ended = time.monotonic_ns()
            attached.append((began, ended))
            helper_may_attach(pid, 0)
            control.append((ended, time.monotonic_ns()))
            began = time.monotonic_ns()
            time.sleep((ended - attached[-1][0]) / 1e9)
            quiet.append((began, time.monotonic_ns()))
        target.send_signal(signal.SIGUSR1)
        gaps = [(int(a), int(b)) for a, b in json.loads(target.stdout.readline())]
    finally:
        target.kill()
        target.wait()
    ways = {d.way.value for d in done}
    kinds = {d.thread_kind: sum(x.thread_kind == d.thread_kind for x in done) for d in done}
    name = Path(python).resolve().name
    print(f"{name}, {threads} idle threads, {count} attaches by {', '.join(ways)}, threads {kinds}")
    show("stop of the thread used (ours, upper bound)", [d.pause_us for d in done])
    show("stop of the main thread, nudges and wakes", [d.main_pause_us for d in done])
    show("whole attach, helper process included", [d.total_us for d in done])
    show("longest gap of the loop, windows with an attach", [longest_gap(gaps, a, b) for a, b in attached])
    show("the same, helper process without an injection", [longest_gap(gaps, a, b) for a, b in control])
    show("the same, nothing at all", [longest_gap(gaps, a, b) for a, b in quiet])
    for label, windows in (("attach", attached), ("helper alone", control), ("nothing", quiet)):
        over = sum(longest_gap(gaps, a, b) > 1000 for a, b in windows)
        print(f"  windows with a gap above 1 ms, {label}: {over} of {count}")


def show(name: str, values: Sequence[float]) -> None:
    """One line of figures, in microseconds."""
    print(
        f"  {name:52s} median {statistics.median(values):8.0f} us   p95 {percentile(values, 0.95):8.0f}"
        f"   p99 {percentile(values, 0.99):8.0f}   max {max(values):8.0f}"
    )


def main() -> None:
    """Measure on each version asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("minors", nargs="*", default=["3.11", "3.13", "3.14"])
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--boost", action="store_true", help="run the target at nice -20 (root)")
    options = parser.parse_args()
    load = Path("/proc/loadavg").read_text().split()[:3]
    print(f"load {' '.join(load)}; times in microseconds")
    for minor in options.minors:
        python = find_python(minor)
        if python is None:
            print(f"CPython {minor}: not installed")
            continue
        for threads in (2, 0):
            measure(python, threads, options.n, options.boost)


if __name__ == "__main__":
    main()
