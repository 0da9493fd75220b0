"""How long a deep capture takes from the key to the merged trace on disk, and what it costs its target.

Method: a session with counters, as the screen has it, ticked at 15 Hz over an engine under load; then, RUNS
times, a capture of 50 batches, with the settings of the screen. Wall time from the request to the trace, by
phase (seen at ticks, so in steps of 67 ms); and what the capture itself reports: stall at start and stop,
median time of a batch before, in and after the window. The first capture of a PyTorch process starts Kineto,
and stands apart. Wall times need a quiet machine.

Without a pid: the demo engine with the sizes of `prismtop demo`. With one: that engine, which needs a load.

    python tests/bench/bench_deepdive_total.py [PID] [RUNS]
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.commands.attaching import open_session  # noqa: E402
from prismtop.commands.choose import named_group, profiles_in_use  # noqa: E402
from prismtop.commands.demo import DemoOptions, engine_under_load  # noqa: E402
from prismtop.model import Capture, CapturePhase, CaptureRequest  # noqa: E402
from prismtop.session import Session  # noqa: E402
from tests.unit.doubles import make_context  # noqa: E402

TICK_S = 1 / 15
BEFORE_S = 4.0
AFTER_S = 32.0


def ticks(session: Session, seconds: float) -> None:
    """Let it watch."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        session.tick()
        time.sleep(TICK_S)


def capture(session: Session, path: Path) -> tuple[Capture, dict[str, float]]:
    """One, with the seconds that each phase took, and `all` until the trace was there."""
    began = at = time.monotonic()
    phase = session.deepdive(CaptureRequest(path=str(path))).phase
    took: dict[str, float] = {}
    while True:
        made = session.tick().capture
        assert made is not None
        now = time.monotonic()
        if made.phase is not phase:
            took[phase.value] = now - at
            phase, at = made.phase, now
        if phase.final:
            break
        time.sleep(TICK_S)
    took["all"] = time.monotonic() - began
    if made.phase is CapturePhase.DONE:
        end = time.monotonic() + AFTER_S
        while made.after_ms is None and time.monotonic() < end:
            time.sleep(TICK_S)
            made = session.tick().capture or made
    return made, took


def told(number: int, made: Capture, took: dict[str, float]) -> None:
    """One line."""
    phases = "  ".join(f"{name} {seconds:.2f}" for name, seconds in took.items())
    if made.phase is not CapturePhase.DONE:
        print(f"{number}  {phases}  {made.phase.value}: {made.error}")
        return
    times = [made.before_ms, made.during_ms, made.after_ms]
    shown = " / ".join("n/a" if ms is None else f"{ms:.3f}" for ms in times)
    slower = ""
    if made.before_ms and made.during_ms:
        slower = f" ({(made.during_ms / made.before_ms - 1) * 100:+.1f} %)"
    stall = "n/a" if made.stall_ms is None else f"{made.stall_ms:.1f} ms"
    print(
        f"{number}  s: {phases}  stall {stall}  ms before/in/after {shown}{slower}  "
        f"residual {made.residual}  "
        f"{made.batches} batches, {sum(layer.events or 0 for layer in made.layers):,} events, "
        f"{made.size_bytes / 1e6:.2f} MB"
    )


@contextlib.contextmanager
def engine(pid: int | None) -> Iterator[int]:
    """That process, or the demo engine under load."""
    if pid is not None:
        yield pid
        return
    context, _, _ = make_context()
    with engine_under_load(context, DemoOptions(pattern="steady")) as demo:
        yield demo


def main() -> None:
    pid = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] != "-" else None
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    totals = []
    with engine(pid) as target, tempfile.TemporaryDirectory() as folder:
        context, _, _ = make_context()
        profiles = profiles_in_use()
        group = named_group([target], profiles)
        session = open_session(context, group, profiles, counters=True, remember=False, deepdive=True)
        try:
            for number in range(runs):
                ticks(session, BEFORE_S)
                made, took = capture(session, Path(folder) / f"{number}.json.gz")
                told(number + 1, made, took)
                totals.append(took["all"])
        finally:
            for sentence in session.close():
                print(sentence)
    if len(totals) > 1:
        print(f"request to trace: first {totals[0]:.2f} s, median of the others "
              f"{statistics.median(totals[1:]):.2f} s, longest {max(totals):.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
