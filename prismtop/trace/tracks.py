"""Which track of a trace every event goes to.

A viewer drops, or draws wrongly, slices of one track that overlap without nesting. Batches overlap under
overlapped scheduling, so every process has as many batch lanes as batches were ever in flight at once.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii

from prismtop.model import Group
from prismtop.safe_text import safe_text

MACHINE_PID = 4_194_305
"""The process group of counters that belong to no process: above the kernel's largest pid, 2^22."""
ALERTS_TID, REQUESTS_TID, SESSION_TID = 1, 2, 3
FIRST_LANE_TID = 10
_FIXED = {
    ALERTS_TID: "alerts",
    REQUESTS_TID: "requests",
    SESSION_TID: "prismtop",
}


def quoted(text: object) -> str:
    """`text` as a JSON string that every parser takes: printable, no lone surrogates, ASCII."""
    return encode_basestring_ascii(safe_text(text))


class Tracks:
    """Processes and threads of one recording, and the metadata events that name them.

    Not thread safe.

    Attributes:
        fresh: metadata events of tracks that came into being since `take_fresh`.
    """

    def __init__(self) -> None:
        self._metadata: list[str] = []
        self._fresh = 0
        self._named: set[tuple[int, int]] = set()
        self._processes: dict[int, str] = {}
        self._lanes: dict[tuple[int, str], list[int]] = {}
        self._lane_tids: dict[tuple[int, str, int], int] = {}
        self._next_tid: dict[int, int] = {}
        self._titles: dict[int, tuple[str, str]] = {}

    @property
    def metadata(self) -> list[str]:
        """Every metadata event so far: what the head of a file needs."""
        return self._metadata

    def take_fresh(self) -> list[str]:
        """Metadata events that came into being since the last call."""
        fresh = self._metadata[self._fresh :]
        self._fresh = len(self._metadata)
        return fresh

    def know(self, group: Group) -> None:
        """Remember how the group's processes are called."""
        for member in group.members:
            ranks = " ".join(f"{kind}{rank}" for kind, rank in member.ranks)
            name = " ".join(word for word in (member.engine, member.role, ranks) if word)
            labels = " ".join(word for word in (member.version, member.model) if word)
            self._titles[member.id.pid] = (name, labels)

    def process(self, pid: int) -> None:
        """Name the process of `pid`, once."""
        if pid in self._processes:
            return
        if pid == MACHINE_PID:
            name, labels, place = "machine", "", 1000
        else:
            name, labels = self._titles.get(pid, ("process", ""))
            place = len(self._processes)
        self._processes[pid] = name
        self._meta(pid, 0, "process_name", f'"name":{quoted(name)}')
        if labels:
            self._meta(pid, 0, "process_labels", f'"labels":{quoted(labels)}')
        self._meta(pid, 0, "process_sort_index", f'"sort_index":{place}')

    def fixed(self, pid: int, tid: int) -> int:
        """One of the tracks that every process may have: alerts, requests, prismtop, injected faults."""
        if (pid, tid) not in self._named:
            self._thread(pid, tid, _FIXED[tid], tid)
        return tid

    def place(self, pid: int, group: str, start_ns: int, end_ns: int) -> int:
        """The tid of a lane of `group` in `pid` that is free from `start_ns` on; it is taken until
        `end_ns`.
        """
        ends = self._lanes.setdefault((pid, group), [])
        for lane, taken_until in enumerate(ends):
            if taken_until <= start_ns:
                ends[lane] = end_ns
                return self._lane_tids[pid, group, lane]
        ends.append(end_ns)
        return self._new_lane(pid, group, len(ends) - 1)

    def _new_lane(self, pid: int, group: str, lane: int) -> int:
        tid = self._next_tid.get(pid, FIRST_LANE_TID)
        self._next_tid[pid] = tid + 1
        self._lane_tids[pid, group, lane] = tid
        self._thread(pid, tid, group if lane == 0 else f"{group} (overlap {lane})", tid)
        return tid

    def _thread(self, pid: int, tid: int, name: str, place: int) -> None:
        self.process(pid)
        self._named.add((pid, tid))
        self._meta(pid, tid, "thread_name", f'"name":{quoted(name)}')
        self._meta(pid, tid, "thread_sort_index", f'"sort_index":{place}')

    def _meta(self, pid: int, tid: int, name: str, args: str) -> None:
        self._metadata.append(
            f'{{"ph":"M","cat":"__metadata","name":"{name}","ts":0,"pid":{pid},"tid":{tid},"args":{{{args}}}}}'
        )


def anchor_pid(group: Group) -> int:
    """The process whose tracks carry what belongs to the whole engine: the first probed one."""
    members = group.probed or group.members
    return members[0].id.pid if members else MACHINE_PID
