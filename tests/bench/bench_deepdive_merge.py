"""Merging and reading back a deep capture: CPU time and memory by size of the profile.

    python tests/bench/bench_deepdive_merge.py [--megabytes 30] [--runs 3]

Writes a constructed CUDA profile (120 operators, launches and kernels a batch, flows between them) of that
size to the temporary folder, and deletes it. Every figure comes from a process of its own: CPU time is
`time.process_time` of the work alone, imports excluded; memory is the peak of its resident set (VmHWM, which
unlike `ru_maxrss` does not begin with that of the process that started it). Prints medians; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.factories import MS  # noqa: E402
from tests.unit.deep_profiles import MONO, US, Kineto, batch_times  # noqa: E402

STEPS_PER_MB = 17.5
KERNELS = 40

WORK = """
import json, re, sys, time
from pathlib import Path
from prismtop.deepdive.analysis import of_trace
from prismtop.deepdive.merge import write_trace
from prismtop.trace.load import load
from tests.unit.deep_profiles import *
import numpy
profile, target, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
frames = frames_of([eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(steps))])
start = time.process_time()
made = write_trace(target, frames=frames, fetched=[Fetched(PID, profile)], layers=(), capture=make_capture())
merged = time.process_time() - start
memory = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
start = time.process_time()
trace = load([target])
opened = time.process_time() - start
start = time.process_time()
of_trace(trace)
print(json.dumps([made.events, made.size_bytes, merged, memory, opened, time.process_time() - start]))
"""


def write_profile(path: Path, steps: int) -> None:
    """A profile of so many batches of 8 ms."""
    made = Kineto()
    made.markers(MONO - 2 * MS)
    for start in batch_times(steps):
        for kernel in range(KERNELS):
            at = start + 1 * MS + kernel * 45 * US
            ids = {"External id": kernel, "Record function id": 0, "Ev Idx": kernel}
            made.host("cpu_op", "aten::linear", at, at + 40 * US, **ids)
            made.host("cpu_op", "aten::addmm", at + 2 * US, at + 35 * US, **ids)
            begin = start + 1 * MS + kernel * 100 * US + 20 * US
            name = f"void cutlass::kernel_{kernel}<128,64>(int, float*)"
            made.launch(name, at + 10 * US, (begin, begin + 90 * US))
    made.markers(MONO + steps * 8 * MS + MS)
    made.write(path)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    steps = round(asked.megabytes * STEPS_PER_MB)
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile.json"
        write_profile(profile, steps)
        rows = []
        for run in range(asked.runs):
            target = Path(folder) / f"deep{run}.json.gz"
            words = [sys.executable, "-c", WORK, str(profile), str(target), str(steps)]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        events, size, merged, memory, opened, analysed = (
            statistics.median(row[n] for row in rows) for n in range(6)
        )
        print(f"profile {profile.stat().st_size / 1e6:.1f} MB, {steps} batches -> {events:.0f} events")
        print(f"merged  {merged:.2f} s of CPU, {memory:.0f} MB of memory, {size / 1e6:.2f} MB written")
        print(f"opened  {opened:.2f} s of CPU the first time, analysed {analysed:.2f} s")


if __name__ == "__main__":
    main()
