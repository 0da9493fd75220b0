"""What recording costs: events a second per core, bytes an event, share of a core at 118 batches a second.

Method: batches with six stages and a request now and then, whose lengths are drawn from a log-normal
distribution with a fixed seed, so that they compress as real ones do. CPU time of the process with all its
threads (`time.process_time`), so that a busy machine does not count; the median of several runs, each beside
a loop of pure Python that shows how fast the machine was. Batches are made before the clock starts.

- `encode`: frames to events, nothing written.
- `write`: the same through the recorder's queue and thread into a file on tmpfs that stays plain.
- `all in all`: the same with rotation into gzip.
- `118/s`: the recorder at 15 frames a second in real time, CPU over wall time: the tick's thread while it is
  in the recorder, and every other thread; the gzip file at the end included.

`prismtop record` remembers no past; the recorder of the screen compresses the last three minutes in memory,
which is the difference of `with ring`.

    python tests/bench/bench_record.py [EVENTS] [SECONDS]
"""

from __future__ import annotations

import itertools
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from prismtop.model import Batch, Frame, Request, Stage, Workload  # noqa: E402
from prismtop.trace.events import Encoder, events_of  # noqa: E402
from prismtop.trace.recorder import Recorder, RecorderSettings  # noqa: E402
from prismtop.trace.writer import Limits  # noqa: E402
from tests.factories import make_batch, make_frame  # noqa: E402

RUNS = 5
BATCHES_PER_FRAME = 8
STAGES = (("schedule", 0.2), ("prepare", 0.6), ("launch", 1.8), ("wait", 4.6), ("sample", 0.2), ("post", 0.4))
START = 10**12


def frames(batches: int) -> list[Frame]:
    """Frames with that many batches."""
    return list(itertools.islice(stream_of_frames(), -(-batches // BATCHES_PER_FRAME)))


def stream_of_frames() -> Iterator[Frame]:
    """Consecutive frames with `BATCHES_PER_FRAME` batches each."""
    rng = random.Random(5)
    at = START
    context = 4000
    for first in itertools.count(0, BATCHES_PER_FRAME):
        new: list[Batch] = []
        for seq in range(first, first + BATCHES_PER_FRAME):
            begin, stages = at, []
            for name, ms in STAGES:
                length = int(ms * 1e6 * rng.lognormvariate(0, 0.15))
                stages.append(Stage(name, f"{name}_hook", at, length, 4242, 77, span_ns=length))
                at += length + rng.randrange(2_000, 30_000)
            context += rng.randrange(-200, 220)
            size = rng.randrange(12, 20)
            workload = Workload(
                batch_size=size,
                prefill_tokens=0,
                decode_tokens=size,
                context_tokens=context,
                running=size,
                waiting=rng.randrange(3),
                kv_usage=round(rng.random(), 4),
            )
            period = at - begin + rng.randrange(100_000)
            new.append(
                make_batch(
                    seq,
                    begin,
                    duration_ns=at - begin,
                    period_ns=period,
                    stages=tuple(stages),
                    workload=workload,
                )
            )
            at = begin + period
        request = Request(at, rng.randrange(10**7, 10**9), rng.randrange(7 * 10**6, 10**7), 128, 512)
        yield make_frame(0, time_ns=at, new_batches=tuple(new), requests=(request,))


def yardstick() -> float:
    """CPU seconds of a fixed loop: how fast this machine is now."""
    began = time.process_time()
    total = 0
    for n in range(2_000_000):
        total += n & 7
    return time.process_time() - began


def encode(given: list[Frame]) -> tuple[int, float]:
    encoder = Encoder(given[0])
    began = time.process_time()
    events = sum(len(events_of(frame, encoder)) for frame in given)
    return events, time.process_time() - began


def record(given: list[Frame], limits: Limits, name: str, past_s: float = 0.0) -> tuple[int, float, int]:
    """Events, CPU seconds, bytes on disk."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        began = time.process_time()
        recorder = Recorder(RecorderSettings(on_alert=False, limits=limits, past_s=past_s))
        recorder.take(replace(given[0], new_batches=(), requests=()))
        recorder.start(directory / name)
        for frame in given:
            recorder.take(frame)
            writer = recorder._writer
            while writer is not None and writer._queued > limits.queue_bytes // 2:
                time.sleep(0.001)
        recording, notes = recorder.stop()
        spent = time.process_time() - began
        assert recording is not None, notes
        assert not recording.dropped, notes
        return recording.events, spent, sum(file.stat().st_size for file in directory.iterdir())
    finally:
        shutil.rmtree(directory)


def median_of(run: Callable[[], tuple[float, ...]]) -> tuple[tuple[float, ...], float]:
    """The run with the median speed, and the yardstick's median."""
    runs, yards = [], []
    for _ in range(RUNS):
        yards.append(yardstick())
        runs.append(run())
    runs.sort(key=lambda each: each[1] / each[0])
    return runs[RUNS // 2], statistics.median(yards)


def in_real_time(seconds: float, past_s: float) -> tuple[float, float, int]:
    """(share of a core that `take` uses, share of the writer's threads, batches)."""
    stream = stream_of_frames()
    taking = others = 0.0
    batches = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        recorder = Recorder(RecorderSettings(on_alert=False, past_s=past_s))
        recorder.take(replace(next(stream), new_batches=(), requests=()))
        recorder.start(Path(directory) / "run.json.gz")
        began = time.monotonic()
        mine, all_of_them = time.thread_time(), time.process_time()
        while time.monotonic() - began < seconds:
            due = began + batches / 118
            time.sleep(max(0.0, due - time.monotonic()))
            frame = next(stream)  # made now, as a session makes it, and not counted
            batches += len(frame.new_batches)
            before = time.thread_time()
            recorder.take(frame)
            taking += time.thread_time() - before
        mine = time.thread_time() - mine
        recorder.stop()
        wall = time.monotonic() - began
        others = time.process_time() - all_of_them - mine
    return taking / wall, others / wall, batches


def main(wanted: int, seconds: float) -> None:
    """Print the figures."""
    given = frames(wanted // 8)
    (events, spent), yard = median_of(lambda: encode(given))
    print(
        f"encode      {events / spent:9,.0f} events/s of CPU   ({events:,.0f} events, yardstick {yard:.3f} s)"
    )
    plain = Limits(segment_bytes=1 << 40, queue_bytes=64 << 20)
    rotating = Limits(segment_bytes=32 << 20, queue_bytes=64 << 20)
    for label, limits, name, past_s in (
        ("write", plain, "run.json", 0.0),
        ("all in all", rotating, "run.json.gz", 0.0),
        ("with ring", rotating, "run.json.gz", 180.0),
    ):
        (events, spent, size), yard = median_of(lambda to=(limits, name, past_s): record(given, *to))
        print(
            f"{label:11} {events / spent:9,.0f} events/s of CPU   {size / events:5.1f} B/event on disk"
            f"   (yardstick {yard:.3f} s)"
        )
    for label, past_s in (("118/s", 0.0), ("  with ring", 180.0)):
        taking, others, batches = in_real_time(seconds, past_s)
        print(
            f"{label:11} {100 * (taking + others):.2f} % of a core over {seconds:.0f} s ({batches} batches): "
            f"{100 * taking:.2f} % in the tick, {100 * others:.2f} % writing and compressing"
        )


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 300_000, float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    )
