"""Records made-up frames, 15 a second or as asked for, until it is killed.

`python -m tests.integration.recording_process FILE [SEGMENT_BYTES [FRAMES_PER_S]]` prints the number of the
last batch of each frame, with CLOCK_MONOTONIC, when that frame has been handed to the recorder.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from prismtop.trace.recorder import Recorder, RecorderSettings
from prismtop.trace.writer import Limits
from tests.factories import MS, make_batch, make_frame

BATCHES_PER_FRAME = 8


def main() -> None:
    limits = Limits(segment_bytes=int(sys.argv[2])) if len(sys.argv) > 2 else Limits()
    pause = 1 / float(sys.argv[3]) if len(sys.argv) > 3 else 1 / 15
    if pause < limits.flush_s:
        limits = replace(limits, flush_s=0.0)
    recorder = Recorder(RecorderSettings(on_alert=False, limits=limits))
    recorder.take(make_frame(0, time_ns=time.monotonic_ns()))
    recorder.start(Path(sys.argv[1]))
    seq = 0
    while True:
        now = time.monotonic_ns()
        batches = tuple(
            make_batch(seq + n, now - (BATCHES_PER_FRAME - n) * 8 * MS) for n in range(BATCHES_PER_FRAME)
        )
        seq += BATCHES_PER_FRAME
        recorder.take(make_frame(0, time_ns=now, new_batches=batches))
        print(seq - 1, time.monotonic_ns(), flush=True)
        time.sleep(pause)


if __name__ == "__main__":
    main()
