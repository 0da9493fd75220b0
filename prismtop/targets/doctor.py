"""What prismtop can do on this machine: each check measures something, none repeats what a manual says.

Ids are stable: scripts may rely on them. Status: `ok`, `partial` (works with a limit that `reason` states),
`none` (does not work).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prismtop.errors import PrismtopError
from prismtop.model import Group, Target
from prismtop.safe_text import safe_text
from prismtop.targets.profiles import Profile, load_profiles

OK, PARTIAL, NONE = "ok", "partial", "none"
_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h
_SLOW_CLOCK_NS = 500.0


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        id: stable name, dotted.
        status: ok, partial or none.
        reason: what was found, in a few words; for ok what it is, otherwise what is wrong with it.
        fix: the exact next step; empty when there is nothing to do.
        essential: attaching needs it: `none` makes `prismtop doctor` exit with 1.
    """

    id: str
    status: str
    reason: str
    fix: str = ""
    essential: bool = False


def machine_checks(proc: str = "/proc") -> Iterator[Check]:
    """Everything that does not depend on a target."""
    yield _python()
    yield _platform()
    yield _procfs(proc)
    yield _container(proc)
    yield _ptrace_call()
    yield _yama(proc)
    yield _capability(proc)
    yield _memory_write()
    yield _program("gdb", ("gdb", "--version"), "the way in of last resort", "Install gdb if you need it.")
    yield _py_spy()
    yield _memfd()
    yield _readable("schedstat", f"{proc}/self/schedstat", "run-queue waiting times")
    yield _perf(proc)
    yield _clock()


def profile_checks(user_dir: Path) -> Iterator[Check]:
    """The packaged profiles, and every profile of the user by itself."""
    from prismtop.targets.profiles import load_profile_file

    try:
        packaged = load_profiles(None)
    except PrismtopError as error:
        yield Check("profiles.packaged", NONE, error.message, error.fix or "Install prismtop again.", True)
        return
    hooks = sum(len(profile.hooks) for profile in packaged.values())
    yield Check("profiles.packaged", OK, f"{len(packaged)} engines, {hooks} hooks")
    files = sorted(user_dir.glob("*.toml")) if user_dir.is_dir() else []
    if not files:
        yield Check("profiles.user", OK, f"none in {user_dir}")
    for file in files:
        id_ = f"profiles.user.{safe_text(file.stem, 40)}"
        try:
            profile = load_profile_file(file)
        except PrismtopError as error:
            yield Check(id_, NONE, error.message, error.fix or "Correct or remove the file.", True)
        else:
            yield Check(id_, OK, f"{len(profile.hooks)} hooks for {safe_text(profile.title, 40)}")


def target_checks(groups: Sequence[Group], profiles: Mapping[str, Profile]) -> Iterator[Check]:
    """The way into each process that carries hooks, and its engine's /metrics."""
    if not groups:
        yield Check("targets", OK, "no inference process is running", "`prismtop demo` starts one.")
    for group in groups:
        name = safe_text(f"{group.engine} {group.version or ''}".strip(), 60)
        for member in group.probed:
            yield _way_in(member, name)
        if not group.probed:
            yield Check(
                f"target.{group.members[0].id.pid}", NONE, f"{name}: no process that carries hooks", "", True
            )
        yield _metrics(group, profiles.get(group.engine), name)


def _python() -> Check:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    return Check("python", OK, found, essential=True)


def _platform() -> Check:
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform != "linux":
        return Check("platform", NONE, f"{found}: only Linux is supported", "Run prismtop on Linux.", True)
    if platform.machine() in ("x86_64", "AMD64"):
        return Check("platform", OK, found, essential=True)
    reason = f"{found}: targets with Python 3.14 or newer only, and from outside"
    return Check("platform", PARTIAL, reason, "Run the engine on Python 3.14.", True)


