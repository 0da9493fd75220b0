"""Find inference engines from outside: which processes, what part each plays, and which belong together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from prismtop.errors import PrismtopError, UnavailableError, UsageError
from prismtop.model.target import Group, ProcessId, Target
from prismtop.targets import procfs
from prismtop.targets.interpreter import Installed, Paths, find_python, looks_like_python, read_paths

if TYPE_CHECKING:
    from prismtop.targets.profile import Profile, Role

UNKNOWN = "unknown"
Way = Callable[[int], tuple[str, str]]
"""pid -> (way in, why no better one)."""

# Programs that start servers: engines below one of these are not one instance for that.
_STARTERS = {
    "systemd", "init", "tini", "dumb-init", "bash", "sh", "dash", "zsh", "fish", "ksh", "screen", "login",
    "su", "sudo", "supervisord", "runsv", "conmon", "podman", "kubelet", "code", "node", "make", "xargs",
    "parallel", "cron", "pytest", "ray",
}  # fmt: skip
_STARTER_PREFIXES = ("containerd-shim", "docker", "tmux", "slurmstepd", "sshd", "jupyter")


@dataclass(frozen=True)
class _Process:
    stat: procfs.Stat
    argv: tuple[str, ...]

    @property
    def title(self) -> str:
        return self.argv[0] if self.argv else ""

    @property
    def cmdline(self) -> str:
        return " ".join(self.argv)


@dataclass(frozen=True)
class _Match:
    profile: Profile
    role: Role


class _Scan:
    """One look at the process table."""

    def __init__(self, profiles: Mapping[str, Profile], proc: str) -> None:
        self.proc = proc
        self.profiles = list(profiles.values())
        self.installed = Installed()
        self._paths: dict[int, Paths] = {}
        self.processes: dict[int, _Process] = {}
        for pid in procfs.pids(proc):
            stat = procfs.read_stat(pid, proc)
            if stat is not None and not stat.dead and not stat.kernel_thread:
                self.processes[pid] = _Process(stat, procfs.read_cmdline(pid, proc))
        self._versions: dict[tuple[int, str], str | None] = {}
        self.matches: dict[int, _Match] = {}
        order = self._parents_first()
        for with_parent in (False, True):
            for pid in order:
                if pid not in self.matches and (match := self._match(pid, with_parent)) is not None:
                    self.matches[pid] = match

    def _parents_first(self) -> list[int]:
        depth = {pid: sum(1 for _ in self.ancestors(pid)) for pid in self.processes}
        return sorted(self.processes, key=lambda pid: (depth[pid], pid))

    def ancestors(self, pid: int) -> Iterable[int]:
        """Its parent, grandparent, ...; a cycle (pid reuse during the scan) ends it."""
        seen = {pid}
        current = self.processes[pid].stat.ppid
        while current in self.processes and current not in seen:
            seen.add(current)
            yield current
            current = self.processes[current].stat.ppid

    def version(self, pid: int, profile: Profile) -> str | None:
        """Version of the profile's distribution where the process takes its packages from."""
        key = (pid, profile.name)
        if key not in self._versions:
            self._versions[key] = self.installed.version(self.paths(pid), profile.distribution)
        return self._versions[key]

    def paths(self, pid: int) -> Paths:
        """Its path names, read once."""
        if pid not in self._paths:
            self._paths[pid] = read_paths(pid, self.processes[pid].argv, self.proc)
        return self._paths[pid]

    def _match(self, pid: int, with_parent: bool) -> _Match | None:
        process = self.processes[pid]
        if not process.argv:
            return None
        for profile in self.profiles:
            for role in profile.roles:
                if bool(role.child_of) == with_parent and self._fits(pid, process, profile, role):
                    return _Match(profile, role)
        return None

    def _fits(self, pid: int, process: _Process, profile: Profile, role: Role) -> bool:
        if role.title_regex and not re.search(role.title_regex, process.title):
            return False
        if role.comm_regex and not re.search(role.comm_regex, process.stat.comm):
            return False
        if role.cmdline_regex and not self._cmdline_fits(pid, process, profile, role):
            return False
        if role.child_of and not self._is_child(pid, process, profile, role):
            return False
        if role.versions:
            from prismtop.targets.profiles import version_matches

            if not version_matches(role.versions, self.version(pid, profile)):
                return False
        if role.maps_regex:
            maps = self.paths(pid).maps
            # Maps that may not be read confirm nothing: only a match by name stands without them.
            if maps is None:
                return bool(role.title_regex or role.cmdline_regex)
            return any(re.search(role.maps_regex, path) for path in maps)
        return True

    def _cmdline_fits(self, pid: int, process: _Process, profile: Profile, role: Role) -> bool:
        match = re.search(role.cmdline_regex, process.cmdline)
        if match is None:
            return False
        # `docker run ... vllm serve`, `grep "vllm serve"` and `bash -c` name an engine without being one.
        if match.start() >= len(process.title) and not looks_like_python(
            process.argv, procfs.read_exe(pid, self.proc)
        ):
            return False
        # A child with its parent's very command line is a fork of it, not a second instance.
        parent = self.matches.get(process.stat.ppid)
        same = parent is not None and parent.profile is profile and not role.child_of
        return not (same and self.processes[process.stat.ppid].argv == process.argv)

    def _is_child(self, pid: int, process: _Process, profile: Profile, role: Role) -> bool:
        if (
            "multiprocessing.resource_tracker" in process.cmdline
            or "forkserver import main" in process.cmdline
        ):
            return False
        for ancestor in self.ancestors(pid):
            match = self.matches.get(ancestor)
            if match is not None and match.profile is profile and match.role.name == role.child_of:
                forked = self.processes[ancestor].argv == process.argv
                return (
                    bool(role.cmdline_regex or role.comm_regex)
                    or forked
                    or "multiprocessing" in process.cmdline
                )
        return False

    def clusters(self) -> list[list[int]]:
        """Matched pids by engine instance, parents first."""
        leader = {pid: pid for pid in self.matches}

        def find(pid: int) -> int:
            while leader[pid] != pid:
                pid = leader[pid]
            return pid

        siblings: dict[tuple[int, tuple[str, ...]], int] = {}
        for pid in self._parents_first():
            match = self.matches.get(pid)
            if match is None:
                continue
            family = match.profile.distribution
            for ancestor in self.ancestors(pid):
                above = self.matches.get(ancestor)
                if above is not None and above.profile.distribution == family:
                    leader[find(pid)] = find(ancestor)
                    break
            else:
                parent = self.processes[pid].stat.ppid
                if not match.role.listens and self._is_launcher(parent):
                    first = siblings.setdefault((parent, family), pid)
                    leader[find(pid)] = find(first)
        found: dict[int, list[int]] = {}
        for pid in self._parents_first():
            if pid in leader:
                found.setdefault(find(pid), []).append(pid)
        return [found[key] for key in sorted(found)]

    @staticmethod
    def _starts_anything(comm: str) -> bool:
        return comm in _STARTERS or comm.startswith(_STARTER_PREFIXES)

    def _is_launcher(self, pid: int) -> bool:
        """Whether processes below `pid` are one job: below a script or mpirun, not a shell or init."""
        process = self.processes.get(pid)
        return pid > 1 and process is not None and not self._starts_anything(process.stat.comm)


