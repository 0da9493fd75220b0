"""The session turns what a source says into frames."""

from __future__ import annotations

from dataclasses import replace

from prismtop.model import AttachState, Batch, Clock
from prismtop.session import Session
from prismtop.sources.tick import SourceTick
from tests.factories import make_batch, make_group


class FakeSource:
    """Two batches a poll."""

    group = make_group()
    clock = Clock(0)

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0

    def poll(self) -> SourceTick:
        new: list[Batch] = [make_batch(self.made), make_batch(self.made + 1)]
        self.made += 2
        return replace(SourceTick(10**12 + self.made, AttachState.LIVE), batches=tuple(new))

    def close(self) -> tuple[str, ...]:
        self.closed += 1
        return ("something stays",)


def test_a_frame_holds_what_is_new_and_the_latest() -> None:
    session = Session(FakeSource(), history=3)
    session.tick()
    frame = session.tick()
    assert [batch.seq for batch in frame.new_batches] == [2, 3]
    assert [batch.seq for batch in frame.batches] == [1, 2, 3]
    assert frame.total_batches == 4


def test_figures_can_be_left_out() -> None:
    assert Session(FakeSource(), figures=False).tick().throughput is None


def test_closing_twice_detaches_once_and_says_the_same() -> None:
    source = FakeSource()
    session = Session(source)
    assert (session.close(), session.close(), source.closed) == (("something stays",),) * 2 + (1,)
