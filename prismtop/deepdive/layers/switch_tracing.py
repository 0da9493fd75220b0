"""Ways to have the kernel tell every switch of the traced threads: perf, else bpftrace."""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from prismtop.deepdive.layers.leash import Leash
from prismtop.deepdive.layers.switches import BPFTRACE, Switch, Wakeup, parse_bpftrace, parse_perf
from prismtop.deepdive.layers.tracing import perf_version, tracefs_mounted
from prismtop.safe_text import safe_text

START_S = 8.0
"""Longer than this no tool may take to begin."""
_POLL_S = 0.01
_MAX_DATA = "24M"
_SCRIPT_S = 60.0


class TracingFailed(Exception):
    """Why a tool does not trace: half a sentence."""


class Tracing(Protocol):
    """A tool that traces switches, running.

    Attributes:
        how: in words, for a layer's reason.
    """

    how: str

    def stop(self) -> None:
        """End it; does not wait."""

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        """Records in order of time, what is wrong with them in words, and CPU seconds of the tool.

        Waits for the tool's end. Raises TracingFailed.
        """

    def close(self) -> None:
        """Let go of everything, whatever the state. Idempotent."""


class PerfTracing:
    """`perf record` of both events on all cores, filtered in the kernel to the threads.

    Args:
        tids: the threads.
        seconds: it ends by itself then.

    Raises:
        TracingFailed: it does not begin.
    """

    def __init__(self, tids: Sequence[int], seconds: float) -> None:
        perf = shutil.which("perf") or "perf"
        version = perf_version(perf) or (0, 0)
        self.how = f"perf {version[0]}.{version[1]}"
        commands, ask = os.pipe()
        answers, answer = os.pipe()
        # perf ends when nobody holds the other end of its commands.
        self._held = [ask, answers]
        command = [
            perf, "record", "-a", "-k", "CLOCK_MONOTONIC", "-m", "128", "-B", "-N", "-q",
            *(["--synth=no"] if version >= (5, 15) else []),
            f"--max-size={_MAX_DATA}", f"--control=fd:{commands},{answer}", "-o", "{data}",
            "-e", "sched:sched_switch", "--filter", _any(("prev_pid", "next_pid"), tids),
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
            _until(self._leash, "perf", lambda: bool(select.select([answers], [], [], _POLL_S)[0]))
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End it; does not wait."""
        self._leash.stop()

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        """As `Tracing.read`."""
        end = self._leash.wait()
        if end.code not in (0, -2):
            raise TracingFailed(f"perf ended with {end.code}: {_first_line(self._leash.errors())}")
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
                raise TracingFailed(f"perf script ended with {told.code}: {_first_line(script.errors())}")
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
    """The same by bpftrace, which prints what perf stores.

    Args:
        tids: the threads.
        seconds: it ends by itself then.

    Raises:
        TracingFailed: it does not begin.
    """

    how = "bpftrace"

    def __init__(self, tids: Sequence[int], seconds: float) -> None:
        switched = _any(("args->prev_pid", "args->next_pid"), tids)
        program = 'BEGIN { printf("ready\\n"); }' + BPFTRACE.format(
            switched=switched, woken=_any(("args->pid",), tids)
        )
        try:
            self._leash = Leash(
                [shutil.which("bpftrace") or "bpftrace", "-q", "-B", "line", "-e", program],
                seconds=seconds,
                tracefs=not tracefs_mounted(),
                env={"BPFTRACE_STRLEN": "16"},
            )
        except OSError as error:
            raise TracingFailed(f"bpftrace cannot be run ({error.strerror})") from None
        try:
            _until(self._leash, "bpftrace", self._ready)
        except BaseException:
            self._leash.close()
            raise

    def _ready(self) -> bool:
        time.sleep(_POLL_S)
        return self._leash.size() > 0 and "ready" in self._leash.output()

    def stop(self) -> None:
        """End it; does not wait."""
        self._leash.stop()

    def read(self) -> tuple[list[Switch | Wakeup], list[str], float]:
        """As `Tracing.read`."""
        end = self._leash.wait()
        records, odd = parse_bpftrace(self._leash.output().split("\n"))
        errors = self._leash.errors()
        if end.code not in (0, -2) and not records:
            raise TracingFailed(f"bpftrace ended with {end.code}: {_first_line(errors)}")
        wrong = [f"bpftrace: {_first_line(errors)}"] if "Lost" in errors else []
        if odd:
            wrong.append(f"{odd} lines of bpftrace could not be read")
        return records, wrong, end.cpu_s

    def close(self) -> None:
        """Let go of everything."""
        self._leash.close()


def _any(fields: Sequence[str], tids: Sequence[int]) -> str:
    return "||".join(f"{field}=={tid}" for field in fields for tid in tids)


def _until(leash: Leash, name: str, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not ready():
        if not leash.alive:
            code = leash.wait().code
            raise TracingFailed(f"{name} ended with {code}: {_first_line(leash.errors())}")
        if time.monotonic() > end:
            raise TracingFailed(f"{name} did not begin within {START_S:.0f} s")


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it gives no reason"]
    told = next((line for line in lines if "rror" in line or "ermi" in line), lines[0])
    return safe_text(told, 160)
