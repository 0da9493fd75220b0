"""False alerts of the latency model on hours of the demo engine under shifting load. Prints; asserts nothing.

    python tests/bench/bench_latency_demo.py make FILE [BATCHES] [MAX_SECONDS] [SEED]   the engine runs
    python tests/bench/bench_latency_demo.py judge FILE [SENSITIVITY]   cpu, then wall

Method: the real demo engine (scheduler, model, sampler; sizes as shipped) is stepped in
this process, one step after another without pauses. Virtual time is the sum of the step durations; requests
arrive by the `mixed` pattern (8 s at 0.25 to 2 times the mean rate) at that time; where the engine has
nothing to do, time jumps to the next arrival. Each step's duration is taken twice: CPU time of the thread
and wall time. A machine that others use changes its speed under the engine, CPU time included (caches, the
other thread of a core), and such a change is no false alert. So a fixed piece of work of the engine's kind is
timed after every step, and a third series is the CPU time at constant machine speed: divided by the median of
the `SMOOTH` pieces around it. Hours are counted at 20 batches/s: 72,000 batches are an hour. Nothing is
injected, so every alert on the third series is false; on the other two an alert may be a neighbour.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.latency.judge import LatencyJudge  # noqa: E402
from prismtop.model import Alert, Batch, Group, Mode, Verdict, Workload  # noqa: E402
from prismtop.settings import Settings  # noqa: E402

RATE = 14.0
HOUR_BATCHES = 72_000
SMOOTH = 31
SERIES = ("cpu at constant speed", "cpu", "wall")


def make(file: Path, batches: int, max_seconds: float, rate: float = RATE, seed: int = 7) -> None:
    """Run the engine and write one JSON list a step."""
    import gc

    from prismtop.demo.config import EngineConfig
    from prismtop.demo.engine import EngineCore, EngineCoreRequestType
    from prismtop.demo.request import Request
    from prismtop.demo.workload import arrivals

    engine = EngineCore(EngineConfig(), lambda outputs: None)
    engine.model_runner.warm_up()
    scheduler, runner = engine.scheduler, engine.model_runner
    upcoming = arrivals(rate, seed, "mixed")
    due = next(upcoming)
    virtual_ns, count, number = 0, 0, 0
    gc.collect()
    gc.freeze()
    until = time.monotonic() + max_seconds
    with file.open("w") as out:
        while count < batches and time.monotonic() < until:
            while due.at_s * 1e9 <= virtual_ns:
                if len(scheduler.waiting) < 64:
                    tokens = [(number * 31 + n * 7) % 2048 for n in range(due.prompt_tokens)]
                    request = Request(f"r{number}", tokens, due.output_tokens, 0)
                    engine._handle_client_request(EngineCoreRequestType.ADD, request)
                    number += 1
                due = next(upcoming)
            if not scheduler.has_requests():
                virtual_ns = int(due.at_s * 1e9) + 1
                continue
            wall, cpu = time.monotonic_ns(), time.thread_time_ns()
            work = scheduler.schedule()
            waiting, running = len(scheduler.waiting), len(scheduler.running)
            answer = runner.execute_model(work)
            scheduler.update_from_output(work, answer)
            cpu, wall = time.thread_time_ns() - cpu, time.monotonic_ns() - wall
            piece = time.thread_time_ns()
            fixed_work(runner.model)
            piece = time.thread_time_ns() - piece
            facts = (
                *(virtual_ns, cpu, wall, len(work.num_scheduled_tokens), work.num_prefill_tokens),
                *(work.num_decode_tokens, work.num_context_tokens, work.max_context_tokens),
                *(len(work.scheduled_new_reqs), running, waiting, piece),
            )
            out.write(json.dumps(facts) + "\n")
            virtual_ns += cpu
            count += 1
    print(f"{count} batches, {virtual_ns / 1e9:.0f} s of engine time")


def fixed_work(model: Any) -> None:
    """The same matrices and the same interpreter work every time."""
    import numpy as np

    rows = np.ones((4, 256), dtype=np.float32)
    weights = model.__dict__.setdefault("_fixed", np.ones((256, 768), dtype=np.float32))
    for _ in range(4):
        (rows @ weights).sum()
    total = 0
    for n in range(400):
        total += n


def read(file: Path, series: str) -> Iterator[Batch]:
    """The steps as batches, back to back on the clock of their durations."""
    with file.open() as lines:
        facts = [json.loads(text) for text in lines if text.endswith("\n")]
    speed = speeds([one[-1] for one in facts])
    at_ns = 10**12
    for seq, one in enumerate(facts):
        _, cpu, real, size, prefill, decode, context, longest, new, running, waiting, _ = one
        duration = real if series == "wall" else cpu if series == "cpu" else int(cpu / speed[seq])
        mode = Mode.MIXED if prefill and decode else Mode.PREFILL if prefill else Mode.DECODE
        yield Batch(
            pid=1,
            engine="demo",
            seq=seq,
            start_ns=at_ns,
            duration_ns=duration,
            period_ns=duration,
            mode=mode,
            workload=Workload(
                batch_size=size,
                prefill_tokens=prefill,
                decode_tokens=decode,
                context_tokens=context,
                max_context=longest,
                new_requests=new,
                running=running,
                waiting=waiting,
            ),
        )
        at_ns += duration


def speeds(pieces: list[int]) -> list[float]:
    """How slow the machine was at each step, 1 being its median."""
    import numpy as np

    padded = np.pad(np.array(pieces, dtype=float), SMOOTH // 2, mode="edge")
    local = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTH), axis=1)
    made: list[float] = (local / np.median(local)).tolist()
    return made


def judge(file: Path, sensitivity: str = "normal") -> None:
    """Print alerts, flags and the fit."""
    for series in SERIES:
        made = LatencyJudge(Settings(sensitivity=sensitivity), Group("demo", None, ()), inline=True)
        engine = made.engine(1)
        alerts: dict[int, Alert] = {}
        modes: dict[str, int] = {}
        count = flagged = 0
        for batch in read(file, series):
            one = engine.take(batch)
            count += 1
            modes[batch.mode.value] = modes.get(batch.mode.value, 0) + 1
            flagged += one.prediction is not None and one.prediction.verdict is Verdict.SLOW
            for alert in engine.alerts(batch.end_ns):
                alerts[alert.id] = alert
        for alert in made.finish():
            alerts[alert.id] = alert
        if not count:
            print("no batches")
            return
        hours = count / HOUR_BATCHES
        card = made.card()
        print(
            f"{series}: {count} batches = {hours:.2f} h at 20/s, {modes}: {len(alerts)} alerts = "
            f"{len(alerts) / hours:.2f} /h; flagged {100 * flagged / count:.2f} %; median APE "
            f"{card.median_ape or 0:.1f} %, within 10 % {card.within_10pct or 0:.2f}, expected false "
            f"{card.false_alerts_per_h} /h"
        )
        for alert in list(alerts.values())[:40]:
            print(f"    batch {alert.first_seq}: {alert.kind}: {alert.text}")


def main() -> None:
    """See the head of this file."""
    what, file = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        batches, seconds, seed = (*sys.argv[3:], *("216000", "3600", "7")[len(sys.argv) - 3 :])
        make(file, int(batches), float(seconds), seed=int(seed))
    else:
        judge(file, *(sys.argv[3:4]))


if __name__ == "__main__":
    main()
