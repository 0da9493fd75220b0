"""The nouns of the toolkit: a scenario, what it needs, one order to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prismtop.anomaly.guard import Guard

DEFAULT_DURATION_S = 30.0
MAX_DURATION_S = 600.0
PREPARE_S = 200.0
"""Seconds that preparing may take: three compilers, each of which has a minute."""
START_S = 30.0
"""Seconds within which a fault must have taken effect: an attach, a CUDA context."""
TTL_GRACE_S = 5.0
"""Seconds after the planned end at which the watchdog ends an injector that did not end by itself."""


@dataclass(frozen=True)
class Availability:
    """Whether a scenario can run here.

    Attributes:
        ok: it can.
        reason: why not; empty when it can.
        fix: the next step; empty when there is none.
        permission: the reason is a missing right (exit code 4, not 3).
    """

    ok: bool
    reason: str = ""
    fix: str = ""
    permission: bool = False


AVAILABLE = Availability(True)


@dataclass(frozen=True)
class Request:
    """One order to run a scenario.

    Attributes:
        pid, start_time: identity of the target.
        duration_s: how long it acts.
        intensity: 0 to 1; what it turns is said by `Scenario.knob`.
        seed: of everything random.
        ramp_s: seconds in which the intensity rises from 0.
        cpus: CPUs that burners may use; empty is those of the target.
        host_wide: effects beyond the target are agreed to.
        in_target: code of ours in the target is agreed to.
        url: endpoint of a workload control; empty is the target's own port.
        work_dir: private directory for programs and files, removed by the rollback.
        experiment: name of the experiment, in names of groups and files.
        device: GPU by number; None is the one that the target uses.
    """

    pid: int
    start_time: int
    duration_s: float = DEFAULT_DURATION_S
    intensity: float = 0.5
    seed: int = 0
    ramp_s: float = 0.0
    cpus: tuple[int, ...] = ()
    host_wide: bool = False
    in_target: bool = False
    url: str = ""
    work_dir: str = ""
    experiment: str = ""
    device: int | None = None

    def level(self, elapsed_s: float) -> float:
        """The intensity `elapsed_s` after the start, the ramp applied."""
        if self.ramp_s <= 0:
            return self.intensity
        return self.intensity * min(1.0, max(0.0, elapsed_s / self.ramp_s))


Inject = Callable[[Request, "Guard"], "Iterator[float | None]"]
"""Acts, then yields again and again the seconds until it wants to be resumed; closed at the end. It begins
with the first number: until what it started has taken effect, it yields None.
"""


def _nothing(request: Request) -> None:
    """Most scenarios need no preparation."""


def _of_the_target_only(request: Request) -> tuple[str, ...]:
    """Most scenarios change nothing of the machine's for good."""
    return ()


@dataclass(frozen=True)
class Scenario:
    """One thing that can be done to a target.

    Attributes:
        id: stable name.
        text: what it does, one sentence.
        method: by which means.
        paper: it is one of the paper's eight, by the paper's method.
        control: a workload shift that is no fault: a detector must stay silent.
        in_target: it runs code of ours in the target, which has to be agreed to.
        scope: what else is touched: `process`, `cpus`, `host`, `gpu`, `namespace`, `endpoint`.
        causes: ids of causes that name it; the first is the expected one.
        knob: what the intensity turns.
        check: whether it can run here, on this target (None: on any).
        steps: what would be written, in words, for the plan.
        inject: does it.
        rollback: how it is undone, one sentence.
        exclusive: what it changes of the machine that a second experiment must not change meanwhile.
        prepare: what takes time and is no part of the fault (compiling), in the work directory.
    """

    id: str
    text: str
    method: str
    scope: str
    causes: tuple[str, ...]
    knob: str
    check: Callable[[int | None], Availability]
    steps: Callable[[Request], tuple[str, ...]]
    inject: Inject
    rollback: str
    paper: bool = False
    control: bool = False
    in_target: bool = False
    exclusive: Callable[[Request], tuple[str, ...]] = _of_the_target_only
    prepare: Callable[[Request], None] = _nothing
