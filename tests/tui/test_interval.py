"""Details of a batch show the counters of its interval."""

from __future__ import annotations

from prismtop.counter_history import CounterHistory
from prismtop.model import Counter
from prismtop.tui.look import UNICODE
from prismtop.tui.panels import details, interval
from tests.factories import MS, make_batch, make_frame

S = 10**9


def clock_at(at_s: int, mhz: float, reasons: str = "") -> tuple[Counter, ...]:
    return (
        Counter("gpu_sm_clock_mhz", "gpu 0", "mhz", at_s * S, mhz, source="nvml"),
        Counter("gpu_clock_limits_bitmask", "gpu 0", "bitmask", at_s * S, 4.0, text=reasons),
    )


def shown(start_ns: int, *rounds: tuple[Counter, ...], width: int = 100) -> str:
    history = CounterHistory()
    for readings in rounds:
        history.add(readings)
    frame = make_frame(0, counters=history.latest, counter_history=history.values)
    batch = make_batch(start_ns=start_ns, duration_ns=8 * MS)
    return "\n".join("".join(text for text, _ in line) for line in interval.lines(batch, frame, width))


def test_a_batch_shows_the_clock_that_it_ran_at_and_not_the_present_one() -> None:
    rounds = [clock_at(s, 1980.0) for s in range(990, 1000)] + [
        clock_at(s, 1395.0) for s in range(1000, 1003)
    ]
    assert "1,980 MHz" in shown(int(995.5 * S), *rounds)
    assert "1,395 MHz" in shown(int(1001.5 * S), *rounds)


def test_words_are_shown_for_the_present_interval_only() -> None:
    rounds = [clock_at(1000, 1980.0, "none"), clock_at(1001, 1395.0, "software power cap")]
    assert "software power cap" in shown(int(1000.5 * S), *rounds)
    assert "software power cap" not in shown(int(999.5 * S), *rounds)


def test_a_batch_that_no_reading_covers_says_why() -> None:
    assert interval.NOT_YET in shown(2000 * S, clock_at(1000, 1980.0))


def test_without_a_sampler_there_is_no_such_part() -> None:
    frame = make_frame(0)
    assert interval.lines(make_batch(), frame, 80) == []
    page = details.lines(make_batch(), (), frame, 80, 10.0, UNICODE)
    assert not any("counters while" in text for line in page for text, _ in line)


def test_lines_are_no_wider_than_the_screen_and_text_is_safe() -> None:
    many = tuple(
        Counter(f"host_{n}_ratio", "host", "ratio", 1000 * S, 0.5, text="a\x1b[2J") for n in range(40)
    )
    text = shown(int(999.9 * S), many, width=80)
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert len(text.splitlines()) <= 1 + interval.ROWS
