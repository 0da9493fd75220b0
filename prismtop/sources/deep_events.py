"""Unpacks into JSON lines what a deep capture writes in the target (`probe.deep.Guest.save_events`).

The target packs them as it collects them, which costs it least; what they mean is worked out here.
"""

from __future__ import annotations

import ast
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence

from prismtop.errors import UnavailableError
from prismtop.safe_text import safe_text
from prismtop.sources.ring import NOT_PARSED


def unpacked(packed: bytes) -> Iterator[bytes]:
    """JSON lines of the target's packed events.

    Raises:
        UnavailableError: it is not what the capture writes.
    """
    try:
        head, _, body = packed.partition(b"\n")
        told = ast.literal_eval(head.decode())
        count, thread = int(told["count"]), int(told["thread"])
        begin, end = (int(ns) for ns in told["window"])
        names = {
            int(number): (safe_text(str(name)), safe_text(str(file)), int(line))
            for number, (name, file, line) in told["names"].items()
        }
        pauses = [tuple(int(value) for value in row) for row in told["pauses"]]
        gaps = [(int(start), int(end)) for start, end in told["gaps"]]
        times, numbers = array("q"), array("q")
        times.frombytes(body[: 8 * count])
        numbers.frombytes(body[8 * count : 16 * count])
        if len(times) != count or len(numbers) != count:
            raise ValueError("cut short")
        if told["full"] and count:  # nothing was recorded from then on
            end = abs(times[-1])
        for start, took, generation, collected, tid in pauses:
            args: dict[str, object] = {"generation": generation, "collected": collected}
            yield _line("gc", f"gc generation {generation}", start, took, tid, args)
        for start, until in gaps:
            yield _line("unrecorded", "operators", start, max(0, until - start), thread, {})
        for name, start, took, where in _slices(times, numbers, names, (begin, end), str(told["ours"])):
            yield _line("python", name, start, took, thread, where)
    except NOT_PARSED as error:
        raise UnavailableError(f"The events that the target wrote make no sense ({error}).") from error


def _line(layer: str, name: str, t0: int, dur: int, tid: int, args: Mapping[str, object]) -> bytes:
    made = {"layer": layer, "name": name, "t0": t0, "dur": dur, "tid": tid, "args": args}
    return json.dumps(made, separators=(",", ":")).encode() + b"\n"


def _slices(
    times: Sequence[int],
    numbers: Sequence[int],
    names: Mapping[int, tuple[str, str, int]],
    window: tuple[int, int],
    ours: str,
) -> Iterator[tuple[str, int, int, dict[str, object]]]:
    """(name, start, duration, arguments) of every call. What was entered before the window begins with it,
    what is open at its end ends with it; `cut` says so. The probe's own functions are left out.
    """
    open_calls: list[tuple[int, int]] = []
    for time, number in zip(times, numbers, strict=True):
        if time >= 0:
            open_calls.append((number, time))
            continue
        cut = ""
        if any(entered == number for entered, _ in reversed(open_calls)):
            while True:  # a function that an exception ended without an event is closed with the next
                entered, start = open_calls.pop()
                if entered == number:
                    break
                yield from _slice(names.get(entered), start, -time, "end", ours)
        else:
            start, cut = window[0], "start"
        yield from _slice(names.get(number), start, -time, cut, ours)
    for number, start in reversed(open_calls):
        yield from _slice(names.get(number), start, max(window[1], start), "end", ours)


def _slice(
    named: tuple[str, str, int] | None, start: int, end: int, cut: str, ours: str
) -> Iterator[tuple[str, int, int, dict[str, object]]]:
    if named is None or named[1] == ours:
        return
    name, file, line = named
    args: dict[str, object] = {"file": file, "line": line}
    if cut:
        args["cut"] = cut
    yield name, start, max(0, end - start), args
