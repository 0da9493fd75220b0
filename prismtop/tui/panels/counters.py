"""Counters of host, GPU and interconnect, with a sparkline each; or why they cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from prismtop.counters.align import is_current
from prismtop.model import Counter, Frame
from prismtop.safe_text import safe_text
from prismtop.tui.chart import history_spark
from prismtop.tui.look import Glyphs, Line, Span, cut, fit, flowed, ruled
from prismtop.tui.numbers import NA
from prismtop.tui.panels.hooks import wrapped
from prismtop.tui.view import View

NONE_YET = "nothing samples this host or its devices in this session"
_UNIT_SUFFIX = re.compile(
    r"_(ratio|bytes_per_s|bytes|mhz|celsius|watts|seconds|count|per_s|total|cores|bitmask|id)$"
)
IMPORTANT = (
    r"^gpu_(busy|sm_active)", r"^gpu_sm_clock_mhz", r"^gpu_clock_limits", r"^gpu_memory_used",
    r"^gpu_dram_active", r"^gpu_power_watts", r"^gpu_temperature", r"nvlink_(rec|trans)",
    r"pcie_(rec|trans)", r"^process_cpu",
    r"^(process|thread)_runq_wait", r"^host_cpu_(busy|speed)", r"throttled", r"steal", r"^host_running",
    r"^host_memory_(av|used)", r"rss", r"^rdma", r"^net_(rec|trans)", r"^disk_busy", r"^gpu", r"^host",
)  # fmt: skip
"""What is shown first when there is no room for all: patterns over names, most important first."""
_IMPORTANT = tuple(re.compile(pattern) for pattern in IMPORTANT)
_FACTORS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


@lru_cache(4096)
def importance(name: str) -> int:
    """Place in `IMPORTANT`; the number of patterns for what none fits."""
    return next((i for i, pattern in enumerate(_IMPORTANT) if pattern.search(name)), len(_IMPORTANT))


_LEAST_WHERE = 5
_KINDS = {"pid": "process"}
_PROCESS = re.compile(r"pid (\d+)(?: tid (\d+)(?: (.+))?)?$")
_SHORT = {
    "memory": "mem", "temperature": "temp", "receive": "rx", "transmit": "tx", "available": "avail",
    "throttled": "thrtl", "frequency": "freq", "utilization": "util", "process": "proc", "switches": "switch",
}  # fmt: skip


def device_names(frame: Frame) -> dict[int, str]:
    """What processes are called in labels: their role, with the rank where a role occurs several times."""
    members = [member for member in frame.group.members if member.role]
    often = {m.role for m in members if sum(other.role == m.role for other in members) > 1}
    names: dict[int, str] = {}
    for member in members:
        if member.role not in often:
            names[member.id.pid] = member.role
        elif member.rank is not None:
            names[member.id.pid] = f"{member.role}{member.rank}"
    return names


def label_of(counter: Counter, names: Mapping[int, str], width: int = 60) -> str:
    """A counter's label on `width` cells; `pid 4242` is named by its role."""
    process = _PROCESS.match(counter.device)
    called = names.get(int(process[1]), "") if process and not process[2] else ""
    return label(counter.name, counter.device, called, width)


@lru_cache(4096)
def label(name: str, device: str, called: str = "", width: int = 60) -> str:
    """`gpu_sm_clock_mhz` of `gpu 0` is `gpu0 sm clock`, `host_cpu_busy_ratio` is `cpu busy`.

    A process is its number or what it is `called`, a thread its name: `4242 cpu`, `python runq wait`. Where
    `width` cells are too few, whose counter it is gives way before which one it is.
    """
    words = _UNIT_SUFFIX.sub("", name).split("_")
    process = _PROCESS.match(device)
    number = (process[3] or process[2] or process[1]) if process else ""
    where = called or number or device.replace(" ", "")
    kind = device.split(" ")[0].rstrip("0123456789")
    if len(words) > 1 and words[0] in (kind, _KINDS.get(kind, ""), "thread", "net", "rdma", "host"):
        words = words[1:]
    words = [_SHORT.get(word, word) for word in words]
    what = safe_text(" ".join(words), 60)
    if device in ("", "host"):
        return cut(what, width)
    room = max(_LEAST_WHERE, width - len(what) - 1)
    return cut(f"{cut(safe_text(where, 60), room)} {what}", width)


