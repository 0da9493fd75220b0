"""Torn records accepted out of 1,000,000. Prints figures; asserts nothing.

Method: a writer process packs records into a ring of 16,384 slots as fast as it can and never waits for the
reader. Every word of a record follows from its sequence number, so that one put together of two others shows.

    python tests/bench/bench_ring.py [RECORDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.probe import agent  # noqa: E402
from prismtop.sources.ring import Ring  # noqa: E402

CAPACITY = 16_384
WRITER = """
import itertools, mmap, os, sys
sys.path.insert(0, {root!r})
from prismtop.probe import agent
fd = os.open({path!r}, os.O_RDWR)
mm = mmap.mmap(fd, 0)
pack, count, mask = agent.RECORD.pack_into, itertools.count(1).__next__, {capacity} - 1
while True:
    s = count()
    at = agent.HEADER_BYTES + ((s - 1) & mask) * 128
    pack(mm, at, s, s * 3, s * 5, 1, 2, s, s ^ 0x5555, s, s, s, s, s, s, s, s, s * 7, s)
"""


def main(wanted: int) -> None:
    """Read until `wanted` records were accepted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "ring"
        path.write_bytes(bytes(agent.HEADER_BYTES + CAPACITY * agent.RECORD.size))
        with path.open("r+b") as file:
            for word, value in (
                (agent.W_MAGIC, agent.MAGIC),
                (agent.W_VERSION, agent.VERSION),
                (agent.W_RECORD, agent.RECORD.size),
                (agent.W_CAPACITY, CAPACITY),
            ):
                file.seek(word * 8)
                file.write(value.to_bytes(8, "little"))
        ring = Ring(str(path))
        program = WRITER.format(root=str(ROOT), path=str(path), capacity=CAPACITY)
        writer = subprocess.Popen([sys.executable, "-c", program])
        accepted = torn = last = 0
        began, cpu = time.monotonic(), time.process_time()
        try:
            while accepted < wanted:
                for r in ring.read():
                    torn += r[1] != r[0] * 3 or r[2] != r[0] * 5 or r[6] != r[0] ^ 0x5555 or r[15] != r[0] * 7
                    torn += r[0] <= last
                    last = r[0]
                    accepted += 1
        finally:
            os.kill(writer.pid, 9)
            writer.wait()
        spent = time.process_time() - cpu
        print(f"records accepted         {accepted:,} in {time.monotonic() - began:.1f} s")
        print(f"torn or repeated         {torn} accepted; {ring.torn} caught half written")
        print(f"overwritten, counted     {ring.lost:,} lost; the last is number {last:,}")
        print(f"not accounted for        {last - accepted - ring.lost}")
        print(f"reader                   {spent / accepted * 1e6:.2f} us of CPU per record")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
