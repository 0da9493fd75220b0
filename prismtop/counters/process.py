"""The target processes and their hot threads (proc(5)).

Reading 61 threads takes 2 ms, so only hot ones (the main thread, and those that use the most CPU) are read in
every round; the others take turns, so that each is read once in two slow periods.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prismtop.counters.files import KeptFile, expand_list, read_bytes
from prismtop.counters.sheet import Sheet
from prismtop.model import ProcessId
from prismtop.safe_text import safe_text

HOT_THREADS = 5
HOT_ABOVE = 0.005
"""A thread that uses less of a core than this is not hot."""
MAX_THREADS = 4096
KEPT_OPEN = 256
"""Descriptors for threads that are not hot: read so, a thread costs half."""
_TURN = 2
"""Slow periods in which each of the other threads is read once."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SHORT_NS = 500_000_000
"""CPU of a process comes in clock ticks: over less than this it would be no number."""
_MAIN = ("process_cpu_ratio", "process_rss_bytes", "process_runq_wait_ratio")
_NO_SCHEDSTAT = "the kernel has no schedstat (CONFIG_SCHED_INFO)"


@dataclass
class _Thread:
    """What is known of a thread: rates between its last two readings."""

    tid: int
    at_ns: int = 0
    ran_ns: int = 0
    waited_ns: int = 0
    slices: int = 0
    cpu: float = 0.0
    waiting: float = 0.0
    delay_s: float | None = None
    readings: int = 0
    files: tuple[KeptFile, KeptFile, KeptFile] | None = None
    kept: KeptFile | None = None
    device: str = ""
    core: int | None = None

    def take(self, data: bytes, now_ns: int) -> None:
        """Content of its `schedstat`: ns run, ns waited for a core, times it was given one."""
        ran, waited, slices = map(int, data.split()[:3])
        if self.readings and now_ns > self.at_ns:
            elapsed = now_ns - self.at_ns
            self.cpu = (ran - self.ran_ns) / elapsed
            self.waiting = (waited - self.waited_ns) / elapsed
            given = slices - self.slices
            self.delay_s = (waited - self.waited_ns) / given / 1e9 if given > 0 else None
        self.at_ns, self.ran_ns, self.waited_ns, self.slices = now_ns, ran, waited, slices
        self.readings += 1

    def close(self) -> None:
        for file in self.files or ():
            file.close()
        self.files = None
        if self.kept is not None:
            self.kept.close()
            self.kept = None


@dataclass
class _Process:
    id: ProcessId
    where: str
    stat: KeptFile
    device: str
    threads: dict[int, _Thread] = field(default_factory=dict)
    hot: list[_Thread] = field(default_factory=list)
    turns: deque[int] = field(default_factory=deque)
    schedstat: bool = True
    rounds: int = 0
    cpu_ns: int = -_SHORT_NS
    checked: bool = False
    ended: bool = False


