"""Which readings belong to a moment: what is current, and what was read while a batch ran.

Imports the nouns only, so that any panel may use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prismtop.model import HISTORY_S, Counter

_STEP_NS = int(HISTORY_S * 1e9)


def is_current(counter: Counter, now_ns: int) -> bool:
    """Whether a reading may be shown as the present one: it is not older than two of its periods."""
    return now_ns - counter.time_ns <= 2 * counter.period_ns


def counters_during(
    counters: Sequence[Counter],
    history: Mapping[tuple[str, str], Sequence[float | None]],
    start_ns: int,
    end_ns: int,
) -> tuple[Counter, ...]:
    """What `Frame.counters` and `Frame.counter_history` say about an interval, such as that of a batch.

    Values of `history` are a second apart and end at the latest reading, so the time of a value is known to a
    second: that is the resolution of the answer. Of each series the value is the mean over the interval.

    Returns:
        One reading a series, in the order of `counters`: with the time of the last value used, its text only
        when that is the latest reading. Series without a value for that time are left out; series that have
        no value at all keep the reason.
    """
    made = []
    for latest in counters:
        if latest.value is None and not any(value is not None for value in history.get(latest.key, ())):
            made.append(latest)
            continue
        found = _during(latest, history.get(latest.key, ()), start_ns, end_ns)
        if found is not None:
            made.append(found)
    return tuple(made)


def _during(latest: Counter, values: Sequence[float | None], start_ns: int, end_ns: int) -> Counter | None:
    if latest.value is not None and latest.time_ns - latest.period_ns <= start_ns <= end_ns <= latest.time_ns:
        return latest
    used: list[tuple[int, float]] = []
    period_ns = max(latest.period_ns, _STEP_NS)
    for back, value in enumerate(reversed(values)):
        time_ns = latest.time_ns - back * _STEP_NS
        if time_ns < start_ns:
            break
        if value is not None and _covers(time_ns, period_ns, start_ns, end_ns):
            used.append((time_ns, value))
    if not used:
        return None
    time_ns = used[0][0]
    value = sum(value for _, value in used) / len(used)
    is_latest = len(used) == 1 and time_ns == latest.time_ns
    return replace(latest, time_ns=time_ns, value=value, text=latest.text if is_latest else "")


def _covers(time_ns: int, period_ns: int, start_ns: int, end_ns: int) -> bool:
    """Whether the period that ends at `time_ns` overlaps the interval."""
    return time_ns >= start_ns and time_ns - period_ns <= end_ns
