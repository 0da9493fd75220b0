"""An ordinary program to be entered: one main thread, in one of several modes, that counts its turns.

usage: modes.py MODE COUNTER_FILE        (Python 3.9 to 3.15, standard library only)
"""
import mmap
import os
import struct
import sys
import threading
import time

mode, path = sys.argv[1:3]
with open(path, "r+b") as f:
    shared = mmap.mmap(f.fileno(), 8)
turns = 0


def tick():
    global turns
    turns += 1
    struct.pack_into("<Q", shared, 0, turns)


def idle_threads(n):
    for _ in range(n):
        threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()


def ready():
    print("PID", os.getpid(), flush=True)


def allocate():
    while True:
        blocks = [bytes(i % 3000 + 600) for i in range(400)]
        if sum(len(b) for b in blocks) != sum(i % 3000 + 600 for i in range(400)):
            os._exit(77)


if mode == "spin":
    ready()
    while True:
        tick()
elif mode == "spin_threads":
    idle_threads(2)
    ready()
    while True:
        tick()
elif mode == "loop":
    idle_threads(2)
    ready()
    while True:
        tick()
        time.sleep(0.002)
elif mode == "sleep":
    ready()
    while True:
        tick()
        time.sleep(0.01)
elif mode == "malloc":
    idle_threads(1)
    for _ in range(3):
        threading.Thread(target=allocate, daemon=True).start()
    ready()
    while True:
        blocks = [bytes(i % 3000 + 600) for i in range(400)]
        tick()
elif mode == "queue":
    import queue

    lines = queue.Queue()

    def reader():
        for line in sys.stdin:
            lines.put(line)

    threading.Thread(target=reader, daemon=True).start()
    ready()
    while True:
        lines.get()
        tick()
elif mode == "select":
    import select

    ready()
    while True:
        select.select([sys.stdin], [], [])
        os.read(0, 100)
        tick()
elif mode == "asyncio":
    import asyncio

    async def main():
        def line():
            os.read(0, 100)
            tick()

        asyncio.get_running_loop().add_reader(0, line)
        ready()
        await asyncio.Event().wait()

    asyncio.run(main())
elif mode == "interrupt":
    idle_threads(1)
    ready()
    try:
        while True:
            tick()
            time.sleep(0.001)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
elif mode == "terminate":
    import signal

    def stop(number, frame):
        raise SystemExit(42)

    signal.signal(signal.SIGTERM, stop)
    idle_threads(1)
    ready()
    while True:
        tick()
        time.sleep(0.001)
elif mode == "no_memfd":
    import ctypes

    rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 319), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", *r) for r in rules)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("f", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.syscall(317, 1, 1, ctypes.byref(Program(len(rules), ctypes.addressof(buffer)))) != 0:
        sys.exit("no seccomp")
    idle_threads(1)
    ready()
    while True:
        tick()
        time.sleep(0.01)
elif mode == "vfork":  # where there is a fifo beside the counter, it waits in vfork(2) until that is written to
    idle_threads(2)
    ready()
    while True:
        tick()
        time.sleep(0.002)
        if os.path.exists(path + ".fifo"):
            opens = (os.POSIX_SPAWN_OPEN, 0, path + ".fifo", os.O_RDONLY, 0)
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=[opens]), 0)
            os.unlink(path + ".fifo")
elif mode == "undumpable":
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    ready()
    while True:
        tick()
        time.sleep(0.01)
else:
    sys.exit("unknown mode " + mode)
