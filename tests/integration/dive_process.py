"""A prismtop that captures, and says each phase: `python -m tests.integration.dive_process PID FILE PHASE`.

It stays in PHASE for a minute: the window is long, or the merge waits. Somebody kills it there.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

from prismtop.commands.attaching import open_session
from prismtop.commands.choose import named_group, profiles_in_use
from prismtop.deepdive import driver
from prismtop.model import CaptureRequest
from tests.unit.doubles import make_context


def main() -> None:
    pid, path, phase = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    tools = driver.real_tools()

    def slow(*args: Any, **more: Any) -> Any:
        time.sleep(60)

    if phase == "merging":
        driver.real_tools = lambda: replace(tools, write=slow)
    long = phase == "capturing"
    request = CaptureRequest(batches=5_000 if long else 10, max_s=60.0, path=path)
    context, _, _ = make_context()
    profiles = profiles_in_use()
    session = open_session(context, named_group([pid], profiles), profiles, remember=False, deepdive=True)
    told = session.deepdive(request).phase.value
    print(told, flush=True)
    while True:
        capture = session.tick().capture
        assert capture is not None
        if capture.phase.value != told:
            told = capture.phase.value
            print(told, capture.error, flush=True)
            if capture.phase.final:
                return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
