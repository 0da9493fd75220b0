"""An injector that freezes its victim and then does nothing any more. Arguments: DIRECTORY VICTIM TTL_S."""

import os
import signal
import sys
import time
from pathlib import Path

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.journal import make_header
from prismtop.targets.procfs import read_stat

directory, victim, ttl = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
start = read_stat(victim).start_time
guard = Guard(make_header("hung", "test", victim, start), ttl, directory)
guard.spawn([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
guard.record("continue", pid=victim, start=start)
os.kill(victim, signal.SIGSTOP)
print(guard._watchdog, guard._children[0], flush=True)
while True:
    time.sleep(60)
