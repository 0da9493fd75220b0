"""A trace on its virtual clock: speeds, seeking, stepping, loops, filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.model import Batch, Counter, Frame, HookStatus, Lost
from prismtop.session import Session
from prismtop.sources.replay import LEAD_NS, ReplaySource
from prismtop.sources.replay_controls import ReplayControls
from prismtop.sources.tick import Source
from prismtop.trace.cache import Cache
from prismtop.trace.load import Trace, load
from tests.factories import MS, make_batch, make_frame
from tests.unit.trace_files import recording

START = 10**12
STEP = 100 * MS
SECOND = 10**9


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ns = 5

    def __call__(self) -> int:
        return self.ns


def frames(count: int) -> list[Frame]:
    """A batch of 50 ms every 100 ms, alternately of rank 0 and 1."""
    first = make_frame(0, time_ns=START)
    made = [first]
    for n in range(count):
        at = START + n * STEP
        batch = make_batch(n, at, duration_ns=50 * MS, rank=n % 2, pid=4242 + n % 2)
        made.append(replace(first, time_ns=at + STEP, new_batches=(batch,)))
    return made


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Sixty seconds."""
    place = tmp_path_factory.mktemp("replay")
    return load([recording(place / "t.json", frames(600))], Cache(place / "cache"))


class Player:
    """A source with its clock, and what came out of it."""

    def __init__(self, trace: Trace, **options: object) -> None:
        self.hands = Hands()
        self.source = ReplaySource(trace, now=self.hands, **options)  # type: ignore[arg-type]
        self.keys = self.source.controls

    def wait(self, seconds: float) -> list[int]:
        """The numbers of the batches that came in the first poll after so many real seconds."""
        self.hands.ns += round(seconds * 1e9)
        self.tick = self.source.poll()
        return [batch.seq for batch in self.tick.batches]

    @property
    def at_s(self) -> float:
        """Where the last tick stood, in seconds after the start."""
        assert self.tick.replay is not None
        return (self.tick.replay.position_ns - START) / 1e9

    @property
    def speed(self) -> float:
        assert self.tick.replay is not None
        return self.tick.replay.speed


def test_the_source_and_its_controls_are_what_the_session_takes(trace: Trace) -> None:
    source: Source = ReplaySource(trace)
    controls: ReplayControls = ReplaySource(trace).controls
    session = Session(source, replay=controls)
    assert session.replay is controls
    assert session.tick().replay is not None


@pytest.mark.parametrize("speed", [0.1, 0.5, 1, 2, 10, 100])
def test_trace_seconds_pass_as_fast_as_asked_for(trace: Trace, speed: float) -> None:
    player = Player(trace, speed=speed)
    player.wait(0)
    player.wait(0.4)
    assert player.at_s == pytest.approx(0.4 * speed)
    assert player.tick.time_ns == START + round(0.4 * speed * 1e9)


def test_a_batch_comes_when_the_clock_has_passed_its_end_and_once(trace: Trace) -> None:
    player = Player(trace)
    assert player.wait(0.049) == []
    assert player.wait(0.002) == [0]
    assert player.wait(0.2) == [1, 2]
    assert player.wait(0) == []


def test_as_fast_as_can_be_is_over_after_few_polls(trace: Trace) -> None:
    player = Player(trace, speed=math.inf)
    seen: list[int] = []
    for _ in range(20):
        seen += player.wait(0)
    assert seen == list(range(600))
    assert player.source.ended
    assert player.speed == 0


def test_pausing_stops_the_clock_and_playing_goes_on_where_it_was(trace: Trace) -> None:
    player = Player(trace)
    player.wait(1)
    player.keys.toggle()
    assert player.wait(5) == []
    assert (player.at_s, player.speed) == (1, 0)
    player.keys.toggle()
    player.wait(1)
    assert (player.at_s, player.speed) == (2, 1)