def amount(counter: Counter) -> str:
    """A reading with its unit, `n/a` without one."""
    value, unit = counter.value, counter.unit
    # Words beside a share say more about it; other words are the reading, and their number how many they are.
    if counter.text and (value is None or unit != "ratio"):
        return safe_text(counter.text, 40)
    if value is None:
        return NA
    if unit == "ratio":
        return f"{value * 100:.0f}%" if abs(value) >= 0.0995 or not value else f"{value * 100:.1f}%"
    if unit in ("percent", "pct"):
        return f"{value:.0f}%"
    if unit in ("seconds", "s"):
        return _time(value)
    if unit in ("seconds_per_s", "s_per_s"):
        return f"{value * 1000:.3g} ms/s"
    names = {
        "bytes": "B", "bytes_per_s": "B/s", "mhz": "MHz", "hz": "Hz", "celsius": "C", "watts": "W",
        "per_s": "/s", "count": "",
    }  # fmt: skip
    word = names.get(unit, safe_text(unit, 12))
    if unit in ("mhz", "celsius", "watts"):
        return f"{value:,.0f} {word}"
    number = _scaled(value)
    return f"{number}{word}" if word in ("/s", "") or number[-1].isalpha() else f"{number} {word}"


def _scaled(value: float) -> str:
    for letter, factor in _FACTORS:
        if abs(value) >= factor:
            return (
                f"{value / factor:.3g} {letter}"
                if abs(value / factor) < 999.5
                else f"{value / factor:.0f} {letter}"
            )
    return f"{value:.3g}"


def _time(seconds: float) -> str:
    if abs(seconds) >= 1 or seconds == 0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) >= 1e-3 else f"{seconds * 1e6:.3g} us"


def ordered(frame: Frame) -> list[Counter]:
    """Counters with a reading, most important first; those without one are not among them."""
    known = [counter for counter in frame.counters if counter.value is not None or counter.text]
    return sorted(known, key=lambda c: (importance(c.name), c.name, c.device))


def at_that_time(frame: Frame, start_ns: int, end_ns: int, width: int, most: int) -> list[Line]:
    """The `most` most important counters over an interval, flowed over lines of `width` cells."""
    from prismtop.counters.align import counters_during

    found = counters_during(frame.counters, frame.counter_history, start_ns, end_ns)
    known = sorted(
        (counter for counter in found if counter.value is not None),
        key=lambda c: (importance(c.name), c.name, c.device),
    )
    facts: list[Line] = [
        ((f"{label(c.name, c.device)} ", "muted"), (amount(c), "base")) for c in known[:most]
    ]
    return flowed(facts, width, "   ")


def unavailable(frame: Frame) -> list[Counter]:
    """Counters that could not be read."""
    return [counter for counter in frame.counters if counter.value is None and not counter.text]


def _stale(counter: Counter, now_ns: int) -> bool:
    return not is_current(counter, now_ns)


