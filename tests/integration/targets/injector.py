"""Injects in a process of its own, step by step observable: the tests end it wherever they like.

usage: injector.py PID main|aux COUNT [STEP [NTH]]
With STEP it kills itself (SIGKILL) the NTH time that step is reached. Otherwise prints one JSON line.
"""
import json
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))
from prismtop.attach.errors import InjectionError
from prismtop.attach.handshake import Handshake, look
from prismtop.attach.helper import in_front, shield
from prismtop.attach.payload import safe_template
from prismtop.attach.process import read_stat
from prismtop.attach.ptrace_inject import PtraceInjector
from prismtop.attach.rehearsal import rehearse

pid, where, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
step = sys.argv[4] if len(sys.argv) > 4 else None
left = [int(sys.argv[5]) if len(sys.argv) > 5 else 1]
seen_steps = []


def on_step(name):
    seen_steps.append(name)
    if name == step:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


BODY = """
import builtins, os
builtins._prismtop_runs = getattr(builtins, '_prismtop_runs', 0) + 1
old, builtins._prismtop_fd = getattr(builtins, '_prismtop_fd', -1), os.memfd_create('prismtop-%s')
if old >= 0:
    os.close(old)
"""
os.setsid()  # as the helper: in_front raises the whole session, and a kill -9 leaves it there
rehearse()
injector = PtraceInjector(pid, read_stat(pid).start_time, on_step, in_front)
shield()
pauses, kinds, freed, errors, waiting = [], {}, 0, {}, []


def give_back():
    """Unmap the sources of payloads that were seen to run; those before the last one seen have run, too."""
    global waiting, freed
    for i, (handshake, scratch) in enumerate(waiting):
        if look(pid, handshake).started:
            for _, ready in waiting[: i + 1]:
                freed += injector.unmap(ready)
            waiting = waiting[i + 1 :]
            return


for i in range(count):
    nonce = "%x" % random.getrandbits(60)
    handshake = Handshake.of(nonce)
    try:
        done = injector.inject(
            safe_template(BODY % nonce, nonce), handshake, timeout_s=0 if count > 1 else 0.05, auxiliary=where == "aux"
        )
    except InjectionError as e:
        if count == 1:
            raise
        errors[str(e)] = errors.get(str(e), 0) + 1
        time.sleep(0.1)
        give_back()
        continue
    pauses.append(done.pause_us)
    kinds[done.thread_kind] = kinds.get(done.thread_kind, 0) + 1
    waiting.append((handshake, done.scratch))
    time.sleep(random.random() * 0.01)
    if count > 1:
        give_back()
end = time.monotonic() + 5
while waiting and count > 1 and time.monotonic() < end:
    time.sleep(0.05)
    give_back()
print(json.dumps({"done": len(pauses), "pauses": pauses, "kinds": kinds, "freed": freed, "errors": errors,
                  "steps": list(dict.fromkeys(seen_steps))}))
