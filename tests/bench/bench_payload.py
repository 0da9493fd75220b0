"""What the injected payload costs the target's main thread: CPU time in fresh processes with cold caches.

    python tests/bench/bench_payload.py [ENGINE] [ROUNDS]

Each round starts a Python of this version with a stand-in for the engine's modules, evicts the caches (48 MiB
written), and runs the payload as PyRun_SimpleString does: with its data in that process's own memory, as the
ptrace way brings them, and as one text, as the PEP 768 way does. Printed are medians: the CPU that it takes
on the main thread, the CPU that the thread takes which builds the probe (in pieces, between which the
interpreter is the engine's), and the hooks that are in then. Nothing is asserted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.sources import payload  # noqa: E402
from prismtop.sources.hook_code import HookPlan, plan_hook  # noqa: E402
from prismtop.targets.profiles import hooks_for, load_profiles  # noqa: E402
from tests.bench.bench_watch import percentile  # noqa: E402

TARGET = r"""
import ctypes, mmap, struct, sys, threading, time, types, weakref  # as in every engine
size, places = sys.stdin.buffer.readline().split(b" ", 1)
source = sys.stdin.buffer.read(int(size)).decode()
data = sys.stdin.buffer.read()
for module, name, parameters in eval(places):
    made = sys.modules.setdefault(module, types.ModuleType(module))
    owner, _, method = name.rpartition(".")
    scope = {}
    exec("def %s(%s): return None" % (method, ", ".join(parameters)), scope)
    if owner:
        made.__dict__.setdefault(owner, type(owner, (), {}))
    setattr(made.__dict__[owner] if owner else made, method, scope[method])
held = ctypes.create_string_buffer(data, len(data))
source = source.replace("<prismtop address>", str(ctypes.addressof(held))).encode() + b"\0"
run = ctypes.pythonapi.PyRun_SimpleString
evicted = bytearray(48 << 20)
for at in range(0, len(evicted), 64):
    evicted[at] = 1
began = time.thread_time_ns()
run(source)
spent = time.thread_time_ns() - began
while not hasattr(sys.modules.get("_prismtop_probe"), "AGENT"):
    time.sleep(0.01)
agent = sys.modules["_prismtop_probe"].AGENT
print(spent, agent.setup, sum(bool(hook.mechanism) for hook in agent.hooks.values()))
"""


def main(engine: str = "vllm", rounds: int = 12) -> None:
    """Measure with the hooks of the engine's anchor process."""
    profile = load_profiles()[engine]
    assert profile.batch is not None
    hooks = hooks_for(profile, profile.batch.role, None)[:64]
    ends = profile.batch.settle or profile.batch.open
    plans = [plan_hook(n, hook, boundary=hook.boundary or hook.name in ends) for n, hook in enumerate(hooks)]
    places = [
        (plan.hook.module, plan.hook.qualname, sorted({"self", *payload.spec(plan)["names"]}))  # type: ignore[misc]
        for plan in plans
    ]
    print(f"{engine}, {len(plans)} hooks, {rounds} fresh processes each")
    for form in ("data in memory", "one text"):
        rows = [_run(f"bench{number}", plans, places, form == "one text") for number in range(rounds)]
        sent, whole, setup, installed = zip(*rows, strict=True)
        cpu_us, p90_us = statistics.median(whole) / 1e3, percentile(list(whole), 0.9) / 1e3
        probe_us, count = statistics.median(setup) / 1e3, statistics.median(installed)
        print(f"{form}, {statistics.median(sent):.0f} bytes")
        print(f"  CPU on the main thread    median {cpu_us:.0f} us, p90 {p90_us:.0f} us")
        print(f"  on the thread that builds median {probe_us:.0f} us, {count:.0f} hooks in")


def _run(nonce: str, plans: list[HookPlan], places: object, as_text: bool) -> tuple[int, ...]:
    """(bytes sent, ns on the main thread, ns on the other, hooks in) of one process."""
    built = payload.build(
        plans,
        nonce=nonce,
        lease_s=10.0,
        mechanisms=("monitoring", "setattr", "code"),
        pid=os.getpid(),
        python=sys.version_info[:2],
    )
    direct = built.direct(nonce)
    assert direct is not None
    source, data = (built.as_text(nonce), b"-") if as_text else (direct.template, direct.data)
    done = subprocess.run(
        [sys.executable, "-c", TARGET],
        input=f"{len(source)} {places!r}\n".encode() + source.encode() + data,
        stdout=subprocess.PIPE,
        check=True,
    )
    return len(source) + len(data), *map(int, done.stdout.split())


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
