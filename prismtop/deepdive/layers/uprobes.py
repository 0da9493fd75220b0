"""The layer `uprobes`: how long collectives, graph launches and waits for a stream took, seen by the kernel.

By bpftrace, whose probes end with it. Each call costs one to twenty microseconds, so only functions that are
called a few times a batch are probed, and only when it was asked for. A probe belongs to a file: other
processes that use the same library pay for it too while the window lasts, but are not recorded.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prismtop.attach.elf import ElfError, ElfFile
from prismtop.attach.errors import AttachError
from prismtop.attach.image import openable_path
from prismtop.attach.process import Mapping, read_maps, read_status
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.layers.background import BackgroundCollector
from prismtop.deepdive.layers.leash import Leash
from prismtop.deepdive.layers.switch_tracing import (
    MAX_STORED,
    TracingFailed,
    bpftrace_lines,
    first_line,
    run_bpftrace,
)
from prismtop.deepdive.layers.tracing import why_no_bpftrace
from prismtop.model import Layer, LayerState
from prismtop.safe_text import safe_text

LIBRARIES = {
    "ncclAllReduce": re.compile(r"/lib(nccl|rccl)[^/]*\.so[^/]*$"),
    "cudaGraphLaunch": re.compile(r"/libcudart[^/]*\.so[^/]*$"),
    "cuStreamSynchronize": re.compile(r"/libcuda\.so[^/]*$"),
}
"""Probed functions, and the libraries that have them: the system's, or those that a wheel brings along."""
_EXTRA_S = 15.0
_READ_S = 30.0
_UPROBES = "/sys/bus/event_source/devices/uprobe"
_NOP5 = b"\x0f\x1f\x44\x00\x00"
_PLAIN = re.compile(r"[\w./+@-]+")
_OPEN = re.compile(r"@begun\[(\d+), (\d+), (\d+)\]: (\d+)$")
_CALL = re.compile(r"@calls\[(\d+), (\d+), (\d+), (\d+)\]: (\d+)$")


@dataclass(frozen=True)
class Probe:
    """A function in a library that the process maps.

    Attributes:
        path: by which we open the library.
        library: its file name, safe to print.
        file: device and inode: several processes may use the same.
    """

    function: str
    path: str
    library: str
    file: tuple[int, int]


class _NoProbes(Exception):
    """Why nothing can be probed: half a sentence."""


def find_probes(pid: int, proc: str = "/proc") -> tuple[list[Probe], list[str]]:
    """What can be probed in a process, and why the rest cannot.

    Raises:
        AttachError: the process is gone, or its maps may not be read.
    """
    files = {m.path: m for m in read_maps(pid, proc) if "x" in m.perms and m.path.startswith("/")}
    probes: list[Probe] = []
    reasons: list[str] = []
    absent: list[str] = []
    for function, pattern in LIBRARIES.items():
        libraries = [mapping for path, mapping in files.items() if pattern.search(path)]
        if not libraries:
            absent.append(function)
        for mapping in libraries:
            try:
                probes.append(_probe(pid, function, mapping, proc))
            except (_NoProbes, ElfError, AttachError, OSError) as error:
                reasons.append(f"{function}: {error}")
    if absent:
        reasons.append(f"the process uses no library with {', '.join(absent)}")
    return probes, reasons


def _probe(pid: int, function: str, mapping: Mapping, proc: str) -> Probe:
    name = safe_text(os.path.basename(mapping.path), 60)
    path = openable_path(pid, mapping, proc)
    if mapping.deleted or not _PLAIN.fullmatch(path):
        raise _NoProbes(f"{name} was replaced on disk, or its path has odd characters")
    with ElfFile(path) as elf:
        at, _ = elf.symbols((function,)).get(function, (0, 0))
        head = elf.read_vaddr(at, 8) if at else None
    if not head:
        raise _NoProbes(f"{name} does not export it")
    if head.startswith(_NOP5):
        # Since Linux 6.18 such a probe may become a call that pushes into the red zone.
        raise _NoProbes(f"in {name} it begins with a 5-byte nop, where a probe may not be safe")
    found = os.stat(path)
    return Probe(function, path, name, (found.st_dev, found.st_ino))


def program(probes: Sequence[Probe], pids: Sequence[int]) -> str:
    """The bpftrace program: the calls are kept in the kernel and printed at the end."""
    parts, ours = [], "||".join(f"pid=={pid}" for pid in pids)
    for number, probe in enumerate(probes):
        where, call = f"{probe.path}:{probe.function}", f"pid, tid, {number}"
        parts.append(f"uprobe:{where} /{ours}/ {{ @begun[{call}] = nsecs; }}\n")
        parts.append(
            f"uretprobe:{where} /@begun[{call}]/ {{\n"
            f"  @calls[{call}, @begun[{call}]] = nsecs - @begun[{call}];\n"
            f"  delete(@begun[{call}]);\n}}\n"
        )
    return "".join(parts)


