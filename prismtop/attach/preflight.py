"""Look at a process before entering it: which ways in are open, and why the others are not."""

from __future__ import annotations

import enum
import os
import platform
from dataclasses import dataclass, field

from prismtop.attach import gdb, memory, pep768
from prismtop.attach.elf import EM_AARCH64, EM_X86_64
from prismtop.attach.errors import (
    AttachError,
    AttachPermissionError,
    NoSuchProcessError,
    RemoteDebuggingDisabledError,
    TargetExitedError,
    TargetStateError,
    UnsupportedTargetError,
)
from prismtop.attach.gadgets import find_gadgets
from prismtop.attach.image import ENTRY_POINTS, PythonImage, executable, find_python
from prismtop.attach.permissions import collect, explain, yama_scope
from prismtop.attach.process import (
    CAP_SYS_PTRACE,
    Mapping,
    Status,
    check_identity,
    read_maps,
    read_stat,
    read_status,
)
from prismtop.attach.script_file import usable_folder
from prismtop.attach.tracing import ptrace_blocked_here
from prismtop.safe_text import safe_text

_OLDEST, _NEWEST = (3, 9), (3, 15)  # measured minors
_SECCOMP_STRICT = 1


@dataclass(frozen=True)
class PythonRuntime:
    """The interpreter in a process.

    Attributes:
        version: (major, minor, micro), micro -1 when only the minor is known; None when it cannot be told.
            Read
            from the interpreter's file: the debug offsets at the start of `.PyRuntime` (3.13+), the constant
            `Py_Version` (3.11+), the version text in `.rodata`, or the file's name.
        free_threaded: whether it was built without the GIL; None when it cannot be told.
        libpython: path of the file that holds the interpreter, as the target sees it.
        exe: path of the executable, as the target sees it.
    """

    version: tuple[int, int, int] | None
    free_threaded: bool | None
    libpython: str
    exe: str


class WayIn(enum.Enum):
    """The ladder, best first."""

    PEP768 = "pep768"
    PTRACE = "ptrace"
    GDB = "gdb"
    EXTERNAL = "external"


@dataclass(frozen=True)
class Rung:
    """One way in; `reason` is empty when it is usable, else the cause and the fix."""

    way: WayIn
    usable: bool
    reason: str


@dataclass(frozen=True)
class Preflight:
    """What was found about one process.

    Attributes:
        start_time: clock ticks since boot (field 22 of /proc/PID/stat); with the pid, its identity.
        runtime: None when no Python was found, or it could not be looked at.
        rungs: one per `WayIn`, best first.
    """

    pid: int
    start_time: int
    runtime: PythonRuntime | None
    rungs: tuple[Rung, ...]
    _refusals: tuple[AttachError, ...] = field(default=(), repr=False, compare=False)

    @property
    def best(self) -> WayIn:
        """The best usable way in; EXTERNAL when there is no other, usable or not."""
        return next((r.way for r in self.rungs if r.usable), WayIn.EXTERNAL)

    def refusal(self) -> AttachError | None:
        """Why nothing can be injected, or None when something can."""
        if self.best is not WayIn.EXTERNAL:
            return None
        return self._refusals[0] if self._refusals else AttachError(f"Process {self.pid} cannot be entered.")


def preflight(pid: int, *, allow_gdb: bool = False, proc: str = "/proc") -> Preflight:
    """Find the ways into a process.

    Reads /proc, files, and memory (process_vm_readv); stops nothing, writes nothing, and uses no ptrace on
    it.

    Args:
        allow_gdb: whether the user accepts a stop of 0.2 to 4 s.
        proc: where /proc is mounted.

    Raises:
        NoSuchProcessError: no such pid (exit code 2).
    """
    stat = read_stat(pid, proc)
    status = read_status(pid, proc)
    runtime: PythonRuntime | None = None
    try:
        _check_state(pid, stat.state, stat.kernel_thread, stat.comm)
        exe = _look(pid, status, proc)
        maps = _maps(pid, status, proc)
        image = find_python(pid, maps, exe, proc)
        runtime = PythonRuntime(image.version, image.free_threaded, image.path, exe)
        _check_version(image)
        _check_rights(pid, status, image, proc)
        _check_tracer(pid, stat.state, status, proc)
        found = _open_rungs(pid, stat.start_time, runtime, status, maps, image, allow_gdb)
        check_identity(pid, stat.start_time, proc)
        return found
    except (AttachError, OSError) as e:
        error = _cause(pid, stat.start_time, e, proc)
        outside = runtime is not None or isinstance(error, AttachPermissionError)
        outside = outside and not isinstance(error, TargetExitedError)
        return _closed(pid, stat.start_time, runtime, error, outside)


