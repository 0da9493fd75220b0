"""A tool of others on a leash: it ends when we end, however we end, and it ends when its time is up.

Between us and the tool stands a small process. It holds the read end of a pipe whose write end only we have:
when that closes it kills the tool. The tool itself asks the kernel to be killed when that process ends. A
plain PR_SET_PDEATHSIG would not do: it acts when the *thread* that started the child ends (prctl(2)).

Both are a process group of their own, which a Ctrl-C does not reach, in our session: a session of its own
would not have the priority that ours was raised to (`prismtop.own_priority`), and hardly begin.

What the tool writes goes to files in memory (memfd): nothing is left on a disk. Where it needs tracefs and
the host has it not mounted, it gets a mount in a mount namespace of its own, which ends with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TRACEFS = "/sys/kernel/tracing"
MAX_OUTPUT = 64 << 20
"""Bytes that the tool may write to a file; the kernel ends it when it writes more (RLIMIT_FSIZE)."""
_GRACE_S = 10.0
"""From being asked to end to being killed: on a busy host perf needs a while to finish its file."""
_AGAIN_S = 3.0
"""It is asked again after this time, should it not have heard. (One merge in 46 took ten seconds too long, as
if a tool had been waited for; it was not seen which, nor again.)
"""

_HOLDER = r"""
import ctypes, os, resource, select, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
seconds, grace, again, limit, tracefs, told = (float(word) for word in sys.argv[1:7])
command = sys.argv[7:]
wake, woken = os.pipe()
os.set_blocking(woken, False)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(woken)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.setpgid(0, 0)
holder, began = os.getpid(), time.monotonic_ns()
pid = os.fork()
if pid == 0:
    try:
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
        if os.getppid() != holder:
            os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.close(int(told))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        if tracefs:
            # CLONE_NEWNS; MS_REC | MS_PRIVATE: nothing of it is seen outside.
            if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
                raise OSError(ctypes.get_errno(), "a mount namespace of its own")
            if libc.mount(b"tracefs", b"/sys/kernel/tracing", b"tracefs", 0, None):
                raise OSError(ctypes.get_errno(), "mounting tracefs")
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, ("%s: %s\n" % (error.strerror, os.strerror(error.errno))).encode())
    finally:
        os._exit(126)
end, asked = time.monotonic() + seconds, 0.0
while True:
    done, status, used = os.wait4(pid, os.WNOHANG)
    if done:
        break
    left = end - time.monotonic()
    if left <= 0:
        now = time.monotonic()
        asked = asked or now
        late = now >= asked + grace
        os.kill(pid, signal.SIGKILL if late else signal.SIGINT)
        end = now + again if late else min(now + again, asked + grace)
        continue
    ready = select.select([0, wake], [], [], left)[0]
    if wake in ready:
        os.read(wake, 512)
    if 0 in ready:
        if not os.read(0, 512):
            os.kill(pid, signal.SIGKILL)
        elif not asked:
            os.kill(pid, signal.SIGINT)
            asked = time.monotonic()
            end = asked + min(again, grace)
own = resource.getrusage(resource.RUSAGE_SELF)
cpu = used.ru_utime + used.ru_stime + own.ru_utime + own.ru_stime
os.write(int(told), b"%d %.6f %d" % (os.waitstatus_to_exitcode(status), cpu, began))
"""


@dataclass(frozen=True)
class End:
    """How a tool ended.

    Attributes:
        code: exit status, negative for a signal; None when that is not known.
        cpu_s: CPU time of the tool and of the process that holds it.
        began_ns: when the tool began, CLOCK_MONOTONIC; 0 when that is not known.
    """

    code: int | None
    cpu_s: float
    began_ns: int = 0


class Leash:
    """A running tool.

    Args:
        command: its program and arguments; `{data}` is replaced by the path of an empty file in memory.
        seconds: it is asked to end (SIGINT) after this time at the latest, and killed some seconds later.
        pass_fds: file descriptors that it needs.
        tracefs: mount one for it, in a mount namespace of its own. Needs CAP_SYS_ADMIN.
        env: variables beside ours.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        seconds: float,
        pass_fds: Sequence[int] = (),
        tracefs: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._end: End | None = None
        self._files = [os.memfd_create(f"layer-{name}") for name in ("data", "out", "err")]
        self._data, self._out, self._err = self._files
        self._told, told = os.pipe()
        words = [word.replace("{data}", f"/proc/self/fd/{self._data}") for word in command]
        numbers = (seconds, _GRACE_S, _AGAIN_S, MAX_OUTPUT, int(tracefs), told)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _HOLDER, *map(str, numbers), *words],
                stdin=subprocess.PIPE,
                stdout=self._out,
                stderr=self._err,
                pass_fds=(self._data, told, *pass_fds),
                env={**os.environ, **(env or {})},
            )
        except OSError:
            self.close()
            raise
        finally:
            os.close(told)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that holds it."""
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end; does not wait."""
        self._write(b"s")

    def kill(self) -> None:
        """Kill it; does not wait."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            return

    def wait(self, timeout: float = 10.0) -> End:
        """How it ended; it is killed when it has not by then."""
        if self._end is None:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                try:
                    self._process.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            self.kill()
            words = os.read(self._told, 256).split()
            known = len(words) == 3
            self._end = End(int(words[0]), float(words[1]), int(words[2])) if known else End(None, 0.0)
        return self._end

    def size(self) -> int:
        """Bytes that it wrote to its standard output so far."""
        return os.fstat(self._out).st_size

    def output(self) -> str:
        """What it wrote to its standard output."""
        return self._text(self._out)

    def errors(self) -> str:
        """What it wrote to its standard error."""
        return self._text(self._err)

    def data(self) -> str:
        """What it wrote to `{data}`."""
        return self._text(self._data)

    @property
    def data_fd(self) -> int:
        """The file in memory behind `{data}`."""
        return self._data

    def close(self) -> None:
        """End it and let go of everything. Idempotent."""
        if hasattr(self, "_process") and self._end is None:
            self.kill()
            self.wait()
        for fd in (*self._files, self._told):
            try:
                os.close(fd)
            except OSError:
                continue
        self._files, self._told = [], -1

    def __del__(self) -> None:
        """A capture that was given up leaves neither a tool nor open files."""
        if getattr(self, "_files", None) and hasattr(self, "_process"):
            self._process.poll()
            self.kill()
            for fd in (*self._files, self._told):
                os.close(fd)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has ended
            return

    @staticmethod
    def _text(fd: int) -> str:
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            return file.read().decode("utf-8", "replace")
