"""What Perfetto and chrome://tracing would say about a trace file, without them.

Every rule was measured with the real ones (Perfetto v52, catapult): see `tests/integration/test_viewers.py`,
which runs both over the files of every rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text
from prismtop.trace.container import Container, WholeReader, container_of, decoded
from prismtop.trace.lenient import ns_of
from prismtop.trace.overlap import Overlaps

PERFETTO, CHROME, BOTH = "Perfetto", "chrome://tracing", "both viewers"


@dataclass(frozen=True)
class Finding:
    """Something that a viewer rejects, drops or gets wrong.

    Attributes:
        rule: stable id.
        viewer: who is concerned.
        text: one sentence.
        count: how often.
        first: where it was met first, in a few words; empty when it concerns the whole file.
    """

    rule: str
    viewer: str
    text: str
    count: int = 1
    first: str = ""


@dataclass
class Report:
    """What was found in one file.

    Attributes:
        path: the file.
        findings: what is wrong, worst first.
        notes: what is odd and harmless.
        events: how many there are.
    """

    path: Path
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: int = 0

    @property
    def ok(self) -> bool:
        """Whether both viewers open it and show everything."""
        return not self.findings


_RULES: dict[str, tuple[str, str]] = {
    "kind": (BOTH, "it is not read as a trace"),
    "gzip-cut": (PERFETTO, "its gzip data is cut or damaged: the whole file is rejected"),
    "gzip-tail": (PERFETTO, "something follows its gzip data: the whole file is rejected"),
    "gzip-members": (CHROME, "it has several gzip members: only the first is shown"),
    "bom": (PERFETTO, "it begins with a byte order mark: the whole file is rejected"),
    "lines": (BOTH, "it is JSON lines and no array: Perfetto shows nothing and says nothing"),
    "no-events": (PERFETTO, "it does not begin with an event: its kind is not recognised"),
    "object-cut": (BOTH, "it is an object that is cut: the whole file is rejected"),
    "array-cut": (CHROME, "it is cut inside an event: the whole file is rejected"),
    "after-end": (CHROME, "text follows the end of the events: the whole file is rejected"),
    "between": (BOTH, "there is more between two events than a comma: the whole file is rejected"),
    "not-json": (CHROME, "an event is no JSON: the whole file is rejected"),
    "nan-counter": (PERFETTO, "a counter is NaN or Infinity: it hangs for ever"),
    "nan-time": (BOTH, "a time is NaN or Infinity: the whole file is rejected"),
    "nan": (CHROME, "a number is NaN or Infinity: the whole file is rejected"),
    "counter-value": (PERFETTO, "a counter has a value that is no number: an import error is shown"),
    "overlap": (PERFETTO, "slices of one track overlap without nesting: the later ones are dropped"),
    "time": (PERFETTO, "an event has no time: it is dropped"),
    "length": (PERFETTO, "a slice has no length: it is dropped"),
    "unmatched-end": (CHROME, "an end has no begin: it is dropped"),
}
_ORDER = {rule: place for place, rule in enumerate(_RULES)}


def check(path: Path) -> Report:
    """Read the whole file once, or twice when it is compressed.

    Raises:
        UsageError: it cannot be read, or is no trace at all.
    """
    checker = _Checker(path)
    checker.run()
    return checker.report()


class _Checker:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._count: dict[str, int] = {}
        self._first: dict[str, str] = {}
        self._notes: dict[str, None] = {}
        self._events = 0
        self._overlaps = Overlaps()
        self._open: dict[tuple[object, object], int] = {}

    def report(self) -> Report:
        findings = [
            Finding(rule, *_RULES[rule], count, self._first[rule])
            for rule, count in sorted(self._count.items(), key=lambda item: _ORDER[item[0]])
        ]
        return Report(self._path, findings, list(self._notes), self._events)

    def run(self) -> None:
        reader = WholeReader(self._path)
        for block in reader.blocks():
            content = decoded(block)
            for offset, why in content.broken:
                self._find("not-json", f"{why} at byte {offset}")
            if content.between is not None:
                self._find("between", f"byte {content.between}")
            if content.recoded:
                self._notes["it has bytes that are no UTF-8, which both viewers replace"] = None
            for offset, event in content.events:
                self._events += 1
                self._event(event, offset)
        self._surroundings(reader, container_of(self._path))
        for (pid, tid), lanes in self._overlaps.lanes():
            late = sum(1 for lane in lanes if lane)
            self._find("overlap", f"process {_short(pid)}, thread {_short(tid)}", late)

    def _surroundings(self, reader: WholeReader, facts: Container) -> None:
        cut = any("cut" in note or "damaged" in note for note in reader.notes)
        if facts.damaged:
            self._find("gzip-cut")
        elif facts.padded:
            self._find("gzip-tail")
        if facts.members > 1:
            self._find("gzip-members", "", facts.members - 1)
        if facts.bom:
            self._find("bom")
        if reader.form == "lines":
            self._find("lines")
        elif reader.form == "object" and cut and not facts.damaged:
            self._find("object-cut")
        elif reader.form == "array":
            if cut and not facts.damaged:
                self._find("array-cut")
            elif reader.after:
                self._find("after-end")
            elif not facts.tail.endswith(b"]"):
                self._notes["its array is not closed, which both viewers accept"] = None
            if not self._events:
                self._find("no-events")

    def _event(self, event: dict[str, Any], offset: int) -> None:
        phase = event.get("ph")
        if phase == "M":
            return
        where = f"event {self._events} ({_short(event.get('name'))})"
        args = event.get("args")
        start = self._time(event, "ts", where)
        if phase == "X":
            length = self._time(event, "dur", where, missing="length")
            if start is not None:
                track = (_hashable(event.get("pid")), _hashable(event.get("tid")))
                self._overlaps.add(track, start, max(0, length or 0))
        elif phase == "C" and isinstance(args, Mapping):
            for value in args.values():
                if isinstance(value, float) and not isfinite(value):
                    self._find("nan-counter", where)
                elif type(value) not in (int, float):
                    self._find("counter-value", where)
            return
        elif phase in ("B", "E"):
            self._pair(event, phase, where)
        if isinstance(args, (Mapping, list)) and not _all_finite(args):
            self._find("nan", where)
        if isinstance(event.get("pid"), str) and not event["pid"].isdigit():
            self._notes["process ids are texts: names of processes are ignored by Perfetto"] = None

    def _pair(self, event: Mapping[str, Any], phase: str, where: str) -> None:
        track = (_hashable(event.get("pid")), _hashable(event.get("tid")))
        depth = self._open.get(track, 0) + (1 if phase == "B" else -1)
        if depth < 0:
            self._find("unmatched-end", where)
            depth = 0
        self._open[track] = depth

    def _time(self, event: Mapping[str, Any], name: str, where: str, missing: str = "time") -> int | None:
        value = event.get(name)
        if isinstance(value, float) and not isfinite(value):
            self._find("nan-time", where)
            return None
        made = ns_of(value)
        if made is None:
            self._find(missing, where)
        return made

    def _find(self, rule: str, where: str = "", times: int = 1) -> None:
        self._count[rule] = self._count.get(rule, 0) + times
        self._first.setdefault(rule, where)


def not_a_trace(path: Path, error: UsageError) -> Report:
    """The report of a file that no reader takes as a trace."""
    return Report(path, [Finding("kind", BOTH, error.message)])


def _all_finite(value: object, depth: int = 0) -> bool:
    if depth > 100:
        return True
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, Mapping):
        return all(_all_finite(inner, depth + 1) for inner in value.values())
    if isinstance(value, list):
        return all(_all_finite(inner, depth + 1) for inner in value)
    return True


def _hashable(value: object) -> object:
    return value if isinstance(value, (str, int, float, type(None))) else repr(value)


def _short(value: object) -> str:
    return safe_text(value if isinstance(value, str) else repr(value), 60)