def discover(
    profiles: Mapping[str, Profile], *, proc: str = procfs.PROC, way: Way | None = None
) -> tuple[Group, ...]:
    """All engine instances that can be seen, by the pid of their first process.

    Args:
        profiles: in the order in which they are tried (`load_profiles`).
        way: tells the way in for a probed process; by default `prismtop.attach.preflight`.
    """
    scan = _Scan(profiles, proc)
    groups = (_group(scan, pids, _way(way, proc)) for pids in scan.clusters())
    return tuple(group for group in groups if group is not None)


def group_of(
    pid: int, profiles: Mapping[str, Profile], *, proc: str = procfs.PROC, way: Way | None = None
) -> Group:
    """The engine instance that contains `pid`, or a group of that one process with the engine `unknown`.

    Raises:
        UsageError: there is no such process, it has exited, or the number is that of a thread.
        UnavailableError: it is a kernel thread.
    """
    stat = _living(pid, proc)
    if stat.kernel_thread:
        raise UnavailableError(
            f"Process {pid} is a kernel thread: it runs no Python.", fix="Choose a pid from `prismtop list`."
        )
    status = procfs.read_status(pid, proc)
    if status is not None and status.tgid != pid:
        raise UsageError(
            f"{pid} is a thread of process {status.tgid}, not a process.", fix=f"Use --pid {status.tgid}."
        )
    scan = _Scan(profiles, proc)
    way = _way(way, proc)
    for pids in scan.clusters():
        if pid in pids and (group := _group(scan, pids, way)) is not None:
            return group
    if pid not in scan.processes:
        scan.processes[pid] = _Process(stat, procfs.read_cmdline(pid, proc))
    target = _target(scan, pid, None, way)
    if target is None:
        raise UsageError(f"Process {pid} has exited.", fix="Choose a pid from `prismtop list`.")
    return Group(engine=UNKNOWN, version=None, members=(target,))


def identity(pid: int, *, proc: str = procfs.PROC) -> ProcessId:
    """pid and start time of a living process. Raises UsageError when there is none."""
    return ProcessId(pid, _living(pid, proc).start_time)


