"""The guard of an experiment: journal before every act, and a watchdog that undoes them all.

The watchdog is a forked process in a session of its own. It makes the journal, then waits: when the injector
closes its end of a pipe, by its own will or by dying, or when the time is up, everything in the journal is
undone. There is one way of undoing, taken at every end, so it is the one that is tested.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from prismtop.anomaly.exclusive import TakenError, hold
from prismtop.anomaly.journal import Header, create, path_for, read, write
from prismtop.anomaly.undo import VARIABLE, undo_all
from prismtop.errors import UnavailableError, UsageError
from prismtop.targets.procfs import read_stat

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)
_START_S = 10.0
_ROLLBACK_S = 20.0
_TRIES = 3
_TAKEN = "taken "


@dataclass(frozen=True)
class Rollback:
    """How the undoing went.

    Attributes:
        ok: everything is undone and the journal removed.
        undone, failed: in words.
        duration_ns: time it took, in the watchdog.
    """

    ok: bool
    undone: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    duration_ns: int = 0


class Guard:
    """An open experiment. For a process with one thread: the watchdog is a fork of it.

    Args:
        header: who does what to whom.
        ttl_s: seconds after which the watchdog kills the injector and undoes everything.
        directory: of the journals.
        exclusive: what no other experiment may change meanwhile; the target is always among it.

    Raises:
        UsageError: the target, or something exclusive, has an experiment already, running or crashed.
        UnavailableError: the journal cannot be written.
    """

    def __init__(self, header: Header, ttl_s: float, directory: Path, exclusive: Sequence[str] = ()) -> None:
        self.header = header
        self.path = path_for(directory, header.pid, header.start_time)
        self._children: list[int] = []
        life, self._life = os.pipe()
        self._said, said = os.pipe()
        deadline = time.monotonic() + ttl_s
        self._watchdog = os.fork()
        if self._watchdog == 0:
            names = (f"process {header.pid} {header.start_time}", *exclusive)
            _watch(header, self.path, life, said, deadline, names)
        os.close(life)
        os.close(said)
        self._watchdog_fd = os.pidfd_open(self._watchdog)
        answer = self._answer(_START_S)
        if answer != "ready":
            self._end()
            raise _refusal(answer, header, self.path)
        self._journal = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def record(self, kind: str, **fields: object) -> None:
        """Put on disk what is about to be done. Comes back when it may be done."""
        self.check()
        write(self._journal, json.dumps({"kind": kind, "experiment": self.header.experiment, **fields}))

    def arm(self, ttl_s: float) -> None:
        """Have the watchdog wait so many seconds from now on, instead of what it was told before."""
        self.check()
        os.write(self._life, f"{time.monotonic() + ttl_s}\n".encode())

    def check(self) -> None:
        """Raise UnavailableError when the watchdog is gone: nothing may be done then."""
        if not self.guarded:
            raise UnavailableError("the watchdog of this experiment ended.", fix="`prismtop anomaly recover`")

    @property
    def watchdog(self) -> int:
        """Its pid. It ends with the experiment."""
        return self._watchdog

    @property
    def guarded(self) -> bool:
        """Whether the watchdog lives."""
        return not select.select([self._watchdog_fd], [], [], 0)[0]

    def spawn(
        self,
        program: Sequence[str] | Callable[[], int],
        *,
        env: Mapping[str, str] | None = None,
        nice: int = 0,
        cpus: Sequence[int] = (),
    ) -> int:
        """Start a program, or a function in a fork, in a session of its own that dies with this process.

        Returns its pid. The child waits until its group is in the journal, and ends unborn when this
        process ends first.
        """
        self.check()
        variables = {**(os.environ if env is None else env), VARIABLE: self.header.experiment}
        gate, opener = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(opener)
                os.close(self._life)
                _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
                if os.getppid() == parent:
                    os.setsid()
                    _first_to_go()
                    _silence()
                    _in_place(nice, cpus)
                    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                        signal.signal(number, signal.SIG_DFL)
                    if os.read(gate, 1) == b"g":
                        if callable(program):
                            os._exit(program())
                        os.execve(program[0], list(program), variables)
            finally:
                os._exit(127)
        os.close(gate)
        try:
            self._children.append(pid)
            stat = read_stat(pid)
            if stat is None:
                raise UnavailableError("a process could not be started.")
            self.record("processes", pgid=pid, start=stat.start_time)
            os.write(opener, b"g")
        finally:
            os.close(opener)
        return pid

    def ended(self, pid: int) -> int | None:
        """Exit status of a program that was started here; None while it runs."""
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            return None
        self._children.remove(pid)
        return os.waitstatus_to_exitcode(status)

    def close(self) -> Rollback:
        """Have everything undone, and wait for it."""
        started = time.monotonic_ns()
        os.close(self._life)
        self._life = -1
        text = self._answer(_ROLLBACK_S)
        self._end()
        try:
            said = json.loads(text)
            made = Rollback(said["ok"], tuple(said["undone"]), tuple(said["failed"]), said["ns"])
        except (ValueError, KeyError, TypeError):
            # The watchdog was killed: this process is the second line.
            made = _undo_journal(self.path, started)
        for pid in self._children:
            try:
                os.waitpid(pid, 0 if made.ok else os.WNOHANG)
            except ChildProcessError:
                pass
        self._children.clear()
        return made

    def _answer(self, timeout_s: float) -> str:
        """One line of the watchdog; empty when it ended or took too long."""
        text = b""
        end = time.monotonic() + timeout_s
        while not text.endswith(b"\n"):
            if not select.select([self._said], [], [], max(0.0, end - time.monotonic()))[0]:
                break
            got = os.read(self._said, 65536)
            if not got:
                break
            text += got
        return text.decode("utf-8", "replace").strip()

    def _end(self) -> None:
        for fd in (self._life, self._said, getattr(self, "_journal", -1)):
            if fd >= 0:
                os.close(fd)
        self._life = self._said = self._journal = -1
        try:
            os.waitpid(self._watchdog, 0)
        except ChildProcessError:
            pass
        os.close(self._watchdog_fd)


def _refusal(answer: str, header: Header, path: Path) -> Exception:
    there = read(path)
    if answer.startswith(_TAKEN) and (there is None or not there.running):
        return UsageError(
            f"another experiment on this machine is at work on {answer.removeprefix(_TAKEN)}.",
            fix="`prismtop anomaly stop`, by the user who runs it, ends it.",
        )
    if answer != "exists" and not answer.startswith(_TAKEN):
        return UnavailableError(
            f"the journal of this experiment cannot be written: {answer or 'the watchdog did not start'}.",
            fix=f"Make {path.parent} a directory that you can write to.",
        )
    if there is not None and there.running:
        return UsageError(
            f"an experiment already runs on process {header.pid}.", fix="`prismtop anomaly stop` ends it."
        )
    return UsageError(
        f"an experiment on process {header.pid} has crashed and was not undone.",
        fix="`prismtop anomaly recover` undoes it.",
    )


def _undo_journal(path: Path, started_ns: int) -> Rollback:
    """Undo what a journal holds, and remove it when all is undone."""
    undone: list[str] = []
    failed: list[str] = []
    for attempt in range(_TRIES):
        there = read(path)
        if there is None:
            break
        undone, failed = undo_all(there.acts)
        if not failed:
            path.unlink(missing_ok=True)
            break
        time.sleep(0.05 * (attempt + 1))
    return Rollback(not failed, tuple(undone), tuple(failed), time.monotonic_ns() - started_ns)


def _watch(
    header: Header, path: Path, life: int, said: int, deadline: float, exclusive: Sequence[str]
) -> NoReturn:
    """The watchdog's life. Never returns into the injector's code."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        _libc.prctl(_PR_SET_NAME, b"prismtop-guard", 0, 0, 0)
        _hard_to_starve()
        _silence()
        _close_others(life, said)
        injector = os.pidfd_open(header.injector)
        try:
            _held = hold(exclusive)  # until this process has undone everything and ends
            create(path, header)
        except TakenError as error:
            _tell(said, f"{_TAKEN}{error}")
            os._exit(1)
        except FileExistsError:
            _tell(said, "exists")
            os._exit(1)
        except OSError as error:
            _tell(said, str(error.strerror or error))
            os._exit(1)
        _tell(said, "ready")
        if not _ends_in_time(life, deadline):
            try:
                signal.pidfd_send_signal(injector, signal.SIGKILL)
            except ProcessLookupError:
                pass
        made = _undo_journal(path, time.monotonic_ns())
        told = {"ok": made.ok, "undone": made.undone, "failed": made.failed, "ns": made.duration_ns}
        _tell(said, json.dumps(told))
    finally:
        os._exit(0)


def _ends_in_time(life: int, deadline: float) -> bool:
    """Wait until the injector closes its end; False when its time, which it may set anew, is up."""
    while select.select([life], [], [], max(0.0, deadline - time.monotonic()))[0]:
        told = os.read(life, 4096)
        if not told:
            return True
        deadline = float(told.split()[-1])
    return False


def _tell(said: int, text: str) -> None:
    """A line to the injector, which may be dead: that must not keep anything from being undone."""
    try:
        os.write(said, text.encode() + b"\n")
    except OSError:
        pass


def _hard_to_starve() -> None:
    for act in (
        lambda: os.setpriority(os.PRIO_PROCESS, 0, -15),
        lambda: Path("/proc/self/oom_score_adj").write_text("-900", encoding="ascii"),
        lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)),
    ):
        try:
            act()
        except OSError:  # not root: then it competes like any other
            pass


def _first_to_go() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        pass


def _in_place(nice: int, cpus: Sequence[int]) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)
    if nice:
        os.nice(nice)


def _silence() -> None:
    """Streams to nowhere: nobody must wait for the end of a pipe that a helper holds."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def _close_others(*kept: int) -> None:
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, max(4096, first + 1))
