"""The second pass over a part of a capture: its events as lines of a trace file."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import BinaryIO

from prismtop.deepdive.clock import Alignment
from prismtop.deepdive.sources import Drawn, args_text, category
from prismtop.deepdive.survey import Survey
from prismtop.deepdive.tracks import CaptureTracks
from prismtop.trace.slices import us
from prismtop.trace.tracks import quoted

_LINES = 2000
_PREFIXES = 50_000


class LineWriter:
    """Makes the lines of one source."""

    def __init__(
        self,
        tracks: CaptureTracks,
        survey: Survey,
        alignment: Alignment,
        base_ns: int,
        window_ns: tuple[int, int],
    ) -> None:
        self._tracks = tracks
        self._survey = survey
        self._mono = alignment.mono
        self._base = base_ns
        self._longest = window_ns[1] - base_ns
        self._starts = (survey.starts - base_ns).tolist()
        self._ends = (survey.ends - base_ns).tolist()
        self._lanes = survey.lanes.tolist()
        self._good = survey.good.tolist()
        self._flows = _FlowEnds(survey)
        self._slice = -1
        self._prefixes: dict[tuple[str, str, str], str] = {}
        self._places: dict[tuple[int, int], str] = {}
        self._late: list[tuple[int, str]] = []

    def line(self, drawn: Drawn) -> str:
        """The event as a line; empty when it is not written now, or not at all."""
        phase, track = drawn.phase, drawn.track
        lane = 0
        if phase == "X":
            self._slice += 1
            n = self._slice
            if n >= len(self._starts):
                return ""
            if not self._good[n]:
                return ""
            start, lane = self._starts[n], self._lanes[n]
            times = f'"ts":{us(start)},"dur":{us(self._ends[n] - start)}'
        else:
            start = self._mono(drawn.start_ns) - self._base
            if drawn.flow is not None:
                found = self._flows.lane(track, drawn.start_ns)
                if found is None:
                    return ""
                lane = found
            if not 0 <= start < self._longest:
                return ""
            times = f'"ts":{us(start)}'
        key = (phase, drawn.cat, drawn.name)
        prefix = self._prefixes.get(key) or self._prefix(key)
        place = self._places.get((track, lane)) or self._place(track, lane)
        if drawn.flow is not None:
            tail = f',"id":{drawn.flow}' + (',"bp":"e"' if phase == "f" else "")
        else:
            args = args_text(drawn.args)
            tail = f',"args":{args}' if args else ""
        made = f"{prefix}{place}{times}{tail}}}"
        if phase == "X" and self._survey.late and n in self._survey.late:
            self._late.append((self._survey.late[n], made))
            return ""
        return made

    def late_lines(self) -> list[str]:
        """What has to come after all others."""
        return [line for _, line in sorted(self._late)]

    def _prefix(self, key: tuple[str, str, str]) -> str:
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.clear()
        phase, cat, name = key
        scope = '"s":"t",' if phase == "i" else ""
        made = f'{{"ph":"{phase}",{scope}"cat":{quoted(category(cat))},"name":{quoted(name)},'
        self._prefixes[key] = made
        return made

    def _place(self, track: int, lane: int) -> str:
        pid, tid = self._tracks.at(track, lane)
        made = self._places[track, lane] = f'"pid":{pid},"tid":{tid},'
        return made


class _FlowEnds:
    """Which slices flows begin and end at: viewers report those that hang in the air. A flow has the time of
    its slice's start.
    """

    def __init__(self, survey: Survey) -> None:
        import numpy as np

        rows = survey.activities
        tracks = np.frombuffer(rows.track, np.int32)
        starts = np.frombuffer(rows.start, np.int64)
        self._starts: dict[int, array[int]] = {}
        for track in np.unique(tracks).tolist():
            own = array("q")
            own.frombytes(np.sort(starts[survey.good & (tracks == track)]).tobytes())
            self._starts[track] = own
        moved = np.flatnonzero(survey.lanes)
        keys = zip(tracks[moved].tolist(), starts[moved].tolist(), strict=True)
        lanes: list[int] = survey.lanes[moved].tolist()
        self._lanes: dict[tuple[int, int], int] = dict(zip(keys, lanes, strict=True))

    def lane(self, track: int, at_ns: int) -> int | None:
        """Lane of the slice that begins then, by its source's clock; None when there is none."""
        starts = self._starts.get(track)
        if starts is None:
            return None
        place = bisect_left(starts, at_ns)
        if place == len(starts) or starts[place] != at_ns:
            return None
        return self._lanes.get((track, at_ns), 0)


class Lines:
    """Events of a file, a separator between any two."""

    def __init__(self, file: BinaryIO) -> None:
        self.events = 0
        self._file = file
        self._waiting: list[str] = []
        self._begun = False
        file.write(b"[\n")

    def put(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.put_one(line)

    def put_one(self, line: str) -> None:
        self._waiting.append(line)
        self.events += 1
        if len(self._waiting) >= _LINES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.write(b"\n]\n")
        self._file.flush()

    def _flush(self) -> None:
        if self._waiting:
            start = ",\n" if self._begun else ""
            self._file.write((start + ",\n".join(self._waiting)).encode())
            self._begun = True
            self._waiting.clear()