def parse(lines: Iterable[str], probes: Sequence[Probe], ended_ns: int) -> list[LayerEvent]:
    """Slices in order of time from what the program printed; calls still under way end at `ended_ns`."""
    made = []
    for line in lines:
        call, still = _CALL.match(line), _OPEN.match(line)
        if call is not None:
            pid, tid, number, began, took = map(int, call.groups())
        elif still is not None:
            pid, tid, number, began = map(int, still.groups())
            took = max(0, ended_ns - began)
        else:
            continue
        if number < len(probes):
            probe = probes[number]
            args: dict[str, object] = {"library": probe.library, **({"open": True} if still else {})}
            made.append(LayerEvent("uprobes", "slice", probe.function, began, took, pid, tid, args))
    return sorted(made, key=lambda event: event.t0_ns)


def why_no_uprobes(pid: int) -> str:
    """Why a process cannot be probed, with the fix; empty when nothing speaks against it."""
    missing = why_no_bpftrace()
    if missing is not None:
        return str(missing)
    if not os.path.isdir(_UPROBES):
        # Older kernels define probes in tracefs, where they would stay when bpftrace is killed.
        return "the kernel has no uprobes that end with their owner (Linux 4.17 with CONFIG_UPROBE_EVENTS)"
    try:
        if read_status(pid).shadow_stack:
            return "the process has a shadow stack, on which a probe of a return may not act"
    except AttachError as error:
        return str(error)
    return ""


class UprobesCollector(BackgroundCollector):
    """A `Collector`.

    Args:
        pids: the captured processes.
        max_s: longest time of the window.
    """

    name = "uprobes"

    def __init__(self, pids: Sequence[int], max_s: float) -> None:
        super().__init__()
        self._pids, self._max_s = list(pids), max_s
        self._probes: list[Probe] = []
        self._reasons: list[str] = []
        self._failed = ""
        self._notes: list[str] = []
        self._leash: Leash | None = None
        self._cpu_s = 0.0
        self._stopped_ns = 0
        self._made: list[LayerEvent] | None = None

    def before(self) -> Layer:
        """As `Collector.before`."""
        try:
            probes, reasons = self._look()
        except _NoProbes as error:
            return Layer(self.name, LayerState.OFF, str(error))
        state = LayerState.PARTIAL if reasons else LayerState.ON
        return Layer(self.name, state, "; ".join([_told(probes), *reasons]))

    def stop(self) -> None:
        """As `Collector.stop`."""
        self._stopped_ns = self._stopped_ns or time.monotonic_ns()
        super().stop()
        if self._leash is not None:
            self._leash.stop()

    def events(self) -> Iterator[LayerEvent]:
        """As `Collector.events`: waits for bpftrace to end."""
        if self._made is None:
            self._join(_READ_S)
            self._made = self._read()
        yield from self._made

    def after(self) -> Layer:
        """As `Collector.after`."""
        count = None if self._made is None else len(self._made)
        if self._failed:
            return Layer(self.name, LayerState.OFF, self._failed, count)
        cost = f"cost {self._cpu_s:.2f} s of CPU"
        whole = not self._reasons and not self._notes
        reason = "; ".join([_told(self._probes), *self._reasons, *self._notes, cost])
        return Layer(self.name, LayerState.ON if whole else LayerState.PARTIAL, reason, count)

    def _look(self) -> tuple[list[Probe], list[str]]:
        probes: dict[tuple[object, ...], Probe] = {}
        reasons: dict[str, None] = {}
        for pid in self._pids:
            why_not = why_no_uprobes(pid)
            if why_not:
                raise _NoProbes(why_not)
            try:
                found, missing = find_probes(pid)
            except AttachError as error:
                raise _NoProbes(str(error)) from None
            probes |= {(probe.file, probe.function): probe for probe in found}
            reasons |= dict.fromkeys(missing)
        if not probes:
            raise _NoProbes("; ".join(reasons))
        return list(probes.values()), list(reasons)

    def _run(self) -> None:
        cpu = time.thread_time()
        try:
            self._probes, self._reasons = self._look()
            if not self._ended.is_set():
                seconds = self._max_s + _EXTRA_S
                self._leash = run_bpftrace(program(self._probes, self._pids), seconds)
        except (_NoProbes, TracingFailed, OSError) as error:
            self._failed = str(error)
        except Exception as error:  # a failure of one layer is told, and nothing else
            self._failed = f"{type(error).__name__}: {error}"
        finally:
            self._cpu_s += time.thread_time() - cpu
            self._running.set()
            if self._ended.is_set() and self._leash is not None:
                self._leash.stop()

    def _read(self) -> list[LayerEvent]:
        leash = self._leash
        if leash is None:
            self._failed = self._failed or "it was stopped before it began"
            return []
        try:
            leash.stop()
            end = leash.wait()
            self._cpu_s += end.cpu_s
            made = parse(bpftrace_lines(leash), self._probes, self._stopped_ns)
            if end.code not in (0, -2) and not made:
                self._failed = f"bpftrace ended with {end.code}: {first_line(leash.errors())}"
            if len(made) >= MAX_STORED:
                self._notes.append(f"only the first {MAX_STORED} calls")
            return made
        finally:
            leash.close()


def _told(probes: Sequence[Probe]) -> str:
    return "by bpftrace: " + ", ".join(f"{probe.function} ({probe.library})" for probe in probes)
