"""Ways to have the kernel tell every switch of the traced threads: perf, else bpftrace."""

from __future__ import annotations

import os
import re
import select
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from prismtop.counters.files import read_text
from prismtop.deepdive.layers.leash import Leash
from prismtop.deepdive.layers.switches import BPFTRACE, Switch, Wakeup, parse_bpftrace, parse_perf
from prismtop.deepdive.layers.tracing import perf_version, tracefs_mounted
from prismtop.safe_text import safe_text

START_S = 15.0
"""Longer than this no tool may take to begin."""
_POLL_S = 0.01
_MAX_DATA = "24M"
MAX_STORED = 65536
EVERY_THREAD_BELOW = 10_000
"""Switches a second of the whole host up to which all of them are recorded, about 2 us each: only then can be
told who had the core while a thread waited. Above, those of the traced threads only.
"""
_RATE_S = 0.05
_HARMLESS = "RLIMIT_MEMLOCK"
"""bpftrace complains about it, and goes on."""
_SCRIPT_S = 60.0

GiveUp = Callable[[], bool]
"""Called several times a second while a tool begins: True when nobody needs it any more."""


class TracingFailed(Exception):
    """Why a tool does not trace: half a sentence."""


def _never() -> bool:
    return False


class Tracing(Protocol):
    """A tool that traces switches, running.

    Attributes:
        how: in words, for a layer's reason.
        every_thread: it records the switches of all threads of the host.
        cut: what came after the last record is not known: it ended before it was asked to, or had no room;
            known once `read` has returned.
    """

    how: str
    every_thread: bool
    cut: bool

    def stop(self) -> None:
        """End it; does not wait."""

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        """Records in order of time, what is wrong with them in words, and CPU seconds of the tool.

        Waits for the tool's end. Raises TracingFailed.
        """

    def close(self) -> None:
        """Let go of everything, whatever the state. Idempotent."""


