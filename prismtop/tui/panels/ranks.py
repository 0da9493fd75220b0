"""Ranks side by side: host time before the collective, and which one the others wait for."""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.model import Frame
from prismtop.tui.look import Glyphs, Line, Span, fit, ruled
from prismtop.tui.numbers import milliseconds
from prismtop.tui.view import View

BATCHES = 64
STRAGGLES = 1.15
"""Times the median of the other ranks from which a rank is called a straggler."""
ONE_RANK = "ranks: one rank, so there is nothing to compare"
NOT_SEEN = "ranks: no batch of several ranks was assembled yet"


@dataclass(frozen=True)
class RankMean:
    """One rank over the latest batches.

    Attributes:
        rank, pid: which.
        mean_ms: host time before the collective.
        slowest: share of the batches in which it was the slowest, 0 to 1.
        straggler: it is slower than the others by so much that they wait for it.
    """

    rank: int
    pid: int
    mean_ms: float
    slowest: float
    straggler: bool


def means(frame: Frame) -> list[RankMean]:
    """Per rank over the latest batches with several ranks, by rank; empty without such batches."""
    recent = [batch for batch in frame.batches[-BATCHES:] if len(batch.ranks) > 1]
    times: dict[int, list[int]] = {}
    pids: dict[int, int] = {}
    worst: dict[int, int] = {}
    for batch in recent:
        for rank in batch.ranks:
            times.setdefault(rank.rank, []).append(rank.pre_collective_ns)
            pids[rank.rank] = rank.pid
        slowest = max(batch.ranks, key=lambda rank: rank.pre_collective_ns).rank
        worst[slowest] = worst.get(slowest, 0) + 1
    mean = {rank: sum(values) / len(values) / 1e6 for rank, values in times.items()}
    made = []
    for number in sorted(mean):
        others = sorted(value for other, value in mean.items() if other != number)
        middle = len(others) // 2
        typical = others[middle] if len(others) % 2 else (others[middle - 1] + others[middle]) / 2
        share = worst.get(number, 0) / len(recent)
        straggler = mean[number] > typical * STRAGGLES and share > 0.5
        made.append(RankMean(number, pids[number], mean[number], share, straggler))
    return made


def known_ranks(frame: Frame) -> int:
    """Ranks that the processes' titles name."""
    return len({member.rank for member in frame.group.members if member.rank is not None})


def wanted(frame: Frame | None, width: int) -> int:
    """Lines with the title; none without several ranks."""
    if frame is None:
        return 0
    found = means(frame)
    if not found:
        return 1 if known_ranks(frame) > 1 else 0
    return 1 + -(-len(found) // max(1, width // 38))


def lines(view: View, width: int, height: int, glyphs: Glyphs, *, focused: bool = False) -> list[Line]:
    """A cell per rank with a bar; the straggler is named in words."""
    frame = view.frame
    if frame is None or height <= 0:
        return []
    role = "title" if focused else "muted"
    found = means(frame)
    if not found:
        return [((fit(f" {NOT_SEEN if known_ranks(frame) > 1 else ONE_RANK}", width), role),)]
    stragglers = ", ".join(str(rank.rank) for rank in found if rank.straggler)
    times = [rank.mean_ms for rank in found]
    skew = f"skew {milliseconds(max(times) - min(times))} ms"
    who = f"{glyphs.slow} rank {stragglers} holds the others up" if stragglers else "no straggler"
    parts = ("ranks", f"ms before the collective, last {BATCHES} batches", skew, who)
    title = f" {glyphs.dot} ".join(parts)
    made = [ruled(title, width, glyphs, "warn" if stragglers and not focused else role)]
    columns = max(1, width // 38)
    top = max(0, min(view.scroll.get("ranks", 0), -(-len(found) // columns) - (height - 1)))
    view.scroll["ranks"] = top
    for row in range(top, min(top + height - 1, -(-len(found) // columns))):
        spans: list[Span] = []
        for rank in found[row * columns : (row + 1) * columns]:
            spans += _cell(rank, max(times), width // columns - 1, glyphs)
        made.append(tuple(spans))
    return made[:height]


def _cell(rank: RankMean, most: float, width: int, glyphs: Glyphs) -> list[Span]:
    text = f" {glyphs.slow if rank.straggler else ' '} rank {rank.rank:<3} {milliseconds(rank.mean_ms):>5} "
    word = " straggler" if rank.straggler else f" {rank.slowest * 100:3.0f}% last"
    room = max(0, width - len(text) - len(word))
    cells = round(rank.mean_ms / most * room) if most > 0 else 0
    role = "warn" if rank.straggler else "stage.launch"
    return [
        (text, "warn" if rank.straggler else "base"),
        (glyphs.stages["launch"] * cells, role),
        (" " * (room - cells), "base"),
        (fit(word, len(word) + 1), "warn" if rank.straggler else "muted"),
    ]
