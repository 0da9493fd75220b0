"""Where a replay stands: a line with a seek bar."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from prismtop.model import Frame, Replay
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, Span, cut


@dataclass(frozen=True)
class SeekLine:
    """The line, and where its bar is: first cell and length."""

    line: Line
    first: int = 0
    cells: int = 0

    def fraction_at(self, x: int) -> float | None:
        """The place in the trace that cell `x` stands for; None outside the bar."""
        if not self.first <= x < self.first + self.cells:
            return None
        return (x - self.first) / max(1, self.cells - 1)


def passed(replay: Replay) -> float:
    """Part of the trace that was passed, 0 to 1."""
    length = replay.end_ns - replay.start_ns
    return 1.0 if length <= 0 else max(0.0, min(1.0, (replay.position_ns - replay.start_ns) / length))


def speed_word(replay: Replay) -> str:
    """`2x`, `paused`, `as fast as can be`."""
    if replay.speed == 0:
        return "PAUSED"
    return "max speed" if math.isinf(replay.speed) else f"{replay.speed:g}x"


def seek_line(frame: Frame, width: int, glyphs: Glyphs) -> SeekLine:
    """` REPLAY  14:32:07  2x  ━━━━●────  31%  A-B  loop  trace.gz`."""
    replay = frame.replay
    if replay is None:
        return SeekLine(())
    stamp = time.strftime("%H:%M:%S", time.localtime(frame.clock.wall_us(replay.position_ns) / 1e6))
    left = f" {stamp} {speed_word(replay)} "
    words = [f"{passed(replay) * 100:3.0f}%"]
    if replay.a_ns is not None:
        words.append("A-B" if replay.b_ns is not None else "A set")
    if replay.loop:
        words.append("loop")
    right = " " + " ".join(words)
    name = safe_text(replay.path.rsplit("/", 1)[-1], 60)
    room = width - 8 - len(left) - len(right)
    if room >= 30 + min(len(name), 24):
        right += "  " + cut(name, min(24, room - 30))
    cells = max(0, width - 8 - len(left) - len(right))
    at = round(passed(replay) * max(0, cells - 1))
    done, coming, here = glyphs.seek
    spans: list[Span] = [(" REPLAY ", "badge"), (left, "strong")]
    if cells:
        bar = list(done * at + here + coming * (cells - at - 1))
        for mark, time_ns in (("A", replay.a_ns), ("B", replay.b_ns)):
            if time_ns is not None and replay.end_ns > replay.start_ns:
                place = (time_ns - replay.start_ns) / (replay.end_ns - replay.start_ns)
                bar[max(0, min(cells - 1, round(place * (cells - 1))))] = mark
        spans.append(("".join(bar), "key"))
    spans.append((right, "base"))
    return SeekLine(tuple(spans), 8 + len(left), cells)
