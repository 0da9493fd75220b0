"""The sampler's threads, rates and costs; which readings belong to a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from prismtop.counter_history import CounterHistory
from prismtop.counters.align import counters_during, is_current
from prismtop.counters.sampler import Opener, Sampler, make_sampler, next_round
from prismtop.counters.sheet import Sheet
from prismtop.model import Counter
from prismtop.session import Session
from prismtop.settings import Settings
from tests.factories import make_group
from tests.unit.test_session import FakeSource

S = 10**9
WAIT_S = 20.0


class FakeReader:
    """Puts a number on the sheet; may block or fail."""

    name = "fake"

    def __init__(self, act: Callable[[int], None] = lambda round_: None) -> None:
        self.rounds = 0
        self.slow = 0
        self.threads: set[str] = set()
        self.closed_by = ""
        self._act = act

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        self.rounds += 1
        self.slow += slow
        self.threads.add(threading.current_thread().name)
        self._act(self.rounds)
        sheet.value("host_running_count", "host", self.rounds)

    def close(self) -> None:
        self.closed_by = threading.current_thread().name


@contextmanager
def sampling(hz: float, **lanes: FakeReader) -> Iterator[Sampler]:
    openers: dict[str, Opener] = {
        name: (lambda sheet, reader=reader: (reader,))  # type: ignore[misc]
        for name, reader in lanes.items()
    }
    sampler = Sampler(openers, hz)
    try:
        yield sampler
    finally:
        sampler.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_readings_come_from_a_thread_of_the_sampler_and_are_handed_out_once() -> None:
    reader = FakeReader()
    with sampling(20, host=reader) as sampler:
        made: list[Counter] = []

        def readings() -> list[float | None]:
            made.extend(sampler.read())
            return [c.value for c in made if c.name == "host_running_count"]

        wait_for(lambda: len(readings()) >= 3)
        assert readings()[:3] == [1, 2, 3]
    assert reader.threads == {"prismtop-counters-host"}
    assert reader.closed_by == "prismtop-counters-host"


def test_a_reader_that_blocks_does_not_stop_the_other_lane_or_the_close() -> None:
    released = threading.Event()
    blocked = FakeReader(lambda round_: released.wait(WAIT_S) and None)
    host = FakeReader()
    with sampling(20, host=host, devices=blocked) as sampler:
        wait_for(lambda: host.rounds >= 3)
        started = time.monotonic()
        sampler.close()
        assert time.monotonic() - started < WAIT_S / 2
        released.set()


def test_a_reader_that_fails_is_counted_and_tried_again() -> None:
    def act(round_: int) -> None:
        if round_ == 1:
            raise ValueError("a\x1b surprise")

    reader = FakeReader(act)
    with sampling(20, host=reader) as sampler:
        made: list[Counter] = []

        def names() -> list[str]:
            made.extend(sampler.read())
            return [counter.name for counter in made]

        wait_for(lambda: "host_running_count" in names())
    failure = next(counter for counter in made if counter.name == "sampler_failures_total")
    assert (failure.value, failure.device, failure.text) == (1, "fake", "ValueError: a\ufffd surprise")


def test_the_cost_of_sampling_is_a_counter() -> None:
    with sampling(20, host=FakeReader()) as sampler:
        made: dict[str, Counter] = {}

        def seen() -> bool:
            made.update({counter.name: counter for counter in sampler.read()})
            return {"sampler_cpu_ratio", "sampler_round_seconds"} <= made.keys()

        wait_for(seen)
    cost = made["sampler_cpu_ratio"]
    assert cost.value is not None
    assert 0 <= cost.value < 1.1
    assert cost.device == "host"


def test_fast_mode_reads_more_often_for_a_while_and_slow_counters_as_before() -> None:
    reader = FakeReader()
    with sampling(1, host=reader) as sampler:
        wait_for(lambda: reader.rounds >= 1)
        sampler.fast(20, 1.0)
        wait_for(lambda: reader.rounds >= 5)
        assert reader.slow == 1
        periods = {c.period_ns for c in sampler.read() if c.name == "host_running_count"}
        assert S // 20 in periods


def test_a_rate_that_a_lane_cannot_keep_is_lowered() -> None:
    reader = FakeReader(lambda round_: time.sleep(0.1))
    with sampling(1, host=reader) as sampler:
        sampler.fast(20, 60)
        time.sleep(1.5)
        # Every round takes 0.1 s, which may be a fifth of the time at most.
        assert reader.rounds <= 4


def test_an_opener_that_fails_is_said() -> None:
    def opener(sheet: Sheet) -> tuple[()]:
        raise OSError("no such thing")

    sampler = Sampler({"devices": opener}, 20)
    made: list[Counter] = []

    def failed() -> bool:
        made.extend(sampler.read())
        return any(counter.name == "sampler_failures_total" for counter in made)

    wait_for(failed)
    sampler.close()


def test_a_session_shows_what_the_sampler_read() -> None:
    sampler = make_sampler(Settings(counters_hz=20.0), make_group())
    session = Session(FakeSource(), counters=sampler)
    try:
        names: set[str] = set()

        def all_seen() -> bool:
            names.update(counter.name for counter in session.tick().counters)
            return {"host_cpu_busy_ratio", "host_memory_used_bytes", "gpu_busy_ratio"} <= names

        wait_for(all_seen)
        session.fast_counters(10, 60)
        wait_for(lambda: any(c.period_ns == S // 10 for c in session.tick().new_counters))
    finally:
        session.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prismtop-counters")]


def test_a_rate_needs_two_totals_and_survives_a_reset() -> None:
    sheet = Sheet()
    at = sheet.now_ns
    assert sheet.rate("net_receive_bytes_per_s", "eth0", 100) is None
    sheet.now_ns = at + 2 * S
    assert sheet.rate("net_receive_bytes_per_s", "eth0", 300) == 100
    sheet.now_ns = at + 3 * S
    assert sheet.rate("net_receive_bytes_per_s", "eth0", 5) is None
    sheet.now_ns = at + 4 * S
    assert sheet.rate("net_receive_bytes_per_s", "eth0", 15) == 10


def test_a_gap_is_told_again_only_when_its_reason_changes_or_after_a_minute() -> None:
    sheet = Sheet()

    def told(reason: str, seconds: float = 1.0) -> int:
        sheet.now_ns += int(seconds * S)
        sheet.gap("gpu_busy_ratio", "gpu 0", reason)
        return len(sheet.take())

    assert [told("a"), told("a"), told("b"), told("b"), told("b", 61)] == [1, 0, 1, 0, 1]
    sheet.value("gpu_busy_ratio", "gpu 0", 0.5)
    assert len(sheet.take()) == 1
    assert told("b") == 1


def reading(
    at_s: float, value: float | None = 1.0, period_s: float = 1.0, name: str = "n", **more: str
) -> Counter:
    return Counter(name, "host", "count", int(at_s * S), value, period_ns=int(period_s * S), **more)


def test_a_reading_is_current_for_two_of_its_periods() -> None:
    assert is_current(reading(10), 12 * S)
    assert not is_current(reading(10), 12 * S + 1)
    assert is_current(reading(10, period_s=5), 20 * S)


def history_of(*readings: Counter) -> CounterHistory:
    history = CounterHistory()
    for one in readings:
        history.add([one])
    return history


@pytest.mark.parametrize(("at_s", "expected"), [(99.5, 100.0), (97.2, 98.0), (95.5, 96.0)])
def test_details_of_a_batch_show_the_counters_of_its_interval(at_s: float, expected: float) -> None:
    history = history_of(*(reading(t, float(t)) for t in range(90, 101)))
    start = int(at_s * S)
    (found,) = counters_during(history.latest, history.values, start, start + S // 100)
    assert found.value == expected


def test_a_slow_counter_covers_the_whole_of_its_period() -> None:
    history = history_of(*(reading(t, float(t), period_s=5) for t in range(80, 101, 5)))
    (found,) = counters_during(history.latest, history.values, 91 * S, 91 * S + 1000)
    assert found.value == 95.0


def test_a_long_batch_shows_the_mean() -> None:
    history = history_of(*(reading(t, float(t)) for t in range(90, 101)))
    (found,) = counters_during(history.latest, history.values, int(95.5 * S), int(97.5 * S))
    assert found.value == pytest.approx(97.0)


def test_what_came_after_the_latest_reading_or_before_the_history_is_not_made_up() -> None:
    history = history_of(*(reading(t, float(t)) for t in range(90, 101)))
    assert counters_during(history.latest, history.values, 101 * S, 102 * S) == ()
    assert counters_during(history.latest, history.values, 10 * S, 11 * S) == ()


def test_words_are_shown_for_the_latest_reading_only() -> None:
    history = history_of(reading(99, 1.0, text="idle"), reading(100, 4.0, text="power cap"))
    (now,) = counters_during(history.latest, history.values, int(99.2 * S), int(99.3 * S))
    (before,) = counters_during(history.latest, history.values, int(98.2 * S), int(98.3 * S))
    assert (now.text, before.text, before.value) == ("power cap", "", 1.0)


def test_a_counter_that_never_had_a_value_keeps_its_reason() -> None:
    history = history_of(reading(100, None, reason="not supported"))
    (found,) = counters_during(history.latest, history.values, 99 * S, 100 * S)
    assert found.reason == "not supported"


def test_what_a_frame_was_given_stays_as_it_was() -> None:
    history = history_of(*(reading(at_s, at_s) for at_s in range(1, 4)))
    given = history.values
    history.add([reading(3.5, 3.5)])
    history.add([reading(4, 4)])
    assert given[reading(1).key] == (1, 2, 3)
    assert history.values[reading(1).key] == (1, 2, 3.5, 4)


def test_a_history_is_as_long_as_it_should_be() -> None:
    history = CounterHistory(points=5)
    lengths = []
    for at_s in range(1, 40):
        history.add([reading(at_s, at_s)])
        lengths.append(len(history.values[reading(1).key]))
    assert lengths == [1, 2, 3, 4] + [5] * 35
    assert history.values[reading(1).key] == (35, 36, 37, 38, 39)


def test_seconds_without_a_reading_are_gaps() -> None:
    history = CounterHistory(points=5)
    history.add([reading(1, 1)])
    history.add([reading(4, 4)])
    assert history.values[reading(1).key] == (1, None, None, 4)
    history.add([reading(100, 5)])
    assert history.values[reading(1).key] == (None, None, None, None, 5)


def test_series_that_ended_leave_the_history_and_the_others_stay() -> None:
    history = CounterHistory(points=10)
    history.add([reading(0, name="thread"), reading(0, name="host")])
    for at_s in range(1, 70):
        history.add([reading(at_s, name="host")])
    assert {key[0] for key in history.values} == {"host"}
    assert [counter.name for counter in history.latest] == ["host"]


def test_frames_share_the_history_of_series_that_did_not_change() -> None:
    history = history_of(reading(1, name="a"), reading(1, name="b"))
    before = history.values
    history.add([reading(2, name="a")])
    assert history.values["b", "host"] is before["b", "host"]
    assert history.values["a", "host"] == (1.0, 1.0)
    assert before["a", "host"] == (1.0,)


def test_rounds_are_at_multiples_of_their_period() -> None:
    origin = 7 * S + 5
    assert next_round(origin, S, origin) == origin + S
    assert next_round(origin + S // 10, S, origin) == origin + S
    assert next_round(origin + S - S // 10, S, origin) == origin + 2 * S


def test_a_round_is_never_due_more_than_half_a_period_too_late_or_too_early() -> None:
    waits = [next_round(start, S, 12345) - start for start in range(20 * S, 22 * S, S // 97)]
    assert min(waits) >= S // 2
    assert max(waits) <= S + S // 2
