"""Stack samples of a process from outside, by nonblocking py-spy, which neither enters nor stops it.

A nonblocking sampler reads the stack while it changes: a single sample may be wrong, shares of many are not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prismtop.safe_text import safe_text

RATE_HZ = 20
"""More would cost the target time (attach.md section 2), and py-spy a good part of a core."""
RUN_S = 2
WINDOW_RUNS = 5
_RETRY_S = 5.0
_START_S = 8.0
_FRAME = re.compile(r"(.*?) \((.*?)(?::(\d+))?\)$")
THREAD = re.compile(r"thread \((0x[0-9A-Fa-f]+|\d+)\)")
"""The thread at the root of a stack: its native id, or its ident in hexadecimal (CPython 3.10 and older)."""


@dataclass(frozen=True)
class StackFrame:
    """One Python frame.

    Attributes:
        name: qualified name on CPython 3.11 and newer, else the bare name.
        file: `co_filename` of its code, as in the target. NOT safe to print.
        line: current line; 0 when unknown.
    """

    name: str
    file: str
    line: int

    @property
    def function(self) -> tuple[str, str]:
        """File and name: the same for every line of a function."""
        return self.file, self.name


@dataclass(frozen=True)
class Stack:
    """`count` samples of one thread with the same frames.

    Attributes:
        thread: native thread id, or the interpreter's thread ident in hexadecimal (CPython 3.10 and older).
        frames: outermost first.
    """

    thread: str
    frames: tuple[StackFrame, ...]
    count: int


class NoSamples(Exception):
    """Why there are no samples: half a sentence."""


def find_py_spy() -> str | None:
    """The py-spy beside this interpreter, or the one on PATH."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def command(py_spy: str, pid: int, output: str, seconds: int) -> list[str]:
    """py-spy's command line. `--idle` too: a thread that waits for its device is in a stage as well."""
    return [
        py_spy, "record", "--nonblocking", "--idle", "--threads", "--full-filenames", "--format", "raw",
        "--rate", str(RATE_HZ), "--duration", str(seconds), "--output", output, "--pid", str(pid),
    ]  # fmt: skip


class Recording:
    """One run of py-spy; `result` waits for it, `stop` ends it early."""

    def __init__(self, pid: int, *, seconds: int = RUN_S, py_spy: str | None = None) -> None:
        binary = py_spy or find_py_spy()
        if binary is None:
            raise NoSamples("py-spy is not installed beside prismtop (`pip install py-spy`)")
        self._pid, self._seconds = pid, seconds
        self._fd = os.memfd_create("py-spy-stacks")
        try:
            self._process = subprocess.Popen(
                command(binary, pid, f"/dev/fd/{self._fd}", seconds),
                pass_fds=[self._fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._fd)
            raise NoSamples(f"py-spy cannot be run ({error.strerror})") from None

    def result(self) -> tuple[Stack, ...]:
        """The samples.

        Raises:
            NoSamples: py-spy failed, hung, or was stopped.
        """
        try:
            _, errors = self._process.communicate(timeout=self._seconds + _START_S)
            text = Path(f"/proc/self/fd/{self._fd}").read_text("utf-8", "replace")
        except subprocess.TimeoutExpired:
            self.stop()
            self._process.communicate()
            raise NoSamples("py-spy did not answer") from None
        finally:
            os.close(self._fd)
        if self._process.returncode:
            raise NoSamples(explain_py_spy(errors.decode("utf-8", "replace"), self._pid))
        return parse(text)

    def stop(self) -> None:
        """End it now."""
        self._process.kill()


def record(pid: int, *, seconds: int = RUN_S, py_spy: str | None = None) -> tuple[Stack, ...]:
    """Samples of `seconds` seconds, in this thread. Raises NoSamples."""
    return Recording(pid, seconds=seconds, py_spy=py_spy).result()


def parse(text: str) -> tuple[Stack, ...]:
    """Read py-spy's raw format: `thread (ID): NAME;FUNCTION (FILE:LINE);... COUNT`."""
    stacks = []
    for line in text.splitlines():
        head, _, count = line.rpartition(" ")
        parts = head.split(";")
        thread = THREAD.match(parts[0])
        if thread is None or not count.isdecimal():
            continue
        frames = tuple(frame for frame in map(_frame, parts[1:]) if frame is not None)
        if frames:
            stacks.append(Stack(thread[1], frames, int(count)))
    return tuple(stacks)


def _frame(text: str) -> StackFrame | None:
    match = _FRAME.match(text)
    return StackFrame(match[1], match[2], int(match[3] or 0)) if match else None


def explain_py_spy(errors: str, pid: int) -> str:
    """Why py-spy failed, from what it wrote: half a sentence."""
    if "ermission" in errors or "not permitted" in errors:
        return f"py-spy may not read process {pid} (permission denied)"
    lines = [line for line in errors.splitlines() if line.strip()] or ["no reason given"]
    first = next((line for line in lines if line.startswith("Error: ")), lines[0])
    return f"py-spy says: {safe_text(first.removeprefix('Error: ').rstrip('. '), 120)}"


class StackSampler:
    """Samples one process in the background, in runs of `RUN_S` seconds back to back; `window` never waits.

    After a run that failed the next one waits `_RETRY_S`.

    Attributes:
        reason: why there are no samples now; empty when there are.
    """

    def __init__(self, pid: int, *, py_spy: str | None = None) -> None:
        self.pid = pid
        self.reason = "no samples yet"
        self._py_spy = py_spy
        self._runs: deque[tuple[Stack, ...]] = deque(maxlen=WINDOW_RUNS)
        self._recording: Recording | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="prismtop-stacks", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def window(self) -> tuple[Stack, ...]:
        """The samples of the last `WINDOW_RUNS` runs; empty with `reason` set when there are none."""
        return tuple(stack for run in tuple(self._runs) for stack in run)

    def close(self) -> None:
        """End the running py-spy and the thread."""
        self._stop.set()
        with self._lock:
            if self._recording is not None:
                self._recording.stop()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                with self._lock:
                    if self._stop.is_set():
                        return
                    self._recording = Recording(self.pid, py_spy=self._py_spy)
                run = self._recording.result()
            except NoSamples as error:
                self._runs.clear()
                self.reason = str(error)
                self._stop.wait(_RETRY_S)
                continue
            if run:
                self._runs.append(run)
                self.reason = ""
            else:
                self.reason = f"process {self.pid} ran no Python code while it was sampled"
            self._stop.wait(max(0.0, 0.5 - (time.monotonic() - started)))


def samplings(stacks: Iterable[Stack]) -> int:
    """How often the process was sampled: the samples of the thread that was there most often."""
    counts: dict[str, int] = {}
    for stack in stacks:
        counts[stack.thread] = counts.get(stack.thread, 0) + stack.count
    return max(counts.values(), default=0)


def cpu_ticks(path: str) -> int | None:
    """User and system time in clock ticks from a `stat` file of a process or thread; None when it is gone."""
    try:
        with open(path, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return None


def thread_cpu(pid: int) -> Mapping[str, int]:
    """CPU time in ns per native thread id."""
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return {}
    found = {name: cpu_ticks(f"/proc/{pid}/task/{name}/stat") for name in names}
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return {name: ticks * tick_ns for name, ticks in found.items() if ticks is not None}
