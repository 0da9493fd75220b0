"""A program whose threads notice every disturbance: early wake-ups, EINTR in raw C calls, lost data, wrong sums.

usage: careful.py SECONDS [alarm]        prints one JSON line at the end        (Python 3.9 to 3.15)
With `alarm` a timer signal arrives 200 times a second; the kernel may then give it to any thread.
"""
import ctypes
import json
import os
import queue
import select
import signal
import sys
import threading
import time

errors = []
counts = {}
libc = ctypes.CDLL(None, use_errno=True)
with_alarm = len(sys.argv) > 2


def took(name, seconds, at_least):
    counts[name] = counts.get(name, 0) + 1
    if seconds < at_least - 0.0005:
        errors.append((name, "early", seconds, at_least))


def sleeper():
    while True:
        t = time.perf_counter()
        time.sleep(0.02)
        took("sleep", time.perf_counter() - t, 0.02)


class Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("n", ctypes.c_long)]


class Pollfd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def raw_nanosleep():
    while True:
        ts = Timespec(0, 20_000_000)
        t = time.perf_counter()
        if libc.nanosleep(ctypes.byref(ts), None) != 0:
            errors.append(("nanosleep", ctypes.get_errno()))
        took("nanosleep", time.perf_counter() - t, 0.02)


def raw_poll():
    r, _ = os.pipe()
    while True:
        p = Pollfd(r, 1, 0)
        t = time.perf_counter()
        if libc.poll(ctypes.byref(p), 1, 25) != 0:
            errors.append(("poll", ctypes.get_errno()))
        took("poll", time.perf_counter() - t, 0.025)


def raw_epoll():
    epoll = libc.epoll_create1(0)
    event = ctypes.create_string_buffer(12)
    while True:
        t = time.perf_counter()
        if libc.epoll_wait(epoll, event, 1, 30) != 0:
            errors.append(("epoll_wait", ctypes.get_errno()))
        took("epoll_wait", time.perf_counter() - t, 0.03)


def event():
    e = threading.Event()
    while True:
        t = time.perf_counter()
        e.wait(0.015)
        took("event", time.perf_counter() - t, 0.015)


def python_epoll():
    p = select.epoll()
    r, _ = os.pipe()
    p.register(r, select.EPOLLIN)
    while True:
        t = time.perf_counter()
        p.poll(0.02)
        took("epoll", time.perf_counter() - t, 0.0195)


def pipe():
    r, w = os.pipe()

    def writer():
        i = 0
        while True:
            os.write(w, i.to_bytes(8, "little"))
            i += 1
            time.sleep(0.003)

    threading.Thread(target=writer, daemon=True).start()
    i = 0
    while True:
        if int.from_bytes(os.read(r, 8), "little") != i:
            errors.append(("pipe", i))
        i += 1
        counts["pipe"] = i


def queued():
    q = queue.Queue()

    def producer():
        i = 0
        while True:
            q.put(i)
            i += 1
            time.sleep(0.002)

    threading.Thread(target=producer, daemon=True).start()
    i = 0
    while True:
        if q.get() != i:
            errors.append(("queue", i))
        i += 1
        counts["queue"] = i


def allocate():
    while True:
        blocks = [bytes(j % 3000) for j in range(2000)]
        counts["alloc"] = counts.get("alloc", 0) + 1
        if sum(len(b) for b in blocks) != sum(j % 3000 for j in range(2000)):
            errors.append(("alloc",))


if with_alarm:
    signal.signal(signal.SIGALRM, lambda *a: counts.__setitem__("alarm", counts.get("alarm", 0) + 1))
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
for work in (sleeper, raw_nanosleep, raw_poll, raw_epoll, event, python_epoll, pipe, queued, allocate):
    threading.Thread(target=work, daemon=True).start()
mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
print("PID", os.getpid(), flush=True)
end = time.monotonic() + float(sys.argv[1])
x, turns = 0.0, 0
while time.monotonic() < end:
    x = 0.0
    for i in range(20000):
        x += i * 0.5
    if x != 99995000.0:
        errors.append(("float", x))
    turns += 1
    time.sleep(0.0005)
same_mask = mask == signal.pthread_sigmask(signal.SIG_BLOCK, [])
import builtins

print(json.dumps({"turns": turns, "counts": counts, "errors": [repr(e) for e in errors[:20]], "n": len(errors),
                  "runs": getattr(builtins, "_prismtop_runs", 0), "mask": same_mask}), flush=True)
os._exit(0)