def still_alive(id: ProcessId, *, proc: str = procfs.PROC) -> bool:
    """Whether that very process still runs (a zombie, or another process with its pid, is not it)."""
    stat = procfs.read_stat(id.pid, proc)
    return stat is not None and not stat.dead and stat.start_time == id.start_time


def _living(pid: int, proc: str) -> procfs.Stat:
    stat = procfs.read_stat(pid, proc) if pid > 0 else None
    if stat is None:
        raise UsageError(f"There is no process {pid}.", fix="Choose a pid from `prismtop list`.")
    if stat.dead:
        raise UsageError(
            f"Process {pid} has exited and waits for its parent to notice (a zombie).",
            fix="Choose a pid from `prismtop list`.",
        )
    return stat


def _way(way: Way | None, proc: str) -> Way:
    if way is not None:
        return way
    if proc != procfs.PROC:
        return lambda pid: ("external", "")
    return _preflight_way


def _preflight_way(pid: int) -> tuple[str, str]:
    from prismtop.attach.preflight import preflight

    try:
        found = preflight(pid)
    except PrismtopError as error:
        # It ended, or changed, since it was listed.
        return "external", str(error)
    refusal = found.refusal()
    return found.best.value, "" if refusal is None else str(refusal)


def _group(scan: _Scan, pids: list[int], way: Way) -> Group | None:
    targets = [target for pid in pids if (target := _target(scan, pid, scan.matches[pid], way)) is not None]
    if not targets:
        return None
    # The process that carries the batches names the engine: SGLang's diffusion has SGLang's frontend.
    lead = next((target for target in targets if target.probed), targets[0])
    version = lead.version or next((target.version for target in targets if target.version), None)
    model = next((target.model for target in targets if target.model), None)
    alive = {target.id.pid: target.id for target in targets}
    members = tuple(
        replace(
            target,
            version=target.version or version,
            model=target.model or model,
            parent=next((alive[a] for a in scan.ancestors(target.id.pid) if a in alive), None),
        )
        for target in targets
    )
    return Group(engine=lead.engine, version=version, members=members)


def _target(scan: _Scan, pid: int, match: _Match | None, way: Way) -> Target | None:
    process, proc = scan.processes[pid], scan.proc
    role = match.role if match else _any_role()
    status = procfs.read_status(pid, proc)
    python = find_python(scan.paths(pid))
    ports = procfs.listening_ports(pid, proc) if role.listens else ()
    way_in, refusal = way(pid) if role.probed else ("external", "")
    target = Target(
        id=ProcessId(pid, process.stat.start_time),
        engine=match.profile.name if match else UNKNOWN,
        role=role.name,
        probed=role.probed,
        title=process.title if role.title_regex else process.cmdline or process.stat.comm,
        version=scan.version(pid, match.profile) if match else None,
        model=_model(scan, pid, match.profile) if match else None,
        ranks=_ranks(process, role, proc),
        ports=_declared_port(process.argv) if ports is None else ports,
        ns_pid=status.ns_pid if status else None,
        python=python.version if python else None,
        free_threaded=python.free_threaded if python else None,
        way_in=way_in,
        refusal=refusal,
        user=procfs.user_name(status.uid) if status else "",
    )
    # What was read belongs to this process only if it was the same one all along.
    return target if still_alive(target.id, proc=proc) else None


def _any_role() -> Role:
    from prismtop.targets.profile import Role

    return Role(name="process", probed=True, listens=True)


def _ranks(process: _Process, role: Role, proc: str) -> tuple[tuple[str, int], ...]:
    if role.rank_regex:
        return tuple((m[1], int(m[2])) for m in re.finditer(role.rank_regex, process.title))
    if role.rank_env:
        value = procfs.read_environ(process.stat.pid, role.rank_env, proc)
        if value is not None and value.isdecimal():
            return (("TP", int(value)),)
    return ()


def _declared_port(argv: tuple[str, ...]) -> tuple[int, ...]:
    """The port on the command line, for a process whose sockets this user may not read."""
    value = _option(argv, ("--port", "-p"))
    return (int(value),) if value is not None and value.isdecimal() and 0 < int(value) < 65536 else ()


def _model(scan: _Scan, pid: int, profile: Profile) -> str | None:
    """From its own command line, else its ancestors': a process that set its title has lost its arguments."""
    for candidate in (pid, *scan.ancestors(pid)):
        argv = scan.processes[candidate].argv
        if (value := _option(argv, profile.model.options)) is not None:
            return value
        for word, following in pairwise(argv):
            if word in profile.model.after and not following.startswith("-"):
                return following
        if candidate != pid and not looks_like_python(argv, None):
            return None
    return None


def _option(argv: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in names:
            if equals:
                return value or None
            if index + 1 < len(argv) and not argv[index + 1].startswith("-"):
                return argv[index + 1]
    return None