def _procfs(proc: str) -> Check:
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError as error:
        return Check("procfs", NONE, f"{proc} cannot be read: {error.strerror}", "Mount procfs.", True)
    owners = []
    for name in names:
        try:
            owners.append(os.stat(f"{proc}/{name}").st_uid)
        except OSError:
            continue  # it ended meanwhile
    own = owners.count(os.getuid())
    found = f"{own} processes of this user, {len(owners) - own} of others"
    if os.getuid() != 0 and own == len(owners):
        return Check(
            "procfs", PARTIAL, f"{found}: probably mounted with hidepid", "Run as the engine's user or root."
        )
    return Check("procfs", OK, found, essential=True)


def _container(proc: str) -> Check:
    marks = [mark for mark in ("/.dockerenv", "/run/.containerenv") if os.path.exists(mark)]
    inner = _status_field(proc, "NSpid").split()
    if marks or len(inner) > 1 or os.environ.get("KUBERNETES_SERVICE_HOST"):
        reason = "in a container: processes outside it are not visible"
        return Check(
            "container", PARTIAL, reason, "For others: share the pid namespace (--pid=host), or run outside."
        )
    return Check("container", OK, "not in a container")


def _ptrace_call() -> Check:
    from prismtop.attach.tracing import ptrace_blocked_here

    if ptrace_blocked_here():
        fix = "Start the container with --cap-add=SYS_PTRACE, or with a seccomp profile that allows ptrace."
        return Check("ptrace.call", NONE, "the ptrace system call is blocked here (seccomp)", fix, True)
    return Check("ptrace.call", OK, "the system call is let through", essential=True)


def _yama(proc: str) -> Check:
    try:
        value = Path(f"{proc}/sys/kernel/yama/ptrace_scope").read_text(encoding="ascii").strip()
    except OSError:
        return Check("ptrace.yama", OK, "the kernel has no Yama")
    if value == "0":
        return Check("ptrace.yama", OK, "ptrace_scope 0")
    if value in ("1", "2") and _has_capability(proc):
        return Check("ptrace.yama", OK, f"ptrace_scope {value}, overruled by CAP_SYS_PTRACE")
    if value == "3":
        reason = "ptrace_scope 3: no process may be attached to until a reboot"
        return Check("ptrace.yama", NONE, reason, "Set kernel.yama.ptrace_scope=1 and reboot.", True)
    reason = f"ptrace_scope {value}: only {'own descendants' if value == '1' else 'with CAP_SYS_PTRACE'}"
    fix = "Run `sudo prismtop`, or `sudo sysctl kernel.yama.ptrace_scope=0`."
    return Check("ptrace.yama", PARTIAL, reason, fix, True)


def _capability(proc: str) -> Check:
    if _has_capability(proc):
        return Check("ptrace.capability", OK, "CAP_SYS_PTRACE: processes of every user")
    try:
        import pwd

        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    reason = (
        f"no CAP_SYS_PTRACE: only processes of {safe_text(user, 40)} that have no more capabilities than us"
    )
    return Check("ptrace.capability", PARTIAL, reason, "For others run `sudo prismtop`.")


def _memory_write() -> Check:
    """Write into another process through /proc/PID/mem: what the PEP 768 way in does."""
    child = subprocess.Popen([sys.executable, "-Sc", "input()"], stdin=subprocess.PIPE)
    try:
        with open(f"/proc/{child.pid}/mem", "r+b", buffering=0):
            return Check("pep768.memory", OK, "memory of other processes can be written", essential=False)
    except OSError as error:
        fix = "Run as root, or with --cap-add=SYS_PTRACE."
        return Check("pep768.memory", NONE, f"/proc/PID/mem cannot be opened: {error.strerror}", fix)
    finally:
        child.kill()
        child.communicate()


def _py_spy() -> Check:
    beside = os.path.join(os.path.dirname(sys.executable), "py-spy")
    program = beside if os.path.exists(beside) else "py-spy"
    return _program("py-spy", (program, "--version"), "stacks from outside", "Run `pip install py-spy`.")


def _program(id_: str, command: tuple[str, ...], use: str, fix: str) -> Check:
    """Whether a program runs, with the first line that it prints about itself."""
    if shutil.which(command[0]) is None:
        return Check(id_, NONE, f"{id_} is not installed ({use})", fix)
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check(id_, NONE, f"{id_} does not run: {type(error).__name__}", fix)
    first = done.stdout.decode("utf-8", "replace").strip().partition("\n")[0]
    return Check(id_, OK, safe_text(first, 80))