class PerfTracing:
    """`perf record` of both events on all cores; filtered in the kernel to the threads on a busy host.

    Args:
        tids: the threads.
        seconds: it ends by itself then.
        give_up: whether to wait no longer for its beginning.

    Raises:
        TracingFailed: it does not begin.
    """

    def __init__(self, tids: Sequence[int], seconds: float, give_up: GiveUp = _never) -> None:
        perf = shutil.which("perf") or "perf"
        version = perf_version(perf) or (0, 0)
        self.how = f"perf {version[0]}.{version[1]}"
        self.every_thread = switch_rate() < EVERY_THREAD_BELOW
        self.cut = False
        switches = [] if self.every_thread else ["--filter", _any(("prev_pid", "next_pid"), tids)]
        commands, ask = os.pipe()
        answers, answer = os.pipe()
        # perf ends when nobody holds the other end of its commands.
        self._held = [ask, answers]
        command = [
            perf, "record", "-a", "-k", "CLOCK_MONOTONIC", "-m", "128", "-B", "-N", "-q",
            *(["--synth=no"] if version >= (5, 15) else []),
            f"--max-size={_MAX_DATA}", f"--control=fd:{commands},{answer}", "-o", "{data}",
            "-e", "sched:sched_switch", *switches,
            "-e", "sched:sched_wakeup", "--filter", _any(("pid",), tids),
        ]  # fmt: skip
        try:
            self._leash = Leash(
                command,
                seconds=seconds,
                pass_fds=(commands, answer),
                tracefs=not tracefs_mounted(),
                env={"PERF_CONFIG": os.devnull},
            )
        except OSError as error:
            self._let_go()
            raise TracingFailed(f"perf cannot be run ({error.strerror})") from None
        finally:
            os.close(commands)
            os.close(answer)
        try:
            # It answers once it reads events: from then on none is missed.
            os.write(ask, b"enable\n")
            _until(self._leash, "perf", lambda: bool(select.select([answers], [], [], _POLL_S)[0]), give_up)
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End it; does not wait."""
        self.cut = not self._leash.alive
        self._leash.stop()

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        """As `Tracing.read`."""
        end = self._leash.wait()
        if end.code not in (0, -2):
            raise TracingFailed(f"perf ended with {end.code}: {first_line(self._leash.errors())}")
        command = [
            shutil.which("perf") or "perf", "script", "--ns", "--show-lost-events",
            "-F", "comm,tid,cpu,time,event,trace", "-i", f"/proc/self/fd/{self._leash.data_fd}",
        ]  # fmt: skip
        try:
            script = Leash(
                command, seconds=_SCRIPT_S, pass_fds=(self._leash.data_fd,), env={"PERF_CONFIG": os.devnull}
            )
        except OSError as error:
            raise TracingFailed(f"perf script cannot be run ({error.strerror})") from None
        try:
            told = script.wait(_SCRIPT_S)
            if told.code:
                raise TracingFailed(f"perf script ended with {told.code}: {first_line(script.errors())}")
            lines = script.output().split("\n")
        finally:
            script.close()
        lost = [line for line in lines if "PERF_RECORD_LOST" in line]
        records, odd = parse_perf(line for line in lines if "PERF_RECORD_" not in line)
        wrong = [f"perf lost events {len(lost)} times"] if lost else []
        if odd:
            wrong.append(f"{odd} lines of perf could not be read")
        return records, wrong, end.cpu_s + told.cpu_s

    def close(self) -> None:
        """Let go of everything."""
        self._leash.close()
        self._let_go()

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())


class BpftraceTracing:
    """The same by bpftrace, of the traced threads only.

    Args:
        tids: the threads.
        seconds: it ends by itself then.
        give_up: whether to wait no longer for its beginning.

    Raises:
        TracingFailed: it does not begin.
    """

    how = "bpftrace"
    every_thread = False

    def __init__(self, tids: Sequence[int], seconds: float, give_up: GiveUp = _never) -> None:
        self.cut = False
        switched = _any(("$left", "$came"), tids)
        program = BPFTRACE.format(switched=switched, woken=_any(("$woken",), tids))
        try:
            self._leash = run_bpftrace(program, seconds, give_up)
        except OSError as error:
            raise TracingFailed(f"bpftrace cannot be run ({error.strerror})") from None

    def stop(self) -> None:
        """End it; does not wait."""
        self.cut = not self._leash.alive
        self._leash.stop()

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        """As `Tracing.read`."""
        end = self._leash.wait()
        lines = bpftrace_lines(self._leash)
        records, odd = parse_bpftrace(lines)
        errors = self._leash.errors()
        if end.code not in (0, -2) and not records:
            raise TracingFailed(f"bpftrace ended with {end.code}: {first_line(errors)}")
        wrong = []
        full = [
            max(record.at_ns for record in kind)
            for kind in (
                [record for record in records if isinstance(record, Switch)],
                [record for record in records if isinstance(record, Wakeup)],
            )
            if len(kind) >= MAX_STORED
        ]
        if full:  # whatever came later is known in part only
            self.cut = True
            records = [record for record in records if record.at_ns <= min(full)]
            wrong.append(f"only the first {MAX_STORED} events")
        if odd:
            wrong.append(f"{odd} lines of bpftrace could not be read")
        return records, wrong, end.cpu_s

    def close(self) -> None:
        """Let go of everything."""
        self._leash.close()


def run_bpftrace(program: str, seconds: float, give_up: GiveUp = _never) -> Leash:
    """bpftrace with its probes attached.

    Args:
        program: without what tells that they are.
        seconds: it ends by itself then.
        give_up: whether to wait no longer for its beginning.

    Raises:
        TracingFailed: it does not begin.
        OSError: it cannot be run.
    """
    # Printed by a timer: BEGIN runs before the other probes are attached.
    ready = 'interval:ms:50 /@ready == 0/ { printf("ready\\n"); @ready = 1; }'
    leash = Leash(
        [shutil.which("bpftrace") or "bpftrace", "-q", "-B", "line", "-e", program + ready],
        seconds=seconds,
        tracefs=not tracefs_mounted(),
        env={
            "BPFTRACE_STRLEN": "16",
            "BPFTRACE_MAP_KEYS_MAX": str(MAX_STORED),
            "BPFTRACE_MAX_MAP_KEYS": str(MAX_STORED),  # its name since 0.21
        },
    )

    def begun() -> bool:
        time.sleep(_POLL_S)
        return leash.size() > 0 and "ready" in leash.output()

    try:
        _until(leash, "bpftrace", begun, give_up)
    except BaseException:
        leash.close()
        raise
    return leash


def bpftrace_lines(leash: Leash) -> list[str]:
    """What a bpftrace that has ended printed, without what `run_bpftrace` added."""
    return [line for line in leash.output().split("\n") if line not in ("ready", "@ready: 1")]


def switch_rate() -> float:
    """Context switches a second of the whole host, over a short while."""
    before, began = _switches(), time.monotonic()
    time.sleep(_RATE_S)
    return (_switches() - before) / (time.monotonic() - began)


def _switches() -> int:
    found = re.search(r"^ctxt (\d+)", read_text("/proc/stat") or "", re.M)
    return int(found[1]) if found else 0


def _any(fields: Sequence[str], tids: Sequence[int]) -> str:
    return "||".join(f"{field}=={tid}" for field in fields for tid in tids)


def _until(leash: Leash, name: str, ready: Callable[[], bool], give_up: GiveUp) -> None:
    end = time.monotonic() + START_S
    while not ready():
        if give_up():
            raise TracingFailed(f"the window was over before {name} had begun")
        if not leash.alive:
            code = leash.wait().code
            raise TracingFailed(f"{name} ended with {code}: {first_line(leash.errors())}")
        if time.monotonic() > end:
            raise TracingFailed(f"{name} did not begin within {START_S:.0f} s")


def first_line(text: str) -> str:
    """The line of a tool's errors that says why, safe to print."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and _HARMLESS not in line]
    lines = lines or ["it gives no reason"]
    told = next((line for line in lines if "rror" in line or "ermi" in line), lines[0])
    return safe_text(told, 160)