def _cause(pid: int, start_time: int, error: AttachError | OSError, proc: str) -> AttachError:
    """What really went wrong: a process that exits meanwhile looks like many things."""
    try:
        check_identity(pid, start_time, proc)
    except TargetExitedError as e:
        return error if isinstance(error, TargetStateError) else e
    if isinstance(error, AttachError):
        return error
    return AttachPermissionError(f"Files of process {pid} may not be read ({error.strerror}).")


def _closed(
    pid: int, start_time: int, runtime: PythonRuntime | None, error: AttachError, outside: bool
) -> Preflight:
    reason = str(error)
    rungs = [Rung(way, False, reason) for way in (WayIn.PEP768, WayIn.PTRACE, WayIn.GDB)]
    rungs.append(Rung(WayIn.EXTERNAL, outside, "" if outside else reason))
    return Preflight(pid, start_time, runtime, tuple(rungs), (error,))


def _check_state(pid: int, state: str, kernel_thread: bool, comm: str) -> None:
    name = safe_text(comm)
    if pid == os.getpid():
        raise UnsupportedTargetError(f"Process {pid} is prismtop itself.")
    if kernel_thread:
        raise UnsupportedTargetError(f"Process {pid} is a kernel thread ({name}).")
    if state in "ZX":
        raise TargetStateError(f"Process {pid} ({name}) has exited and waits for its parent (a zombie).")


def _check_tracer(pid: int, state: str, status: Status, proc: str) -> None:
    tracer = status.tracer_pid
    if tracer:
        try:
            name = safe_text(read_stat(tracer, proc).comm)
        except NoSuchProcessError:
            name = "a process in another pid namespace"
        raise TargetStateError(
            f"Process {pid} is being traced by {name} (pid {tracer}), and a process has one tracer at most.",
            fix=f"Detach it first (end pid {tracer}), then try again.",
        )
    if state in "Tt":
        raise TargetStateError(
            f"Process {pid} is stopped (SIGSTOP or Ctrl-Z).",
            fix=f"Resume it with 'kill -CONT {pid}', then try again.",
        )


def _look(pid: int, status: Status, proc: str) -> str:
    try:
        return executable(pid, proc)
    except AttachPermissionError:
        raise explain(collect(pid, status, proc)) from None


def _maps(pid: int, status: Status, proc: str) -> list[Mapping]:
    try:
        return read_maps(pid, proc)
    except AttachPermissionError:
        raise explain(collect(pid, status, proc)) from None


def _check_version(image: PythonImage) -> None:
    version = image.version
    if version is None:
        return
    text = ".".join(str(x) for x in version if x >= 0)
    if version[:2] < _OLDEST:
        raise UnsupportedTargetError(
            f"The target runs Python {text}, and a thread of a Python before 3.9 cannot be entered safely.",
            fix="Run the engine on Python 3.9 or newer to attach; watching from outside works.",
        )
    if version[:2] > _NEWEST:
        raise UnsupportedTargetError(
            f"The target runs Python {text}, which this prismtop does not know.",
            fix="Upgrade it: 'pip install --upgrade prismtop'.",
        )


def _check_rights(pid: int, status: Status, image: PythonImage, proc: str) -> None:
    address = image.runtime or next(iter(image.symbols.values()))
    if not memory.may_read(pid, address):
        raise explain(collect(pid, status, proc))
    # Under Yama 1 this process may be an ancestor of the target, which the helper process never is.
    privileged = read_status(os.getpid()).cap_effective >> CAP_SYS_PTRACE & 1
    if yama_scope(proc) == 1 and not privileged:
        from prismtop.attach.ladder import helper_may_attach

        if not helper_may_attach(pid, address):
            raise explain(collect(pid, status, proc))


