"""A program with a loop that no profile knows; it counts its turns.

usage: loop_engine.py MODE COUNTER_FILE        (Python 3.9 to 3.15, standard library only)

On SIGUSR1 it writes to COUNTER_FILE.monitoring which tools and events are left in sys.monitoring.
"""
import asyncio
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time

mode, path = sys.argv[1:3]
with open(path, "r+b") as f:
    shared = mmap.mmap(f.fileno(), 8)
turns = 0


def count():
    global turns
    turns += 1
    struct.pack_into("<Q", shared, 0, turns)


def compute(n):
    total = 0
    for i in range(n):
        total += i
    return total


class Engine:
    def turn(self):
        for _layer in range(4):
            for _head in range(2):
                compute(1500)
        time.sleep(0.004)
        count()

    def run(self):
        number = 0
        while True:
            number += 1
            if number % 5 == 0:
                self.turn()
                continue
            for _a in range(3):
                for _b in range(2):
                    number += 0
            self.turn()


async def turn_async():
    compute(50_000)
    await asyncio.sleep(0.004)
    count()


async def run_async():
    while True:
        await turn_async()


def report(number, frame):
    left = {}
    mon = getattr(sys, "monitoring", None)
    if mon is not None:
        left["tools"] = [mon.get_tool(n) for n in range(6)]
        mon.use_tool_id(4, "test")
        codes = [Engine.run.__code__, Engine.turn.__code__, compute.__code__, run_async.__code__]
        left["events"] = [mon.get_local_events(4, code) for code in codes]
        left["callbacks"] = [mon.register_callback(4, 1 << n, None) is not None for n in range(10)]
        mon.free_tool_id(4)
    left["modules"] = [name for name in sys.modules if name == "_prismtop_probe"]
    left["code"] = Engine.turn.__code__.co_varnames
    with open(path + ".tmp", "w") as out:
        json.dump(left, out)
    os.rename(path + ".tmp", path + ".monitoring")


def ready():
    print("PID", os.getpid(), flush=True)


def hot():
    return 1


signal.signal(signal.SIGUSR1, report)
threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
if mode == "plain":
    ready()
    Engine().run()
elif mode == "thread":
    worker = threading.Thread(target=Engine().run)
    worker.start()
    ready()
    while True:
        worker.join(0.5)
elif mode == "asyncio":
    ready()
    asyncio.run(run_async())
elif mode == "spin":
    ready()
    while True:
        hot()
else:
    sys.exit("unknown mode " + mode)
