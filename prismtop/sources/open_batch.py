"""A batch that is being put together, and the records of one thread that wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prismtop.probe import agent
from prismtop.sources.hook_code import HookPlan
from prismtop.sources.ring import Record
from prismtop.sources.stages import Span, union

MAX_WAITING = 512
MAX_BUSY = 1024
_MISSING = agent.MISSING
_new = tuple.__new__  # as `Span._make`, without a call of its own in Python
REACH_NS = 20_000_000
"""What ended longer than this before a batch's first stage is not part of it."""


@dataclass(frozen=True)
class Process:
    """One probed process as the assembler sees it: its hooks by their number in the ring."""

    pid: int
    role: str
    rank: int | None
    plans: Mapping[int, HookPlan]


@dataclass(slots=True)
class OpenBatch:
    """What is known of a batch so far. Times are CLOCK_MONOTONIC ns.

    Attributes:
        key: of the engine's batch object, or of its launch; `agent.MISSING` without keys.
        opened_ns: start of the opening call.
        launch_ns: start of the launching call; None until its record came.
        settle_start_ns, settle_ns: start and end of the settling call.
        idle_ns: time that the engine had nothing to do before.
        after_loss: a batch before it was given up, so there is no period.
        led: per worker process, the end of its launching call for this batch.
        followed: (process, hook) pairs whose ordered call for this batch was found.
        done: it was handed out; what comes now is too late.
    """

    key: int
    opened_ns: int
    values: dict[str, int] = field(default_factory=dict)
    capped: set[str] = field(default_factory=set)
    spans: list[Span] = field(default_factory=list)
    launch_ns: int | None = None
    settle_start_ns: int | None = None
    settle_ns: int | None = None
    idle_ns: int = 0
    after_loss: bool = False
    suspect: str = ""
    led: dict[int, int] = field(default_factory=dict)
    followed: set[tuple[int, int]] = field(default_factory=set)
    done: bool = False

    def add(self, process: Process, plan: HookPlan, record: Record) -> None:
        """Take the values of a record, and its interval if its hook measures a stage."""
        values = self.values
        for name, at in plan.values:
            value = record[at]
            if value != _MISSING and name not in values:
                values[name] = value
        _, start, end, word, tid = record[:5]
        if word >> 16:
            self._note(plan, record, word >> 16)
        stage = plan.span_stage
        if stage:
            suspended = 0
            if plan.suspends and record[15] != _MISSING:
                suspended = record[15]
            span = (stage, plan.hook.name, start, end, suspended, process.pid, tid, process.rank)
            self.spans.append(_new(Span, span))

    def _note(self, plan: HookPlan, record: Record, flags: int) -> None:
        if flags & agent.FLAG_CAPPED:
            self.capped.update(
                name for name, at in plan.values if name in plan.per_request and record[at] != _MISSING
            )
        if flags & agent.FLAG_RAISED:
            self.suspect = f"{plan.hook.name} raised an exception"


@dataclass(slots=True)
class ThreadLine:
    """Records of one thread that wait for the keyed record that they belong to.

    Attributes:
        waiting: in the order in which the calls ended.
        last: batch of the last keyed record.
        busy: what ran since the last idle record, (start, end) in ns.
    """

    process: Process
    waiting: list[tuple[HookPlan, Record]] = field(default_factory=list)
    last: OpenBatch | None = None
    busy: list[tuple[int, int]] = field(default_factory=list)

    def run(self, start_ns: int, end_ns: int) -> None:
        """Something ran; beyond `MAX_BUSY` the oldest is forgotten."""
        self.busy.append((start_ns, end_ns))
        if len(self.busy) > MAX_BUSY:
            self.busy = union(self.busy)[-MAX_BUSY // 4 :]

    def wait(self, plan: HookPlan, record: Record) -> None:
        """Keep a record until the keyed one that it belongs to; beyond `MAX_WAITING` the oldest are lost."""
        self.waiting.append((plan, record))
        if len(self.waiting) > MAX_WAITING:
            del self.waiting[: MAX_WAITING // 2]

    def claim(self, batch: OpenBatch, plan: HookPlan, record: Record) -> bool:
        """Add a keyed record and what it encloses to `batch`, and what came before it to the batch before.

        Returns whether something came too late for the batch before.
        """
        late = False
        if self.waiting:
            kept = []
            before = self.last
            for waiting_plan, waiting in self.waiting:
                if waiting[1] >= record[1]:
                    batch.add(self.process, waiting_plan, waiting)
                elif waiting_plan.hook.belongs != "enclosing":
                    kept.append((waiting_plan, waiting))
                elif before is not None:
                    before.add(self.process, waiting_plan, waiting)
                    late = late or before.done
            self.waiting = kept
        self.last = batch
        batch.add(self.process, plan, record)
        return late

    def open(self, batch: OpenBatch, record: Record) -> None:
        """Add to `batch` what waited for the next opening call, `record`. What ended long before the first
        stage, such as what was received while the engine could do nothing with it, is not part of it."""
        begin, kept = record[1], []
        for plan, waiting in reversed(self.waiting):
            if plan.hook.belongs != "next":
                kept.append((plan, waiting))
            elif waiting[2] >= begin - REACH_NS:
                batch.add(self.process, plan, waiting)
                if plan.hook.stage != "recv":
                    begin = min(begin, waiting[1])
        kept.reverse()
        self.waiting = kept

    def settle(self, batch: OpenBatch) -> None:
        """Add to `batch` what waited for the settling call."""
        kept = []
        for plan, waiting in self.waiting:
            if plan.hook.belongs == "settle":
                batch.add(self.process, plan, waiting)
            else:
                kept.append((plan, waiting))
        self.waiting = kept

    def take_enclosed(self, batch: OpenBatch, until_ns: int) -> None:
        """Add to `batch`, the last one, what waits as a part of it and began before `until_ns`."""
        kept = []
        for plan, record in self.waiting:
            if plan.hook.belongs == "enclosing" and record[1] < until_ns:
                batch.add(self.process, plan, record)
            else:
                kept.append((plan, record))
        self.waiting = kept

    def idle(self, record: Record) -> int:
        """Time of an idle record in which nothing ran, in ns. What waited for a batch has none."""
        start, end = record[1], record[2]
        inside = [span for span in self.busy if start <= span[0] and span[1] <= end]
        self.busy.clear()
        if self.waiting:
            since = max(start + 1, end - REACH_NS)
            self.waiting = [
                pair for pair in self.waiting if pair[0].hook.belongs != "next" or pair[1][2] >= since
            ]
        if inside:
            end -= sum(b - a for a, b in (union(inside) if len(inside) > 1 else inside))
        return max(0, end - start)

    def forget(self, record: Record, *, settles: bool = False) -> None:
        """A keyed record whose batch is not known: what it encloses has none either, and nothing after it
        belongs to the batch before.

        Args:
            settles: it is a settle, so what waited for one goes with it.
        """
        before, self.last = self.last, None
        kept = []
        for plan, waiting in self.waiting:
            if waiting[1] >= record[1]:
                continue
            if plan.hook.belongs == "enclosing":
                if before is not None:
                    before.add(self.process, plan, waiting)
            elif not (settles and plan.hook.belongs == "settle"):
                kept.append((plan, waiting))
        self.waiting = kept


def plan_values(plan: HookPlan, record: Record) -> dict[str, int]:
    """Values of a record by name, without the key and without those that are missing."""
    return {name: record[at] for name, at in plan.values if record[at] != agent.MISSING}