def test_playing_at_the_end_begins_again(trace: Trace) -> None:
    player = Player(trace, speed=100)
    player.wait(1)
    player.wait(0)
    assert player.speed == 0
    player.keys.toggle()
    player.wait(0)
    assert (player.at_s, player.tick.jumped) == (0, True)


def test_stepping_pauses_and_goes_on_by_exactly_so_many_batches(trace: Trace) -> None:
    player = Player(trace)
    player.wait(1)
    player.keys.step(1)
    assert player.wait(1) == [10]
    player.keys.step(3)
    assert player.wait(1) == [11, 12, 13]
    assert player.wait(1) == []
    assert player.at_s == pytest.approx(1.35)


def test_stepping_back_takes_the_last_batches_away(trace: Trace) -> None:
    player = Player(trace)
    assert player.wait(2)[-1] == 19
    player.keys.step(-1)
    assert player.wait(1)[-1] == 18
    player.keys.step(-5)
    assert player.wait(1)[-1] == 13
    player.keys.step(1)
    assert player.wait(1) == [14]


def test_faster_and_slower_go_through_the_speeds_and_stop_at_their_ends(trace: Trace) -> None:
    player = Player(trace)
    seen = []
    for key in [player.keys.faster] * 8 + [player.keys.slower] * 12:
        player.keys.toggle()  # keeps the clock from reaching the end
        player.keys.toggle()
        key()
        player.wait(0)
        seen.append(player.speed or math.inf)
    assert seen[:7] == [2, 5, 10, 20, 50, 100, math.inf]
    assert player.source._speed == 0.1


@pytest.mark.parametrize(
    ("go", "second"),
    [
        (lambda keys: keys.seek_ns(START + 30 * SECOND), 30),
        (lambda keys: keys.seek_fraction(0.5), 29.975),
        (lambda keys: keys.skip_s(10), 15),
        (lambda keys: keys.skip_s(-3), 2),
        (lambda keys: keys.skip_s(-100), 0),
        (lambda keys: keys.skip_s(1000), 59.95),
        (lambda keys: keys.seek_fraction(-3), 0),
        (lambda keys: keys.seek_ns(0), 0),
        (lambda keys: keys.seek_fraction(math.nan), 5),
    ],
)
def test_seeking_goes_there_and_not_out_of_the_trace(trace: Trace, go: object, second: float) -> None:
    player = Player(trace)
    player.wait(5)
    go(player.keys)  # type: ignore[operator]
    player.wait(0)
    assert player.at_s == pytest.approx(second)


def test_after_a_jump_the_screen_has_the_seconds_before_and_nothing_else(trace: Trace) -> None:
    player = Player(trace)
    session = Session(player.source, replay=player.keys)
    player.hands.ns += 50 * SECOND
    session.tick()
    player.keys.seek_ns(START + 30 * SECOND)
    frame = session.tick()
    shown = [batch.seq for batch in frame.batches]
    assert 50 <= len(shown) <= 100
    assert shown == list(range(300 - len(shown), 300))
    assert frame.throughput is not None
    assert frame.throughput.batches_per_s == pytest.approx(10, rel=0.1)


def anomalies() -> Sequence[int]:
    return [START + 20 * SECOND, START + 40 * SECOND]


def test_anomalies_are_gone_to_one_after_the_other(trace: Trace) -> None:
    player = Player(trace, anomalies=anomalies)
    lead = LEAD_NS / 1e9
    places = []
    for key in ("next", "next", "next", "previous", "previous"):
        getattr(player.keys, f"{key}_anomaly")()
        player.wait(0)
        places.append(player.at_s)
    assert places == [20 - lead, 40 - lead, 40 - lead, 20 - lead, 20 - lead]


def test_between_two_marks_it_plays_again_and_again(trace: Trace) -> None:
    player = Player(trace)
    player.wait(2)
    player.keys.mark_a()
    player.wait(1)
    player.keys.mark_b()
    player.wait(0)
    player.wait(0)
    assert player.at_s == 2
    player.wait(0.7)
    player.wait(0.7)
    player.wait(0)
    assert player.at_s == 2
    player.keys.clear_marks()
    player.wait(3)
    assert player.at_s == 5
    assert player.tick.replay is not None
    assert player.tick.replay.a_ns is None


