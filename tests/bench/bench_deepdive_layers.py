"""What layers from outside cost the target and the host. Prints figures; asserts nothing.

Method. A target with two threads: one computes for about 1 ms of its own CPU time and sleeps 0.2 ms, over
and over; the other one does so a tenth of the time. Windows of a second with a layer and without one take
turns; the target's CPU time per turn of its loop (schedstat over its own count, in a shared page) is
compared in pairs, and the median of the ratios printed: it does not see that others use the cores, only
what each turn costs. The cost of the layer itself is what its reason says: CPU time of its tools and of its
thread, with reading what was stored.

    python tests/bench/bench_deepdive_layers.py [PAIRS]
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.deepdive.layer import Collector  # noqa: E402
from prismtop.deepdive.layers.scheduler import WAYS, SchedulerCollector  # noqa: E402
from prismtop.deepdive.layers.stacks import StacksCollector  # noqa: E402

TARGET = """
import mmap, sys, threading, time
with open(sys.argv[1], "r+b") as file:
    page = mmap.mmap(file.fileno(), 8)
def work(pause):
    while True:
        x = 0
        for n in range(12000):
            x += n
        time.sleep(pause)
        yield
def second():
    for _ in work(0.01):
        pass
threading.Thread(target=second, daemon=True).start()
for turn, _ in enumerate(work(0.0002)):
    page[:] = turn.to_bytes(8, "little")
"""
WINDOW_S = 1.0


class Target:
    """The process, and how much CPU time its main thread takes a turn."""

    def __init__(self) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(bytes(8))
            file.flush()
            self._page = mmap.mmap(file.fileno(), 8)
        self.process = subprocess.Popen([sys.executable, "-c", TARGET, file.name])
        time.sleep(1.0)
        os.unlink(file.name)

    def now(self) -> tuple[int, int]:
        ran = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat").read_text().split()[0]
        return int(ran), int.from_bytes(self._page[:], "little")

    def us_a_turn(self) -> float:
        before = self.now()
        time.sleep(WINDOW_S)
        after = self.now()
        return (after[0] - before[0]) / max(1, after[1] - before[1]) / 1e3


def measure(name: str, target: Target, make: Callable[[], Collector], pairs: int) -> None:
    ratios, reasons = [], []
    for turn in range(pairs):
        collector = make()
        first = target.us_a_turn() if turn % 2 else None
        collector.start()
        end = time.monotonic() + 15
        while not getattr(collector, "running", True) and time.monotonic() < end:
            time.sleep(0.01)
        with_layer = target.us_a_turn()
        collector.stop()
        count = sum(1 for _ in collector.events())
        reasons.append(f"{count} events; {collector.after().reason}")
        without = first if first is not None else target.us_a_turn()
        ratios.append(with_layer / without)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"{name:<10} target x{statistics.median(ratios):.3f} ({spread}, {pairs} pairs); {reasons[-1]}")


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    target = Target()
    pid = target.process.pid
    try:
        time.sleep(1.0)
        for name, why, tracing in WAYS:
            missing = why()
            if missing is not None:
                print(f"{name:<10} not here: {missing}")
                continue
            one = (name, why, tracing)
            measure(name, target, lambda one=one: SchedulerCollector([pid], {pid: pid}, 30.0, [one]), pairs)  # type: ignore[misc]
        measure("schedstat", target, lambda: SchedulerCollector([pid], {pid: pid}, 30.0, []), pairs)
        measure("py-spy", target, lambda: StacksCollector(pid, 30.0), pairs)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    finally:
        target.process.kill()
        target.process.wait()


if __name__ == "__main__":
    main()
