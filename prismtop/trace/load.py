"""Open traces: one or several files as batches, requests, counters and alerts on one timeline.

trace = load([Path("run.json")])
for batch in trace.batches(): ...
"""

from __future__ import annotations

import glob
import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from prismtop.errors import UsageError
from prismtop.model import Alert, Batch, Clock, Counter, FirstToken, Group, Request, Stage, Target
from prismtop.trace.cache import Cache
from prismtop.trace.joined import SAME_CLOCK_NS, alert_id
from prismtop.trace.own import Dropped, GroundTruth, LostSoFar, Said, SessionInfo, StateChange
from prismtop.trace.story import Moment, Story, open_story

_LAST = re.compile(r"^(.+)\.json(\.gz)?$")
_ROTATED = re.compile(r"\.\d{4}$")
PREROLL_BLOCKS = 2


_EFFECTS = {
    **dict.fromkeys(("slower", "effect", "yes", "true"), True),
    **dict.fromkeys(("no effect", "no", "false"), False),
}


class Truth(NamedTuple):
    """A fault that was injected on purpose.

    Attributes:
        start_ns, end_ns: when it acted; CLOCK_MONOTONIC of the trace.
        id: its scenario.
        effect: whether it was seen to have an effect on latency at all; None without an effect check.
    """

    start_ns: int
    end_ns: int
    id: str
    effect: bool | None