def _cell(counter: Counter, frame: Frame, names: Mapping[int, str], width: int, glyphs: Glyphs) -> list[Span]:
    """One counter on `width` cells: label, value, sparkline."""
    value_width = 9 if width >= 30 else 8
    spark_width = max(0, min(24, width - value_width - 18))
    name_width = max(4, width - value_width - spark_width - 2)
    stale = _stale(counter, frame.time_ns)
    history = frame.counter_history.get(counter.key, ())
    text = history_spark(history, counter.time_ns // 1_000_000_000, spark_width, glyphs)
    shown = "old" if stale else amount(counter)
    return [
        (fit(label_of(counter, names, name_width), name_width), "muted"),
        (f" {cut(shown, value_width):>{value_width}} ", "warn" if stale else "base"),
        (text, "stage.prepare"),
    ]


def columns_of(width: int) -> int:
    """Counters side by side."""
    return max(1, width // 38)


def wanted(frame: Frame | None, width: int) -> int:
    """Lines that all counters would take, with the title."""
    count = len(ordered(frame)) if frame else 0
    return 1 + -(-count // columns_of(width)) if count else 1


def lines(view: View, width: int, height: int, glyphs: Glyphs, *, focused: bool = False) -> list[Line]:
    """The most important counters on `height` lines; from three lines on with a title."""
    frame = view.frame
    if frame is None or height <= 0:
        return []
    known, missing = ordered(frame), unavailable(frame)
    role = "title" if focused else "muted"
    if not known:
        reason = safe_text(missing[0].reason) if missing and missing[0].reason else NONE_YET
        return [((cut(f" counters: {reason}", width), role),)]
    if height < 3:
        return [_row(known, frame, width, glyphs, role)][:height]
    columns = columns_of(width)
    rows = height - 1
    top = max(0, min(view.scroll.get("counters", 0), -(-len(known) // columns) - rows))
    view.scroll["counters"] = top
    more = f" {glyphs.dot} {len(missing)} n/a (C says why)" if missing else ""
    hidden = len(known) - columns * rows
    scroll = f" {glyphs.dot} {hidden} more (tab, arrows; C)" if hidden > 0 else ""
    names = device_names(frame)
    made = [ruled(cut(f"counters{more}{scroll}", width - 6), width, glyphs, role)]
    for row in range(top, min(top + rows, -(-len(known) // columns))):
        spans: list[Span] = []
        for counter in known[row * columns : (row + 1) * columns]:
            spans += [(" ", "base"), *_cell(counter, frame, names, width // columns - 1, glyphs)]
        made.append(tuple(spans))
    return made


def _row(known: Sequence[Counter], frame: Frame, width: int, glyphs: Glyphs, role: str) -> Line:
    """As many counters as one line holds, without sparklines but for the first."""
    spans: list[Span] = [(" counters ", role)]
    names = device_names(frame)
    room = width - 10
    for number, counter in enumerate(known):
        name, value = label_of(counter, names), amount(counter)
        if _stale(counter, frame.time_ns):
            value = "old"
        history = frame.counter_history.get(counter.key, ())
        text = (
            history_spark(history, counter.time_ns // 1_000_000_000, 8, glyphs) + " " if number == 0 else ""
        )
        size = len(name) + len(value) + len(text) + 3
        if size > room:
            break
        spans += [(f"{name} ", "muted"), (text, "stage.launch"), (f"{value}  ", "base")]
        room -= size
    return tuple(spans)


def page(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    """Every counter with its history; what cannot be read, with the reason once."""
    frame = view.frame
    if frame is None:
        return [((" Waiting for the first reading.", "muted"),)]
    if not frame.counters:
        return wrapped(NONE_YET[0].upper() + NONE_YET[1:] + ".", width, "muted")
    made: list[Line] = []
    names = device_names(frame)
    room = max(8, width - 52)
    heading = f" {'counter':<28} {'value':>11}  {'source':<8} last {room} s"
    made.append(((fit(heading, width), "column"),))
    for counter in ordered(frame):
        history = frame.counter_history.get(counter.key, ())
        text = history_spark(history, counter.time_ns // 1_000_000_000, room, glyphs)
        stale = _stale(counter, frame.time_ns)
        shown = "old" if stale else amount(counter)
        made.append(
            (
                (f" {fit(label_of(counter, names, 28), 28)} ", "base"),
                (f"{cut(shown, 11):>11}  ", "warn" if stale else "strong"),
                (f"{fit(cut(safe_text(counter.source, 8), 8), 8)} ", "muted"),
                (text, "stage.prepare"),
            )
        )
        if counter.text and counter.unit == "ratio" and not stale:
            made += wrapped(safe_text(counter.text, 80), width, "muted", 4)
    reasons: dict[str, list[str]] = {}
    for counter in unavailable(frame):
        reasons.setdefault(safe_text(counter.reason) or "no reason given", []).append(
            label_of(counter, names)
        )
    if reasons:
        made += [(), ((" not available".ljust(width), "column"),)]
    for reason, labels in reasons.items():
        made += wrapped(reason, width, "warn")
        made += wrapped(", ".join(labels), width, "muted", 4)
    return made
