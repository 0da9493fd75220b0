"""What an engine profile holds. The TOML form, key by key, is documented in `examples/profiles/README.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from prismtop.targets.expressions import Expression

KINDS = (
    "method", "function", "async_method", "async_function", "generator", "async_generator", "classmethod",
    "staticmethod",
)  # fmt: skip
BINDINGS = ("dynamic", "captured")
BELONGS = ("enclosing", "key", "next", "settle")
CONFIDENCES = ("high", "medium", "low")
SETTLES = ("same_turn", "overlapped")
EVENT_KINDS = ("arrival", "first_token", "token", "finish")
VALUES = (
    "key", "active", "mode", "batch_size", "tokens", "prefill_tokens", "decode_tokens", "context_tokens",
    "max_context", "cached_tokens", "new_requests", "running", "waiting", "kv_usage", "preempted",
)  # fmt: skip
METRIC_FIELDS = (
    "running", "waiting", "kv_usage", "ttft", "itl", "queue", "preemptions", "prompt_tokens",
    "generation_tokens",
)  # fmt: skip
MAX_VALUES = 10
"""Values per hook besides `key`: what a 128-byte record has room for."""
MAX_VALUES_SUSPENDING = 9
"""The same for coroutines and generators, whose record also holds their suspended time."""

_EMPTY: Mapping[str, str] = MappingProxyType({})
_NO_EXPRESSIONS: Mapping[str, Expression] = MappingProxyType({})


@dataclass(frozen=True)
class Role:
    """How to recognise one kind of process. Keys that are set must all match.

    Attributes:
        name: engine_core, worker, frontend, scheduler, detokenizer, engine, shard, router, ...
        title_regex: searched in the process title (first NUL-terminated string of the command line).
        cmdline_regex: searched in the whole command line, arguments separated by one space.
        maps_regex: searched in each path mapped by the process; looked at last, it is the expensive one.
        comm_regex: searched in the thread name (15 bytes at most).
        child_of: an ancestor is a process of this role of the same profile.
        versions: PEP 440 specifier; an unknown version matches.
        probed: carries hooks.
        anchor: carries the hooks that open batches.
        listens: serves HTTP; `default_port` when no listening socket can be read, 0 if it has none.
        rank_regex: each match in the title is a rank: group 1 its kind, group 2 its number.
        rank_env: environment variable with the rank, for processes without a title.
    """

    name: str
    title_regex: str = ""
    cmdline_regex: str = ""
    maps_regex: str = ""
    comm_regex: str = ""
    child_of: str = ""
    versions: str = ""
    probed: bool = False
    anchor: bool = False
    listens: bool = False
    default_port: int = 0
    rank_regex: str = ""
    rank_env: str = ""
    note: str = ""


@dataclass(frozen=True)
class BatchRule:
    """Which records make a batch.

    Attributes:
        role: process role whose hooks open and settle batches.
        open: hooks whose record opens a batch, unless its `active` is 0.
        launch: hooks that mark the launch of the batch on the device.
        settle: hooks whose record closes it; empty: closed by the next open.
        key: open, launch and settle records carry the same `key`; otherwise first in, first out.
        modes: the engine's names of forward modes -> prefill, decode, mixed, idle.
    """

    role: str
    open: tuple[str, ...]
    launch: tuple[str, ...] = ()
    settle: tuple[str, ...] = ()
    key: bool = False
    modes: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True)
class Event:
    """Request events made by one call of a hook (64 at most).

    Attributes:
        at: `entry` or `exit` of the hooked call.
        kind: arrival, first_token, token, finish.
        each: an iterable of (id, a, b). arrival: a = wall time in microseconds or 0, b = prompt tokens;
            finish: a = output tokens or -1; otherwise 0.
    """

    at: str
    kind: str
    each: Expression


@dataclass(frozen=True)
class Hook:
    """One function to time.

    Attributes:
        name: unique in the profile among hooks whose `versions` overlap.
        roles: process roles in which it is installed.
        module, qualname, kind: the function.
        stage: one of `prismtop.model.STAGES`, or empty: measured for its values or events only.
        binding: `dynamic` (looked up on every call) or `captured` (a bound method stored at start).
        versions: PEP 440 specifier of the distribution, empty for all.
        priority: 1 is never dropped, 9 is dropped first when the probe is over its budget.
        belongs: to which batch a record belongs: `key`, `enclosing`, `next` (open), `settle`.
        boundary: the engine is between batches after this call.
        per_batch: `order`: the n-th call in another process belongs to the n-th launched batch.
        entry, exit: value name -> expression, evaluated before and after the call (`ret` is its result).
        events: request events.
    """

    name: str
    roles: tuple[str, ...]
    module: str
    qualname: str
    kind: str = "method"
    stage: str = ""
    binding: str = "dynamic"
    versions: str = ""
    priority: int = 5
    belongs: str = "enclosing"
    boundary: bool = False
    per_batch: str = ""
    entry: Mapping[str, Expression] = field(default_factory=lambda: _NO_EXPRESSIONS)
    exit: Mapping[str, Expression] = field(default_factory=lambda: _NO_EXPRESSIONS)
    events: tuple[Event, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class MetricsRule:
    """Where the engine's own counters are.

    Attributes:
        endpoint: path on the frontend's port; empty if there is none.
        enabled_by: what switches it on, for a message.
        batch_count: sample name of the engine's own iteration counter; empty if none.
        names: one of `METRIC_FIELDS` -> sample name (a histogram's without suffix).
    """

    endpoint: str = ""
    enabled_by: str = ""
    batch_count: str = ""
    names: Mapping[str, str] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True)
class ModelRule:
    """Where the command line names the model.

    Attributes:
        options: `--model X` or `--model=X`.
        after: words after which the first argument that is no option is the model (`serve X`).
    """

    options: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """One engine.

    Attributes:
        name: `[a-z0-9-]+`.
        title: as shown.
        distribution: names of the distribution that carries the version, best first.
        verified: releases against which the names were checked, oldest first.
        confidence: high, medium, low.
        settles: whether a batch usually settles in the turn of the loop that launched it, or a later one.
        order: profiles with a low number are tried first.
        path: the file it was read from.
    """

    name: str
    title: str
    distribution: tuple[str, ...]
    verified: tuple[str, ...]
    roles: tuple[Role, ...]
    hooks: tuple[Hook, ...]
    batch: BatchRule | None = None
    metrics: MetricsRule = MetricsRule()
    model: ModelRule = ModelRule()
    confidence: str = "high"
    settles: str = "same_turn"
    order: int = 50
    note: str = ""
    path: str = ""

    def role(self, name: str) -> Role | None:
        """The first role entry of that name."""
        return next((role for role in self.roles if role.name == name), None)