def _open_rungs(
    pid: int,
    start_time: int,
    runtime: PythonRuntime,
    status: Status,
    maps: list[Mapping],
    image: PythonImage,
    allow_gdb: bool,
) -> Preflight:
    errors = {
        WayIn.PEP768: _pep768(pid, status, image),
        WayIn.PTRACE: _ptrace(pid, status, maps, image),
        WayIn.GDB: _gdb(image, allow_gdb),
    }
    forbidden = errors[WayIn.PEP768]
    if isinstance(forbidden, RemoteDebuggingDisabledError):  # a no to the protocol is a no to the others
        errors = dict.fromkeys(errors, forbidden)
    rungs = [Rung(way, e is None, "" if e is None else str(e)) for way, e in errors.items()]
    rungs.append(Rung(WayIn.EXTERNAL, True, ""))
    new = image.version is not None and image.version[:2] >= (3, 14)
    order = (WayIn.PEP768, WayIn.PTRACE, WayIn.GDB) if new else (WayIn.PTRACE, WayIn.PEP768, WayIn.GDB)
    refusals = tuple(e for e in (errors[way] for way in order) if e is not None)
    return Preflight(pid, start_time, runtime, tuple(rungs), refusals)


def _pep768(pid: int, status: Status, image: PythonImage) -> AttachError | None:
    if image.version is None or image.version[:2] < (3, 14):
        return UnsupportedTargetError(
            "Remote debugging (PEP 768) came with Python 3.14, and the target is older."
        )
    try:
        pep768.locate(pid, image)
    except AttachError as e:
        return e
    if usable_folder(pid, status) is None:
        return AttachPermissionError(
            f"No temporary folder of process {pid} can be written.",
            fix="Give it a writable /tmp (or TMPDIR), or run prismtop as root or as that user.",
        )
    return None


def _ptrace(pid: int, status: Status, maps: list[Mapping], image: PythonImage) -> AttachError | None:
    newer = "Python 3.14 and newer can be entered without it."
    if image.machine != EM_X86_64 or platform.machine() != "x86_64":
        name = "aarch64" if image.machine == EM_AARCH64 else platform.machine()
        return UnsupportedTargetError(
            f"Injection by ptrace is made for x86_64, and this is {name}.", fix=newer
        )
    if image.free_threaded:
        return UnsupportedTargetError(
            "The target is a free-threaded Python, in which injection by ptrace is not verified.",
            fix="Run the engine on a Python build with the GIL to attach.",
        )
    if status.shadow_stack:
        return UnsupportedTargetError(
            "The target runs with a user shadow stack, which forbids calls made from outside.",
            fix=f"{newer} Or allow gdb with --allow-gdb.",
        )
    if image.musl:
        return UnsupportedTargetError(
            "The target runs on musl libc, on which injection by ptrace is not verified.",
            fix=f"{newer} Or allow gdb with --allow-gdb.",
        )
    if status.seccomp == _SECCOMP_STRICT:
        return UnsupportedTargetError("The target runs in strict seccomp mode, which forbids mapping memory.")
    missing = [name for name in ENTRY_POINTS if name not in image.symbols]
    if missing:
        return UnsupportedTargetError(f"The target's Python does not export {', '.join(missing)}.", fix=newer)
    if ptrace_blocked_here():
        return AttachPermissionError(
            "A seccomp filter on prismtop's own container forbids ptrace.",
            fix="Start that container with --cap-add=SYS_PTRACE (or --security-opt seccomp=unconfined).",
        )
    try:
        find_gadgets(pid, maps)
    except AttachError as e:
        return e
    return None


def _gdb(image: PythonImage, allowed: bool) -> AttachError | None:
    if image.free_threaded:
        return UnsupportedTargetError(
            "The target is a free-threaded Python, in which injection is not verified."
        )
    if gdb.find_gdb() is None:
        return gdb.missing()
    if not allowed:
        return UnsupportedTargetError(
            "gdb would stop all threads of the target for 0.2 to 4 s.", fix="Allow that with --allow-gdb."
        )
    return None