def _memfd() -> Check:
    try:
        made = os.memfd_create("prismtop-doctor")
    except (AttributeError, OSError) as error:
        reason = f"memfd_create fails ({error}), so batches could only be sampled"
        return Check("memfd", NONE, reason, "Use Linux 3.17 or newer.", True)
    try:
        os.ftruncate(made, 4096)
        os.close(os.open(f"/proc/self/fd/{made}", os.O_RDWR))
    except OSError as error:
        return Check("memfd", NONE, f"a memfd cannot be opened through /proc: {error.strerror}", "", True)
    finally:
        os.close(made)
    return Check("memfd", OK, "created, and opened through /proc", essential=True)


def _readable(id_: str, path: str, use: str) -> Check:
    try:
        with open(path, "rb") as file:
            if file.read(64).strip():
                return Check(id_, OK, f"{use} can be read")
        reason = f"{path} is empty"
    except OSError as error:
        reason = f"{path}: {error.strerror}"
    return Check(id_, NONE, f"{reason}, so there are no {use}", "Use a kernel with CONFIG_SCHED_INFO.")


def _perf(proc: str) -> Check:
    try:
        level = int(Path(f"{proc}/sys/kernel/perf_event_paranoid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return Check("perf", NONE, "the kernel has no perf events", "Use a kernel with CONFIG_PERF_EVENTS.")
    if os.geteuid() == 0 or level <= 1:
        return Check("perf", OK, f"perf_event_paranoid {level}")
    return Check(
        "perf",
        PARTIAL,
        f"perf_event_paranoid {level}: own processes, no tracepoints",
        "Run as root for them.",
    )


def _clock() -> Check:
    rounds = 2000
    best = min(_time_ns(rounds) for _ in range(5)) / rounds
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    try:
        name = Path(source).read_text(encoding="ascii").strip()
    except OSError:
        name = "unknown source"
    found = f"{name}, {best:.0f} ns a reading (Python's call included)"
    if best > _SLOW_CLOCK_NS:
        return Check(
            "clock", PARTIAL, f"{found}: slow, every hook costs two readings", "Boot with clocksource=tsc."
        )
    return Check("clock", OK, found, essential=True)


def _time_ns(rounds: int) -> int:
    read: Callable[[], int] = time.monotonic_ns
    started = read()
    for _ in range(rounds):
        read()
    return read() - started


def _way_in(member: Target, name: str) -> Check:
    id_ = f"target.{member.id.pid}"
    python = ".".join(map(str, member.python)) if member.python else "unknown Python"
    found = f"{name} {safe_text(member.role, 30)}, {python}: {member.way_in}"
    if not member.refusal:
        return Check(id_, OK, found, essential=True)
    status = NONE if member.way_in == "external" else PARTIAL
    return Check(id_, status, f"{found}, because {safe_text(member.refusal, 300)}", essential=True)


def _metrics(group: Group, profile: Profile | None, name: str) -> Check:
    from prismtop.sources.metrics import reader_for

    id_ = f"metrics.{(group.probed or group.members)[0].id.pid}"
    metrics = reader_for(group, profile).read_once()
    if metrics.reason:
        return Check(id_, NONE, f"{name}: {metrics.reason}", _metrics_fix(profile))
    return Check(id_, OK, f"{metrics.url}: {len(metrics.values)} values")


def _metrics_fix(profile: Profile | None) -> str:
    if profile is None or not profile.metrics.endpoint or not profile.metrics.enabled_by:
        return ""
    return f"Not needed for batches. Metrics are {safe_text(profile.metrics.enabled_by, 200)}."


def _has_capability(proc: str) -> bool:
    value = _status_field(proc, "CapEff")
    return bool(value) and bool(int(value, 16) >> _CAP_SYS_PTRACE & 1)


def _status_field(proc: str, name: str) -> str:
    try:
        with open(f"{proc}/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key == name:
                    return value.strip()
    except OSError:
        pass
    return ""
