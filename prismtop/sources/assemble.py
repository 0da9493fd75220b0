"""Assembles ring records of one engine instance into batches.

One process anchors: its `open` hook opens a batch, its `settle` hook closes it. Under overlapped scheduling
one turn of the engine's loop launches batch n and settles an older one, so records are put to the batch that
they belong to (by its key, or first in, first out) and never to the turn. Records of other processes
(workers, other ranks) follow by order: the n-th call of their `per_batch` hook belongs to the n-th launched
batch, checked by time and by what both sides counted. Ranks that run a scheduler each (SGLang) are assembled
one by one and joined in `prismtop.sources.ranks`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from prismtop.model import Batch, Origin
from prismtop.model.batch import new_batch
from prismtop.probe import agent
from prismtop.sources.hook_code import HookPlan
from prismtop.sources.open_batch import OpenBatch, Process, ThreadLine, plan_values
from prismtop.sources.ranks import rank_times
from prismtop.sources.requests import EVENT
from prismtop.sources.ring import Record
from prismtop.sources.stages import exclusive
from prismtop.sources.workload import tag, work_of
from prismtop.targets.profile import BatchRule

IDLE_GAP_NS = 1_000_000
LATE_NS = 25_000_000
"""How long a settled batch waits for records that are written later, in an engine that makes such."""
MAX_STRANGERS = 8
"""Settles in a row with the key of no launch, after which launches and settles are not matched by key."""
MAX_OPEN = 64
MAX_PENDING = 20_000
MAX_THREADS = 256
_IDLE, _OPENS, _SETTLES, _LAUNCHES, _KEYED, _WAITS = range(6)
"""What a record of the anchor process does."""


class Assembler:
    """Records in, batches out, for one anchor process and the processes that follow it.

    `number` gives each finished batch its sequence number. Not thread safe. `feed` takes records in ring
    order; `take` returns the batches that are complete.

    Attributes:
        leading: pids of followers whose launching call is hooked; may change.
        incomplete: batches that were given up.
    """

    def __init__(
        self,
        engine: str,
        rule: BatchRule,
        anchor: Process,
        followers: Sequence[Process] = (),
        number: Callable[[], int] = lambda: 0,
    ) -> None:
        self.engine = engine
        self._number = number
        self.anchor = anchor
        self.rule = rule
        self.followers = {process.pid: process for process in followers}
        self.incomplete = 0
        self._open: deque[OpenBatch] = deque()
        self._settled: deque[OpenBatch] = deque()
        self._lines: dict[tuple[int, int], ThreadLine] = {}
        self._idle_ns = 0
        self._last_settle: int | None = None
        self._after_loss = False
        self._late = False
        self._modes = {tag(name): mode for name, mode in rule.modes.items()}
        self._pending: dict[int, deque[tuple[HookPlan, Record]]] = {pid: deque() for pid in self.followers}
        self.leading = {process.pid for process in followers if leads(process.plans.values())}
        self._launch_keys = any(
            plan.hook.name in rule.launch and "key" in {*plan.hook.entry, *plan.hook.exit}
            for plan in anchor.plans.values()
        )
        self._strangers = 0
        self._read_to = 0
        # Of several workers one stands for all: the lowest rank.
        workers = [p for p in self.followers.values() if p.role != anchor.role]
        self._worker = min(workers, key=lambda p: (p.rank or 0, p.pid)).pid if workers else None

    @property
    def rule(self) -> BatchRule:
        """With the hooks that are in; may change."""
        return self._rule

    @rule.setter
    def rule(self, rule: BatchRule) -> None:
        self._rule = rule
        self._kinds = {fid: _kind(plan, rule) for fid, plan in self.anchor.plans.items()}
        self._idles = _IDLE in self._kinds.values()

    def feed(self, pid: int, records: Sequence[Record]) -> None:
        """Take the records that process `pid` wrote, in ring order. Request events are not looked at here."""
        if pid != self.anchor.pid:
            plans, keep = self.followers[pid].plans, self._pending[pid].append
            for record in records:
                plan = plans.get(record[3] & 0xFFFF)
                if plan is not None and not record[3] & EVENT:
                    keep((plan, record))
            return
        plans, kinds, lines, read_to = self.anchor.plans, self._kinds, self._lines, self._read_to
        for record in records:
            _, start, end, word, tid = record[:5]
            fid = word & 0xFFFF
            plan = plans.get(fid)
            if plan is None or word & EVENT:
                continue
            if end > read_to:
                self._read_to = read_to = end
            line = lines.get((pid, tid)) or self._line(self.anchor, tid)
            kind = kinds[fid]
            if kind == _IDLE:
                self._idle_ns += line.idle(record)
                continue
            if self._idles:
                line.run(start, end)
            if kind == _WAITS:
                line.wait(plan, record)
            else:
                self._anchor_record(kind, plan, record, line)

    def gap(self) -> None:
        """Records were lost: batches under way are given up and counted, settled ones are marked."""
        self.incomplete += len(self._open)
        for batch in self._settled:
            batch.suspect = batch.suspect or "records were lost"
        self._open.clear()
        self._lines.clear()
        for pending in self._pending.values():
            pending.clear()
        self._idle_ns = 0
        self._after_loss = True

    def take(self, until_ns: int) -> list[Batch]:
        """Batches that settled before `until_ns`, a time up to which every process's ring has been read."""
        for process in self.followers.values():
            self._follow(process)
        ready: list[Batch] = []
        while self._settled:
            batch = self._settled[0]
            settled = batch.settle_ns or 0
            if settled > until_ns or (self._late and until_ns < settled + LATE_NS and self._is_last(batch)):
                break
            ready.append(self._finish(self._settled.popleft()))
        return ready

    # -- the anchor process

    def _anchor_record(self, kind: int, plan: HookPlan, record: Record, line: ThreadLine) -> None:
        """A record that says to which batch it belongs."""
        if kind == _OPENS:
            self._opened(plan, record, line)
            return
        key = record[5]
        if kind == _SETTLES:
            batch = self._settling(key)
            if batch is None:
                line.forget(record, settles=True)
            else:
                self._settle(plan, record, line, batch)
            return
        batch = self._launching(key) if kind == _LAUNCHES else self._keyed(key)
        if batch is None:
            line.forget(record)
            return
        if kind == _LAUNCHES:
            batch.launch_ns = record[1]
            self._key_launch(batch, key)
        self._claim(line, batch, plan, record)

    def _line(self, process: Process, tid: int) -> ThreadLine:
        line = self._lines.get((process.pid, tid))
        if line is None:
            if len(self._lines) >= MAX_THREADS:
                self._lines.clear()
            line = self._lines[process.pid, tid] = ThreadLine(process)
        return line

    def _claim(self, line: ThreadLine, batch: OpenBatch, plan: HookPlan, record: Record) -> None:
        if line.claim(batch, plan, record):
            self._late = True

    def _key_launch(self, batch: OpenBatch, key: int) -> None:
        """A batch without a key may get one from its launch (SGLang: id of the result)."""
        if not self.rule.key:
            batch.key = key
            self._launch_keys = key != agent.MISSING and self._strangers <= MAX_STRANGERS

    def _opened(self, plan: HookPlan, record: Record, line: ThreadLine) -> None:
        rule = self.rule
        active = plan.active_at
        if record[3] >> 16 & agent.FLAG_RAISED or (active is not None and record[active] == 0):
            line.forget(record)
            return
        batch = OpenBatch(record[5] if rule.key else agent.MISSING, record[1])
        batch.idle_ns, self._idle_ns = self._idle_ns, 0
        if plan.hook.name in rule.launch:
            batch.launch_ns = record[1]
            self._key_launch(batch, record[5])
        if rule.key and rule.settle and record[5] != agent.MISSING:
            # An id comes again only after its object was freed: that batch never settled.
            self._give_up([stale for stale in self._open if stale.key == record[5]])
        if len(self._open) >= MAX_OPEN:
            self._give_up([self._open[0]])
        line.open(batch, record)
        self._claim(line, batch, plan, record)
        if not rule.settle and self._open:
            previous = self._open.popleft()
            previous.settle_ns = max((span.end_ns for span in previous.spans), default=record[1])
            self._close(previous)
        self._open.append(batch)

    def _settle(self, plan: HookPlan, record: Record, line: ThreadLine, batch: OpenBatch) -> None:
        if self._open[0] is not batch:
            self._give_up([older for older in self._open if older.opened_ns < batch.opened_ns])
        self._open.remove(batch)
        line.settle(batch)
        batch.settle_start_ns, batch.settle_ns = record[1], record[2]
        self._claim(line, batch, plan, record)
        self._close(batch)

    def _close(self, batch: OpenBatch) -> None:
        batch.after_loss, self._after_loss = self._after_loss, False
        self._settled.append(batch)

    def _give_up(self, batches: Sequence[OpenBatch]) -> None:
        """These will never settle: a record of them was not written."""
        for batch in batches:
            self._open.remove(batch)
            self.incomplete += 1
            self._after_loss = True

    def _keyed(self, key: int) -> OpenBatch | None:
        """The batch with this key; the oldest one where there is none to go by."""
        if key == agent.MISSING or not self.rule.key:
            return self._open[0] if self._open else None
        return next((batch for batch in self._open if batch.key == key), None)

    def _launching(self, key: int) -> OpenBatch | None:
        """The batch that a launch belongs to: with keys the one of its key, else the oldest not launched."""
        for batch in self._open:
            if batch.launch_ns is None and (
                not self.rule.key or key == agent.MISSING or batch.key in (key, agent.MISSING)
            ):
                return batch
        return None

    def _settling(self, key: int) -> OpenBatch | None:
        """The batch that a settle belongs to: the one with its key where both have one; else the oldest that
        was launched, or the oldest."""
        if key != agent.MISSING and (self.rule.key or self._launch_keys):
            found = next((batch for batch in self._open if batch.key == key), None)
            if found is not None or self.rule.key:
                self._strangers = 0
                return found
            self._strangers += 1
            if self._strangers <= MAX_STRANGERS:
                return None
            self._launch_keys = False  # results that are not what the launch returned (pipeline ranks)
        launched = (batch for batch in self._open if batch.launch_ns is not None)
        return next(launched, self._open[0] if self._open else None)

    def _is_last(self, batch: OpenBatch) -> bool:
        """Whether a thread's next record may still belong to this batch."""
        return any(line.last is batch for line in self._lines.values())

    # -- processes that follow

    def _follow(self, process: Process) -> None:
        """Work off what a following process wrote, in order, until a record whose batch is not known yet."""
        pending = self._pending[process.pid]
        while pending:
            plan, record = pending[0]
            line = self._line(process, record[4])
            if plan.hook.per_batch == "order":
                found = self._nth(process, plan, record)
                if found is None and len(pending) < MAX_PENDING:
                    return
                if isinstance(found, OpenBatch):
                    self._claim(line, found, plan, record)
                else:
                    line.forget(record)
            else:
                line.wait(plan, record)
            pending.popleft()

    def _nth(self, process: Process, plan: HookPlan, record: Record) -> OpenBatch | bool | None:
        """The batch of an ordered call; False: none; None: not known yet.

        The first batch that had no such call, was launched before the call began and had not settled by then;
        both sides counted the same tokens. In a process whose launch is seen, a later stage (the wait for the
        device, on a thread of its own) comes after that launch: the core may be ahead by one batch.
        """
        mark = (process.pid, plan.fid)
        leading = leads((plan,))
        follows = not leading and process.pid in self.leading
        mine = plan_values(plan, record).get("tokens")
        for batch in (*self._settled, *self._open):
            if mark in batch.followed:
                continue
            begun = batch.launch_ns if self.rule.launch else batch.opened_ns
            if begun is None:
                if batch.settle_ns is not None:
                    continue
                return False if record[2] < batch.opened_ns else None
            if begun > record[1]:
                return False
            if batch.settle_start_ns is not None and batch.settle_start_ns < record[1]:
                continue
            if follows:
                led = batch.led.get(process.pid)
                if led is None:
                    continue
                if record[1] < led:
                    return False
            theirs = batch.values.get("tokens")
            if mine is not None and theirs is not None and mine != theirs:
                continue
            batch.followed.add(mark)
            if leading:
                batch.led[process.pid] = record[2]
            return batch
        return None if record[1] > self._read_to else False

    # -- a finished batch

    def _finish(self, batch: OpenBatch) -> Batch:
        settle = batch.settle_ns or 0
        batch.done = True
        for line in self._lines.values():
            if line.waiting and line.last is batch:
                line.take_enclosed(batch, settle)
        stages = exclusive(batch.spans, self.anchor.pid, self._worker)
        start, end = batch.opened_ns, settle
        if stages:
            start = min([stage.start_ns for stage in stages])
            end = max([stage.start_ns + stage.span_ns for stage in stages])
        period = None
        if self._last_settle is not None and batch.idle_ns < IDLE_GAP_NS and not batch.after_loss:
            period = settle - self._last_settle
        self._last_settle = settle
        workload, mode = work_of(batch.values, batch.capped, self._modes)
        return new_batch(
            pid=self.anchor.pid,
            engine=self.engine,
            seq=self._number(),
            start_ns=start,
            duration_ns=max(0, end - start),
            period_ns=period,
            mode=mode,
            stages=stages,
            workload=workload,
            origin=Origin.EXACT,
            rank=self.anchor.rank,
            ranks=rank_times((self.anchor, *self.followers.values()), stages) if self.followers else (),
            idle_ns=batch.idle_ns,
            suspect=batch.suspect,
        )


def _kind(plan: HookPlan, rule: BatchRule) -> int:
    hook = plan.hook
    if hook.stage == "idle":
        return _IDLE
    for kind, names in ((_OPENS, rule.open), (_SETTLES, rule.settle), (_LAUNCHES, rule.launch)):
        if hook.name in names:
            return kind
    return _KEYED if hook.belongs == "key" else _WAITS


def leads(plans: Iterable[HookPlan]) -> bool:
    """Whether one of them marks where a worker begins a batch: other calls of that batch come after it."""
    return any(plan.hook.per_batch == "order" and plan.hook.stage == "launch" for plan in plans)
