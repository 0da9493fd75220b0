"""Makes the main thread of a process call clobber() of vector_check.c, COUNT times.

usage: clobber.py PID LIBRARY COUNT [STEP]      with STEP: kills itself (SIGKILL) when that step is reached
"""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))
from prismtop.attach.elf import ElfFile
from prismtop.attach.gadgets import find_gadgets
from prismtop.attach.process import read_maps, read_stat
from prismtop.attach.ptrace import StoppedThread

pid, library, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
step = sys.argv[4] if len(sys.argv) > 4 else None


def on_step(name):
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)


maps = read_maps(pid)
here = next(m for m in maps if m.path == library)
with ElfFile(library) as elf:
    function = elf.symbols(["clobber"])["clobber"][0] + elf.load_bias(here.start, here.offset)
gadgets = find_gadgets(pid, maps)
start_time = read_stat(pid).start_time
for _ in range(count):
    with StoppedThread(pid, pid, start_time, maps, on_step) as thread:
        thread.prepare(gadgets)
        if thread.call(function) != -77:
            sys.exit("wrong result")
    time.sleep(0.005)