def test_a_loop_begins_again_at_the_end(trace: Trace) -> None:
    player = Player(trace, speed=100)
    player.keys.toggle_loop()
    player.wait(0.7)
    player.wait(0)
    assert (player.at_s, player.tick.jumped, player.source.ended) == (0, True, False)
    assert player.tick.replay is not None
    assert player.tick.replay.loop


@pytest.mark.parametrize(
    ("options", "first"), [({"rank": 1}, [1, 3, 5]), ({"pids": [4242]}, [0, 2, 4]), ({"rank": 9}, [])]
)
def test_filters_leave_other_ranks_and_processes_out(
    trace: Trace, options: dict[str, object], first: list[int]
) -> None:
    assert Player(trace, **options).wait(0.6) == first


def test_it_starts_where_it_was_told_to(trace: Trace) -> None:
    player = Player(trace, from_ns=START + 30 * SECOND)
    assert player.wait(0.1)[0] == 300


def test_commands_from_another_thread_are_applied_by_the_next_poll(trace: Trace) -> None:
    import threading

    player = Player(trace)
    threads = [threading.Thread(target=player.keys.skip_s, args=(1,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    player.wait(0)
    assert player.at_s == pytest.approx(8)


def test_what_was_true_at_a_place_is_true_after_jumping_there(tmp_path: Path) -> None:
    made = frames(600)
    hook = HookStatus("schedule", "schedule", 4242, "monitoring")
    for n in range(300, 601):
        made[n] = replace(made[n], hooks=(hook,), lost=Lost(7))
    trace = load([recording(tmp_path / "t.json", made)], Cache(tmp_path / "cache"))
    player = Player(trace)
    player.wait(0)
    assert (player.tick.hooks, player.tick.lost.records) == ((), 0)
    player.keys.seek_fraction(0.9)
    player.wait(0)
    assert (player.tick.hooks, player.tick.lost.records) == ((hook,), 7)
    player.keys.seek_fraction(0.1)
    player.wait(0)
    assert (player.tick.hooks, player.tick.lost.records) == ((), 0)


def test_a_poll_takes_a_bounded_part_however_fast_the_clock_runs(tmp_path: Path) -> None:
    first = make_frame(0, time_ns=START)
    readings = tuple(Counter("c", "host", "ratio", START + n, float(n)) for n in range(20_000))
    trace = load(
        [recording(tmp_path / "t", [first, replace(first, new_counters=readings)])], Cache(tmp_path / "c")
    )
    player = Player(trace, speed=math.inf)
    player.wait(0)
    assert 0 < len(player.tick.counters) < 20_000
    for _ in range(10):
        player.wait(0)
    assert player.source.ended


def test_as_recorded_every_frame_is_a_tick_of_its_own(tmp_path: Path) -> None:
    from prismtop.model import Request

    first = make_frame(0, time_ns=START)
    made = [first]
    for n in range(5):
        at = START + n * STEP
        batches: tuple[Batch, ...] = (make_batch(2 * n, at), make_batch(2 * n + 1, at + 8 * MS))
        made.append(
            replace(first, time_ns=at + STEP, new_batches=batches, requests=(Request(at + 9 * MS, 1, 2),))
        )
    trace = load([recording(tmp_path / "t", made)], Cache(tmp_path / "c"))
    source = ReplaySource(trace, speed=math.inf, as_recorded=True)
    ticks = []
    while not source.ended:
        ticks.append(source.poll())
    assert [[batch.seq for batch in tick.batches] for tick in ticks if tick.batches] == [
        [0, 1], [2, 3], [4, 5], [6, 7], [8, 9],
    ]  # fmt: skip
    assert ticks[0].time_ns == first.time_ns