@dataclass(frozen=True)
class Trace:
    """One or several opened files.

    Every iterator starts anew and reads the files again, block by block, so that a trace of any size takes
    the same memory. Times are nanoseconds of the first file's CLOCK_MONOTONIC (of a foreign trace: of its
    clock).

    Attributes:
        stories: the files.
        shifts: per file, what is added to its times.
        group: every process of every file.
        clock: how to turn times into wall time.
        start_ns, end_ns: first and last moment.
        notes: sentences about damage, and about what is missing.
    """

    stories: tuple[Story, ...]
    shifts: tuple[int, ...]
    group: Group
    clock: Clock
    start_ns: int
    end_ns: int
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The first file."""
        return self.stories[0].path

    @property
    def session(self) -> SessionInfo:
        """What the first file says of its session."""
        return self.stories[0].session

    @property
    def ours(self) -> bool:
        """Whether all files are recordings of prismtop."""
        return all(story.dialect == "prismtop" for story in self.stories)

    @property
    def batch_count(self) -> int:
        """Batches in all files."""
        return sum(story.index.batches for story in self.stories)

    @property
    def judged(self) -> bool:
        """Whether batches carry predictions, or alerts were recorded."""
        return any(
            story.index.judged or any(isinstance(noun, Alert) for _, noun in story.marks())
            for story in self.stories
        )

    def moments(self, from_ns: int | None = None) -> Iterator[Moment]:
        """Everything, with the time at which its session saw it, in that order, from `from_ns` on."""
        if len(self.stories) == 1:
            return self.stories[0].moments(from_ns)
        bases = self._bases()
        streams = [
            _shifted(story.moments(None if from_ns is None else from_ns - shift), shift, story, bases)
            for story, shift in zip(self.stories, self.shifts, strict=True)
        ]
        return heapq.merge(*streams, key=lambda moment: moment[0])

    def shortly_before(self, time_ns: int, at_most_ns: int) -> int:
        """A time up to `at_most_ns` before another from which on few enough blocks lie for a screen."""
        earliest = time_ns - at_most_ns
        for story, shift in zip(self.stories, self.shifts, strict=True):
            base, last_us = story.session.base_ns + shift, story.index.last_us
            block = story.index.block_before((time_ns - base) / 1000) - PREROLL_BLOCKS
            if block >= 0:
                earliest = max(earliest, base + round(last_us[block] * 1000))
        return max(self.start_ns, min(earliest, time_ns))

    def batches(self, from_ns: int | None = None) -> Iterator[Batch]:
        """Batches in order of their end."""
        return (noun for _, noun in self.moments(from_ns) if isinstance(noun, Batch))

    def requests(self, from_ns: int | None = None) -> Iterator[Request]:
        """Finished requests."""
        return (noun for _, noun in self.moments(from_ns) if isinstance(noun, Request))

    def counters(self, from_ns: int | None = None) -> Iterator[Counter]:
        """Readings in order of time."""
        return (noun for _, noun in self.moments(from_ns) if isinstance(noun, Counter))

    def alerts(self) -> tuple[Alert, ...]:
        """Alerts as they stood at the end, in order of opening."""
        latest: dict[int, Alert] = {}
        bases = self._bases()
        for story, shift in zip(self.stories, self.shifts, strict=True):
            for _, noun in _shifted(iter(story.marks()), shift, story, bases):
                if isinstance(noun, Alert):
                    latest[noun.id] = noun
        return tuple(sorted(latest.values(), key=lambda alert: alert.opened_ns))

    def _bases(self) -> list[int]:
        """What tells the recorded sessions apart; the segments of one recording are one session."""
        return sorted({story.session.base_ns for story in self.stories})

    def ground_truth(self) -> tuple[Truth, ...]:
        """Injected faults, in order of their start. Workload controls, with nothing to be found, are none."""
        made = [
            Truth(
                noun.start_ns + shift,
                noun.start_ns + noun.duration_ns + shift,
                noun.scenario,
                _effect(noun.args.get("effect_check")),
            )
            for story, shift in zip(self.stories, self.shifts, strict=True)
            for _, noun in story.marks()
            if isinstance(noun, GroundTruth) and noun.args.get("kind") != "control"
        ]
        return tuple(sorted(made, key=lambda truth: truth[:3]))


def load(paths: Sequence[Path | str], cache: Cache | None = None) -> Trace:
    """Open traces; several are put on one timeline by their wall clocks.

    Args:
        paths: files of any dialect; segments of one recording, or several ranks. The last segment of a
            recording brings those before it, which lie beside it as `NAME.0000.json.gz` and so on.
        cache: where indexes are kept; by default the user's cache directory.

    Raises:
        UsageError: a file is no trace, cannot be read, or shares no clock with the others.
        UnavailableError: there is no room to unpack one.
    """
    if not paths:
        raise UsageError("no trace was named.", fix="Name one: `prismtop replay FILE`.")
    named = [open_story(Path(path), cache) for path in dict.fromkeys(map(str, paths))]
    stories = list({story.path.resolve(): story for one in named for story in _segments(one, cache)}.values())
    stories.sort(key=lambda story: (story.session.base_ns, story.session.segment, story.start_ns))
    clock = stories[0].session.clock
    shifts = []
    for story in stories:
        ahead = story.session.clock.wall_minus_mono_ns - clock.wall_minus_mono_ns
        shifts.append(0 if abs(ahead) < SAME_CLOCK_NS else ahead)
    spans = [(s.start_ns + shift, s.end_ns + shift) for s, shift in zip(stories, shifts, strict=True)]
    start, end = min(begin for begin, _ in spans), max(end for _, end in spans)
    if end - start >= 1 << 61:
        raise UsageError("these traces share no clock.", fix="Open them one by one.")
    members: dict[object, Target] = {}
    for story in stories:
        for member in story.session.group.members:
            members.setdefault((member.id, member.ranks), member)
    first = next((s.session.group for s in stories if s.index.batches), stories[0].session.group)
    return Trace(
        stories=tuple(stories),
        shifts=tuple(shifts),
        group=Group(first.engine, first.version, tuple(members.values())),
        clock=clock,
        start_ns=start,
        end_ns=end,
        notes=tuple(dict.fromkeys(note for story in stories for note in story.notes)),
    )


def _effect(said: object) -> bool | None:
    """What an effect check said, as text or truth value; None for anything that is no answer."""
    if isinstance(said, str):
        return _EFFECTS.get(said.lower())
    return said if isinstance(said, bool) else None


def _segments(last: Story, cache: Cache | None) -> list[Story]:
    """A file, after the segments of the same recording that were rotated away before it."""
    found = _LAST.match(last.path.name)
    if not last.session.segment or found is None or _ROTATED.search(found[1]):
        return [last]
    beside = last.path.parent.glob(f"{glob.escape(found[1])}.[0-9][0-9][0-9][0-9].json*")
    earlier = []
    for path in sorted(beside):
        try:
            story = open_story(path, cache)
        except UsageError:
            continue
        if story.session.base_ns == last.session.base_ns and story.session.segment < last.session.segment:
            earlier.append(story)
    return [*earlier, last]


def _shifted(moments: Iterator[Moment], shift: int, story: Story, bases: Sequence[int]) -> Iterator[Moment]:
    """Moments of one of several files on the common clock, with ids of alerts that no other session uses."""
    if not shift and len(bases) == 1:
        return moments
    base = story.session.base_ns
    return ((time_ns + shift, _moved(_renumbered(noun, base, bases), shift)) for time_ns, noun in moments)


def _renumbered(noun: object, base_ns: int, bases: Sequence[int]) -> object:
    if isinstance(noun, Alert):
        return replace(noun, id=alert_id(noun.id, base_ns, bases))
    return noun


def _moved(noun: object, shift: int) -> object:
    """The same noun on another clock."""
    if not shift:
        return noun
    if isinstance(noun, Batch):
        stages = tuple(_moved_stage(stage, shift) for stage in noun.stages)
        return replace(noun, start_ns=noun.start_ns + shift, stages=stages)
    if isinstance(noun, (Counter, FirstToken, StateChange, LostSoFar, Said, Dropped, SessionInfo)):
        return replace(noun, time_ns=noun.time_ns + shift)
    if isinstance(noun, Request):
        return replace(noun, finished_ns=noun.finished_ns + shift)
    if isinstance(noun, Alert):
        closed = None if noun.closed_ns is None else noun.closed_ns + shift
        opened, started = noun.opened_ns + shift, noun.started_ns + shift
        return replace(noun, opened_ns=opened, started_ns=started, closed_ns=closed)
    if isinstance(noun, GroundTruth):
        return replace(noun, start_ns=noun.start_ns + shift)
    return noun


def _moved_stage(stage: Stage, shift: int) -> Stage:
    return replace(stage, start_ns=stage.start_ns + shift)
