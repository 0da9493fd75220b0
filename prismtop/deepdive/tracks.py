"""Which track every event of a capture goes to, beside those of our own recording.

Threads of a profiled process keep their real pid and tid. Our own lanes (`batches`, `stages`) have small tids
in the same process, so they stand next to them. Every other layer gets a track of its own per thread, because
its spans need not nest with those of the profiler: they come from another clock reading. Devices become
processes of their own, one for each device of each process, for their streams are numbered from 0 in all of
them. Pids and tids that are made here lie above the kernel's largest, 2^22.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from prismtop.trace.metadata import json_object
from prismtop.trace.own import DEVICE_EVENT, THREAD_EVENT
from prismtop.trace.tracks import MACHINE_PID, quoted

FIRST_DEVICE_PID = 5_000_000
FIRST_TID = 5_000_000
LEAST_TID = 100
"""Below lie the lanes of our own recording: a thread with a smaller id (of a container) gets another one."""

Key: TypeAlias = "tuple[object, ...]"


@dataclass
class _Track:
    pid: int
    unit: int
    tids: list[int]
    name: str
    place: int


class CaptureTracks:
    """Tracks by number, in the order in which they were asked for. Not thread safe."""

    def __init__(self) -> None:
        self._numbers: dict[Key, int] = {}
        self._tracks: list[_Track] = []
        self._next = FIRST_TID
        self._devices: dict[tuple[int, int], tuple[int, str]] = {}

    def thread(self, pid: int, tid: int) -> int:
        """The track of a real thread."""
        key = ("thread", pid, tid)
        if key not in self._numbers:
            shown = tid if tid >= LEAST_TID else self._fresh()
            self._add(key, _Track(pid, tid, [shown], f"thread {tid}", 1000 + 16 * len(self._tracks)))
        return self._numbers[key]

    def beside(self, pid: int, tid: int, layer: str) -> int:
        """The track of a layer next to a thread; tid 0 is the process's, pid 0 the machine's."""
        key = (layer, pid, tid)
        if key not in self._numbers:
            name = f"{layer} of thread {tid}" if tid else layer
            place = 1001 + 16 * self._numbers.get(("thread", pid, tid), len(self._tracks))
            self._add(key, _Track(pid or MACHINE_PID, tid, [self._fresh()], name, place))
        return self._numbers[key]

    def stream(self, pid: int, device: int, stream: object, title: str) -> int:
        """The track of a stream of a device of a process."""
        key = ("stream", pid, device, stream)
        if key not in self._numbers:
            tid = stream if type(stream) is int and 0 <= stream < FIRST_TID else self._fresh()
            made = FIRST_DEVICE_PID + len(self._devices)
            owner, _ = self._devices.setdefault((pid, device), (made, title))
            self._add(key, _Track(owner, device, [tid], f"stream {stream}", 10 + len(self._tracks)))
        return self._numbers[key]

    def rename(self, number: int, name: str) -> None:
        """Call a track otherwise."""
        self._tracks[number].name = name

    def owner(self, number: int) -> tuple[int, int]:
        """(process, native thread or device) that a track is of; the machine is process 0."""
        track = self._tracks[number]
        for (pid, device), (made, _) in self._devices.items():
            if made == track.pid:
                return pid, device
        return (0 if track.pid == MACHINE_PID else track.pid), track.unit

    def at(self, number: int, lane: int = 0) -> tuple[int, int]:
        """(pid, tid) in the file of a lane of a track; lane 0 is the track itself."""
        track = self._tracks[number]
        while len(track.tids) <= lane:
            track.tids.append(self._fresh())
        return track.pid, track.tids[lane]

    @property
    def processes(self) -> list[int]:
        """Of all tracks but those of devices."""
        devices = {made for made, _ in self._devices.values()}
        return [pid for pid in dict.fromkeys(track.pid for track in self._tracks) if pid not in devices]

    def metadata(self) -> list[str]:
        """Events that name devices, and tracks with the lanes that they have by now."""
        made: list[str] = []
        for place, ((pid, device), (number, title)) in enumerate(self._devices.items()):
            name = f"GPU {device} of pid {pid}" + (f" ({title})" if title else "")
            made.append(_meta(number, 0, "process_name", f'"name":{quoted(name)}'))
            made.append(_meta(number, 0, "process_sort_index", f'"sort_index":{500 + place}'))
            made.append(_plain(DEVICE_EVENT, number, 0, {"of": pid, "device": device}))
        devices = {number for number, _ in self._devices.values()}
        for track in self._tracks:
            for lane, tid in enumerate(track.tids):
                if tid != track.unit and track.pid not in devices:
                    made.append(_plain(THREAD_EVENT, track.pid, tid, {"of": track.unit}))
                name = f"{track.name} (overlap {lane})" if lane else track.name
                made.append(_meta(track.pid, tid, "thread_name", f'"name":{quoted(name)}'))
                index = f'"sort_index":{track.place + lane}'
                made.append(_meta(track.pid, tid, "thread_sort_index", index))
        return made

    def _add(self, key: Key, track: _Track) -> None:
        self._numbers[key] = len(self._tracks)
        self._tracks.append(track)

    def _fresh(self) -> int:
        self._next += 1
        return self._next - 1


def _plain(name: str, pid: int, tid: int, args: Mapping[str, object]) -> str:
    return f'{{"ph":"M","name":"{name}","ts":0,"pid":{pid},"tid":{tid},"args":{json_object(args)}}}'


def _meta(pid: int, tid: int, name: str, args: str) -> str:
    return f'{{"ph":"M","cat":"__metadata","name":"{name}","ts":0,"pid":{pid},"tid":{tid},"args":{{{args}}}}}'


def native_threads(pid: int, proc: str = "/proc") -> Mapping[int, int]:
    """Thread ids of a process as it sees them itself in a container, to ours; empty where both are the same,
    or the process is gone.
    """
    made: dict[int, int] = {}
    for tid in _threads(pid, proc):
        try:
            status = Path(f"{proc}/{pid}/task/{tid}/status").read_text("utf-8", "replace")
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("NSpid:"):
                ids = line.split()[1:]
                if len(ids) > 1 and ids[-1].isdigit():
                    made[int(ids[-1])] = tid
                break
    return made


def _threads(pid: int, proc: str) -> Iterable[int]:
    try:
        names = os.listdir(f"{proc}/{pid}/task")
    except OSError:
        return ()
    return (int(name) for name in names if name.isdigit())
