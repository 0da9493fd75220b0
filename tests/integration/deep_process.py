"""Captures one process deeply and says what happens, until it is killed.

`python -m tests.integration.deep_process PID PROFILES LEASE_S [BATCHES]` prints each phase of the capture
when it begins; a capture that is ready stays unfetched.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from prismtop.sources.deep_link import DeepLink
from prismtop.sources.live import AttachOptions, LiveSource, attach
from prismtop.targets.discovery import group_of
from prismtop.targets.profiles import load_profiles
from tests.integration.deep import OPTIONS


def main() -> None:
    pid, lease_s = int(sys.argv[1]), float(sys.argv[3])
    batches = int(sys.argv[4]) if len(sys.argv) > 4 else 50
    profiles = load_profiles(Path(sys.argv[2]))
    group = group_of(pid, profiles)
    source = attach(group, profiles[group.engine], AttachOptions(metrics=False, lease_s=lease_s))
    assert isinstance(source, LiveSource)
    link = source._links[0]
    options = replace(OPTIONS, batches=batches, max_s=60.0, max_events=400_000)
    dive = DeepLink(link, options)
    preparing = threading.Thread(target=dive.prepare, daemon=True)
    preparing.start()
    phase = started = ""
    while True:
        source.poll()
        if not started and not preparing.is_alive():
            dive.start()
            started = "yes"
        now = dive.poll().phase if started else ""
        if now != phase:
            phase = now
            print(phase, flush=True)
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
