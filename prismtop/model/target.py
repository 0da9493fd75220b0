"""`Target`: one operating-system process that runs part of an inference engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class ProcessId:
    """A process's identity. A pid alone is never one: the kernel reuses pids.

    Attributes:
        pid: process id in the monitor's pid namespace.
        start_time: clock ticks after boot at which it started (field 22 of /proc/PID/stat, proc(5)).
    """

    pid: int
    start_time: int


@dataclass(frozen=True)
class Target:
    """One process of an engine, as seen from outside (procfs only).

    Attributes:
        id: pid and start time.
        engine: profile name (`vllm`, `sglang`, ...), or `unknown`.
        role: the profile's role (`engine_core`, `worker`, `frontend`, ...).
        probed: whether this role carries hooks, so that it is attached to.
        title: process title or command line, NOT yet safe to print.
        version: the installed distribution's version, None when it could not be found.
        model: model name when the command line exposes it.
        ranks: parallel ranks by kind as in the title, e.g. {"TP": 0, "DP": 1}.
        ports: TCP ports that the process listens on.
        parent: identity of the parent when that is a target too.
        ns_pid: the process's own pid in its innermost pid namespace (NSpid), equal to pid outside containers.
        python: (major, minor, micro) of the interpreter, None when it is not Python or not known.
        free_threaded: whether the interpreter has no GIL; None when not known.
        way_in: the rung of the attach ladder that would be taken (`pep768`, `ptrace`, `gdb`, `external`).
        refusal: why the best rungs cannot be taken; empty when `way_in` is a full one.
        user: name of the owner (the uid as text when it has no name).
    """

    id: ProcessId
    engine: str
    role: str
    probed: bool
    title: str
    version: str | None = None
    model: str | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    ports: tuple[int, ...] = ()
    parent: ProcessId | None = None
    ns_pid: int | None = None
    python: tuple[int, ...] | None = None
    free_threaded: bool | None = None
    way_in: str = "external"
    refusal: str = ""
    user: str = ""

    @property
    def rank(self) -> int | None:
        """Tensor-parallel rank when the title has one, else the first rank it has, else None."""
        named = dict(self.ranks)
        if "TP" in named:
            return named["TP"]
        return self.ranks[0][1] if self.ranks else None


@dataclass(frozen=True)
class Group:
    """The processes of one engine instance: they attach together or not at all."""

    engine: str
    version: str | None
    members: tuple[Target, ...]

    @property
    def probed(self) -> tuple[Target, ...]:
        """The members that carry hooks."""
        return tuple(member for member in self.members if member.probed)

    @property
    def ports(self) -> tuple[int, ...]:
        """Listening ports of all members, in order, without repeats."""
        return tuple(dict.fromkeys(port for member in self.members for port in member.ports))
