"""The merge in a process of its own: it takes a core for a second or more, and the interpreter's lock too.

In a thread it would hold up the session, whose ticks are what keeps the probe in the engine; a thread that
gives way to others (nice) would even hold the lock while it waits for a core.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import WrittenTrace, write_trace
from prismtop.errors import PrismtopError, UnavailableError
from prismtop.model import Capture, Frame
from prismtop.safe_text import safe_text
from prismtop.sources.deep_link import FetchedDeep

NICE = 5
"""The engine comes first."""
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def write_apart(
    target: Path,
    *,
    frames: Sequence[Frame],
    fetched: Sequence[FetchedDeep],
    layers: Iterable[LayerEvent],
    capture: Capture,
) -> WrittenTrace:
    """`write_trace` in another process, which ends with this one.

    Raises:
        PrismtopError: as `write_trace`; or the process died.
    """
    given = pickle.dumps((target, frames, fetched, list(layers), capture), pickle.HIGHEST_PROTOCOL)
    home = str(Path(__file__).resolve().parent.parent.parent)
    paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    done = subprocess.run(
        [sys.executable, "-m", "prismtop.deepdive.apart", str(os.getpid())],
        input=given,
        capture_output=True,
        check=False,
        start_new_session=True,  # ctrl-c is for us: we end it, or let it finish
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        why = safe_text(said[-1], 200) if said else f"it ended with {done.returncode}"
        raise UnavailableError(f"the process that merges failed: {why}.")
    result: WrittenTrace | tuple[str, str, int] = pickle.loads(done.stdout)
    if isinstance(result, WrittenTrace):
        return result
    message, fix, code = result
    raise PrismtopError(message, exit_code=code, fix=fix)


def main() -> None:
    """The other process: what to write comes on stdin, what was written goes to stdout."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the unfinished file is removed
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it ended before it could be asked to take this one along
        return
    os.nice(NICE)
    target, frames, fetched, layers, capture = pickle.load(sys.stdin.buffer)
    try:
        written = write_trace(target, frames=frames, fetched=fetched, layers=layers, capture=capture)
    except PrismtopError as error:
        result: object = (error.message, error.fix, error.exit_code)
    else:
        result = written
    pickle.dump(result, sys.stdout.buffer)


if __name__ == "__main__":
    main()
