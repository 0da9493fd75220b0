"""Kills an injector again and again at random moments and looks for what is left. Prints one JSON line a time.

Arguments: DIRECTORY COUNT SEED. A process with one thread: it forks.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from prismtop.anomaly.faults import cgroups
from prismtop.anomaly.guard import Guard
from prismtop.anomaly.injector import make_work_dir
from prismtop.anomaly.journal import make_header, path_for
from prismtop.anomaly.scenario import Request
from prismtop.anomaly.undo import VARIABLE
from prismtop.targets.procfs import pids, read_environ, read_stat


def sleeper():
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(60)
    return pid


def inject(victim, start, directory, with_cgroup):
    """Does everything that can be undone, over and over."""
    guard = Guard(make_header(f"t{os.getpid()}", "test", victim, start), 60.0, directory)
    make_work_dir(guard, guard.header.experiment)
    guard.spawn([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    guard.record("continue", pid=victim, start=start)
    request = Request(victim, start, experiment=guard.header.experiment)

    def bursts():
        while True:
            os.kill(victim, signal.SIGSTOP)
            time.sleep(0.002)
            os.kill(victim, signal.SIGCONT)
            time.sleep(0.002)

    if not with_cgroup:
        bursts()
    with cgroups.moved(request, guard, "cpu", 0.5):
        bursts()


def state_of(victim):
    stat = read_stat(victim)
    return stat.state if stat else "gone"


def lines_of(journal):
    try:
        return journal.read_bytes().count(b"\n")
    except OSError:
        return 0


def groups_left(experiment):
    where = cgroups.cpu()
    return [str(path) for path in where.mount.glob(f"prismtop-{experiment}*")] if where else []


def processes_left(experiment):
    return [
        pid
        for pid in pids()
        if read_environ(pid, VARIABLE) == experiment and not (read_stat(pid) or read_stat(1)).dead
    ]


def once(directory, rng, with_cgroup):
    victim = sleeper()
    start = read_stat(victim).start_time
    home = Path(f"/proc/{victim}/cgroup").read_text()
    injector = os.fork()
    if injector == 0:
        try:
            prefer(0)
            inject(victim, start, directory, with_cgroup)
        finally:
            os._exit(1)
    experiment = f"t{injector}"
    journal = path_for(directory, victim, start)
    # At any moment from the fork on, or some milliseconds after the n-th act.
    wanted, limit = rng.choice((0, 0, 1, 2, 3, 4, 5, 5)), time.monotonic() + 5
    while lines_of(journal) < wanted and time.monotonic() < limit:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02 if wanted else 0.15))
    reached = lines_of(journal)
    killed = time.monotonic()
    os.kill(injector, signal.SIGKILL)
    os.waitpid(injector, 0)
    work = Path(f"/tmp/prismtop-{experiment}")

    def left():
        found = []
        if state_of(victim) not in "SR":
            found.append(f"victim is {state_of(victim)}")
        found += [str(path) for path in (journal, work) if path.exists()]
        found += groups_left(experiment)
        if Path(f"/proc/{victim}/cgroup").read_text() != home:
            found.append("victim is in another group")
        return found

    # Twice in a row: a watchdog that has not begun has left nothing yet.
    clean_since = None
    last = held = killed
    while time.monotonic() - killed < 10:
        if left():
            clean_since, last = None, time.monotonic()
            if any(text.startswith("victim") for text in left()):
                held = time.monotonic()
        elif clean_since is None:
            clean_since = time.monotonic()
        elif time.monotonic() - clean_since > 0.05:
            break
        time.sleep(0.001)
    found = left() + [f"process {pid}" for pid in processes_left(experiment)]
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    return {"left": found, "ms": 1000 * (last - killed), "victim_ms": 1000 * (held - killed), "journal_lines": reached}


def prefer(nice):
    """So that on a busy machine the watchdog is measured, and not how late the measurer came."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        pass


def main():
    prefer(-15)
    directory, count, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    with_cgroup = cgroups.check_cpu(None).ok
    for _ in range(count):
        print(json.dumps(once(directory, rng, with_cgroup)), flush=True)


if __name__ == "__main__":
    main()