class ProcessReader:
    """Counters of `process` and `process.threads`.

    Args:
        targets: processes by identity: one whose pid was given to another process counts as ended.
        proc: mount point.
        nodes: NUMA node of every core.
    """

    name = "processes"

    def __init__(
        self, targets: Sequence[ProcessId], proc: str = "/proc", nodes: Mapping[int, int] | None = None
    ) -> None:
        self._nodes = nodes or {}
        self._kept_open = 0
        self._processes = [
            _Process(
                target, f"{proc}/{target.pid}", KeptFile(f"{proc}/{target.pid}/stat"), f"pid {target.pid}"
            )
            for target in targets
        ]

    def cores_in_use(self) -> set[int]:
        """Cores on which hot threads ran last."""
        return {
            thread.core
            for process in self._processes
            for thread in process.hot
            if thread.core is not None and not process.ended
        }

    def hottest(self) -> tuple[int, int] | None:
        """(pid, tid) of the thread that used the most CPU lately; None before it is known."""
        running = [process for process in self._processes if not process.ended]
        hot = [(thread.cpu, process.id.pid, thread.tid) for process in running for thread in process.hot]
        return max(hot)[1:] if hot else None

    def read(self, sheet: Sheet, *, slow: bool) -> None:
        """One round."""
        for process in self._processes:
            if process.ended:
                continue
            try:
                self._process(sheet, process, slow)
            except (FileNotFoundError, ProcessLookupError):
                self._end(sheet, process)
            except OSError as error:
                for name in _MAIN:
                    sheet.gap(name, process.device, f"{process.where}: {error.strerror}")

    def close(self) -> None:
        """Close all files."""
        for process in self._processes:
            self._let_go(process)

    def _close(self, thread: _Thread) -> None:
        self._kept_open -= thread.kept is not None
        thread.close()

    def _let_go(self, process: _Process) -> None:
        process.stat.close()
        for thread in process.threads.values():
            self._close(thread)
        process.threads.clear()
        process.hot.clear()

    def _end(self, sheet: Sheet, process: _Process) -> None:
        process.ended = True
        for thread in process.hot:
            sheet.forget(thread.device)
        self._let_go(process)
        sheet.forget(process.device)
        for name in _MAIN:
            sheet.gap(name, process.device, "the process has ended")

    def _process(self, sheet: Sheet, process: _Process, slow: bool) -> None:
        stat = process.stat.read().rpartition(b")")[2].split()
        if not process.checked:
            if int(stat[19]) != process.id.start_time:
                raise ProcessLookupError(process.id.pid)
            process.checked = True
        if stat[0] in (b"Z", b"X"):
            raise ProcessLookupError(process.id.pid)
        device, rate, value = process.device, sheet.rate, sheet.value
        self._cpu(sheet, process, (int(stat[11]) + int(stat[12])) * _TICK_S)
        rate("process_minor_faults_per_s", device, int(stat[7]))
        rate("process_major_faults_per_s", device, int(stat[9]))
        value("process_threads_count", device, int(stat[17]))
        value("process_stopped_ratio", device, float(stat[0] in (b"T", b"t")))
        value("process_rss_bytes", device, int(stat[21]) * _PAGE)
        self._threads(sheet, process, slow)
        if slow:
            self._seldom(sheet, process)
        process.rounds += 1

    def _cpu(self, sheet: Sheet, process: _Process, seconds: float) -> None:
        """Not in every round of fast ones: over those rounds together for which ticks are a number."""
        if 0 <= sheet.now_ns - process.cpu_ns < _SHORT_NS * 9 // 10:  # a round may be a little early
            return
        process.cpu_ns = sheet.now_ns
        grown = sheet.delta("process_cpu_ratio", process.device, seconds)
        if grown is not None:
            period_ns = max(sheet.period_ns, _SHORT_NS)
            sheet.value("process_cpu_ratio", process.device, grown[0] / grown[1], period_ns=period_ns)

    def _threads(self, sheet: Sheet, process: _Process, slow: bool) -> None:
        if slow or not process.threads:
            self._list_threads(sheet, process)
        # Two rounds over all threads first: they tell which ones are hot.
        everyone = process.rounds < 2
        if slow or process.rounds == 2:
            self._choose_hot(sheet, process)
        voluntary, involuntary = 0.0, 0.0
        counted = False
        for thread in list(process.hot):
            switches = self._hot(sheet, process, thread)
            if switches is not None:
                counted = True
                voluntary += switches[0]
                involuntary += switches[1]
        rounds = max(1, _TURN * sheet.slow_ns // max(1, sheet.period_ns))
        share = len(process.turns) if everyone else -(-len(process.turns) // rounds)
        for _ in range(share):
            if not process.turns:
                break
            tid = process.turns.popleft()
            thread = process.threads[tid]
            if thread.files is None and not self._cold(sheet, process, thread):
                continue
            process.turns.append(tid)
        if not process.schedstat:
            sheet.gap("process_runq_wait_ratio", process.device, _NO_SCHEDSTAT)
        elif process.rounds:
            waiting = sum([thread.waiting for thread in process.threads.values()])
            sheet.value("process_runq_wait_ratio", process.device, waiting)
        if counted:
            sheet.value("process_voluntary_switches_per_s", process.device, voluntary)
            sheet.value("process_involuntary_switches_per_s", process.device, involuntary)

    def _list_threads(self, sheet: Sheet, process: _Process) -> None:
        tids = {int(name) for name in os.listdir(f"{process.where}/task")[:MAX_THREADS]}
        for tid in process.threads.keys() - tids:
            self._drop(sheet, process, process.threads[tid])
        for tid in sorted(tids - process.threads.keys()):
            process.threads[tid] = _Thread(tid)
            process.turns.append(tid)
        if not process.hot and process.id.pid in process.threads:
            self._heat(process, process.threads[process.id.pid])

    def _choose_hot(self, sheet: Sheet, process: _Process) -> None:
        """The main thread, and those that used the most CPU lately; hot ones stay so when in doubt."""
        busy = [thread for thread in process.threads.values() if thread.cpu >= HOT_ABOVE]
        busy.sort(key=lambda thread: thread.cpu * (1.5 if thread.files else 1.0), reverse=True)
        main = process.threads.get(process.id.pid)
        wanted = ([main] if main else []) + [thread for thread in busy if thread is not main]
        wanted = wanted[:HOT_THREADS]
        for thread in process.hot:
            if thread not in wanted:
                self._close(thread)
                sheet.forget(thread.device)
        for thread in wanted:
            if thread.files is None:
                self._heat(process, thread)
        process.hot = wanted

    def _heat(self, process: _Process, thread: _Thread) -> None:
        self._close(thread)
        where = f"{process.where}/task/{thread.tid}"
        comm = safe_text((read_bytes(f"{where}/comm") or b"?").decode("utf-8", "replace").rstrip("\n"), 16)
        thread.device = f"{process.device} tid {thread.tid} {comm}"
        thread.files = (
            KeptFile(f"{where}/schedstat"),
            KeptFile(f"{where}/stat"),
            KeptFile(f"{where}/status"),
        )
        if thread not in process.hot:
            process.hot.append(thread)

    def _cold(self, sheet: Sheet, process: _Process, thread: _Thread) -> bool:
        """Read a thread whose turn it is; False when it is gone."""
        try:
            data = self._schedstat_of(process, thread)
        except ProcessLookupError:  # its number may be another thread's by now
            self._drop(sheet, process, thread)
            return False
        if data:
            thread.take(data, sheet.now_ns)
            return True
        if os.path.exists(f"{process.where}/task/{thread.tid}"):
            process.schedstat = False
            return True
        self._drop(sheet, process, thread)
        return False

    def _schedstat_of(self, process: _Process, thread: _Thread) -> bytes | None:
        """Of a thread that is not hot; None when it cannot be read. Raises ProcessLookupError: it ended."""
        path = f"{process.where}/task/{thread.tid}/schedstat"
        if thread.kept is None:
            if self._kept_open >= KEPT_OPEN:
                return read_bytes(path)
            thread.kept = KeptFile(path)
            self._kept_open += 1
        try:
            return thread.kept.read()
        except ProcessLookupError:
            raise
        except OSError:
            return None

    def _drop(self, sheet: Sheet, process: _Process, thread: _Thread) -> None:
        self._close(thread)
        if thread in process.hot:
            process.hot.remove(thread)
            sheet.forget(thread.device)
        process.threads.pop(thread.tid, None)
        if thread.tid in process.turns:
            process.turns.remove(thread.tid)

    def _hot(self, sheet: Sheet, process: _Process, thread: _Thread) -> tuple[float, float] | None:
        """Read a hot thread; (voluntary, involuntary) switches a second when they are known."""
        assert thread.files is not None
        device = thread.device
        try:
            stat = thread.files[1].read().rpartition(b")")[2].split()
            status = thread.files[2].read()
            self._schedstat(sheet, process, thread)
        except OSError:
            self._drop(sheet, process, thread)
            return None
        sheet.rate("thread_major_faults_per_s", device, int(stat[9]))
        thread.core = int(stat[36])
        sheet.value("thread_core_id", device, thread.core)
        if thread.core in self._nodes:
            sheet.value("thread_numa_node_id", device, self._nodes[thread.core])
        tail = status[status.rfind(b"\nvoluntary_ctxt_switches:") :].split()
        if len(tail) < 4:
            return None
        voluntary = sheet.rate("thread_voluntary_switches_per_s", device, int(tail[1]))
        involuntary = sheet.rate("thread_involuntary_switches_per_s", device, int(tail[3]))
        return None if voluntary is None or involuntary is None else (voluntary, involuntary)

    def _schedstat(self, sheet: Sheet, process: _Process, thread: _Thread) -> None:
        assert thread.files is not None
        device = thread.device
        try:
            data = thread.files[0].read()
        except FileNotFoundError:
            if not os.path.exists(f"{process.where}/task/{thread.tid}"):
                raise
            process.schedstat = False
            sheet.gap("thread_runq_wait_ratio", device, _NO_SCHEDSTAT)
            return
        first = not thread.readings
        thread.take(data, sheet.now_ns)
        if first:
            return
        sheet.value("thread_cpu_ratio", device, thread.cpu)
        sheet.value("thread_runq_wait_ratio", device, thread.waiting)
        if thread.delay_s is not None:
            sheet.value("thread_runq_delay_seconds", device, thread.delay_s)

    def _seldom(self, sheet: Sheet, process: _Process) -> None:
        device = process.device
        status = read_bytes(f"{process.where}/status") or b""
        swap = _line(status, b"VmSwap")
        if swap:
            sheet.value("process_swap_bytes", device, int(swap.split()[0]) * 1024)
        for name, key in (
            ("process_cores_allowed_count", b"Cpus_allowed_list"),
            ("process_memory_nodes_allowed_count", b"Mems_allowed_list"),
        ):
            allowed = _line(status, key).decode("ascii", "replace")
            if allowed:
                sheet.value(name, device, len(expand_list(allowed)), text=safe_text(allowed, 120))
        if self._nodes:
            cores = {thread.core for thread in process.hot if thread.core is not None}
            nodes = sorted({self._nodes[core] for core in cores if core in self._nodes})
            sheet.value("process_numa_nodes_count", device, len(nodes), text=",".join(map(str, nodes)))
        else:
            sheet.gap("process_numa_nodes_count", device, "the kernel shows no NUMA nodes")
        self._io(sheet, process)

    def _io(self, sheet: Sheet, process: _Process) -> None:
        names = (
            ("process_read_bytes_per_s", b"read_bytes: "),
            ("process_write_bytes_per_s", b"write_bytes: "),
        )
        try:
            with open(f"{process.where}/io", "rb", buffering=0) as file:
                data = b"\n" + file.read()
        except OSError as error:
            for name, _ in names:
                sheet.gap(name, process.device, f"/proc/{process.id.pid}/io: {error.strerror}")
            return
        for name, key in names:
            _, found, rest = data.partition(b"\n" + key)
            if found:
                sheet.rate(name, process.device, int(rest.split(None, 1)[0]))


def _line(status: bytes, key: bytes) -> bytes:
    """What `status` says under a key; empty when it does not say it."""
    _, _, rest = status.partition(b"\n" + key + b":")
    return rest[: rest.find(b"\n")].strip()
