"""Records as engines write them, and what an assembler makes of them, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from prismtop.model import Batch
from prismtop.probe import agent
from prismtop.sources.assemble import Assembler
from prismtop.sources.hook_code import HookPlan, plan_hook
from prismtop.sources.open_batch import Process
from prismtop.targets.expressions import compile_expression
from prismtop.targets.profile import BatchRule, Hook

US = 1000
CORE, WORKER, SECOND = 100, 200, 201
Record = tuple[int, ...]


def plan(fid: int, name: str, stage: str, values: Iterable[str] = (), **fields: str) -> HookPlan:
    """A hook that reads `values`, whatever they are."""
    read = {value: compile_expression("ret", where="test") for value in ("key", *values)}
    return plan_hook(
        fid,
        Hook(name, ("r",), "m", "C.f", stage=stage, exit=read, **fields),  # type: ignore[arg-type]
        boundary=False,
    )


PLANS = {
    p.hook.name: p
    for p in (
        plan(0, "schedule", "schedule", ("active", "tokens", "batch_size", "mode"), belongs="key"),
        plan(1, "execute", "launch", (), belongs="key"),
        plan(2, "result", "wait", (), belongs="settle"),
        plan(3, "update", "post", (), belongs="key"),
        plan(4, "idle", "idle", ()),
        plan(5, "recv", "recv", (), belongs="next"),
        plan(6, "inner", "prepare", ()),
        plan(7, "worker_execute", "launch", ("tokens",), per_batch="order"),
        plan(8, "worker_prepare", "prepare", ()),
        plan(9, "worker_sample", "sample", ()),
        plan(10, "worker_output", "wait", (), per_batch="order"),
        plan(11, "after", "stream", ()),
        plan(12, "load", "prepare", (), belongs="next"),
    )
}
KEYED = BatchRule("core", ("schedule",), ("execute",), ("update",), key=True)
FIFO = BatchRule("core", ("schedule",), ("execute",), ("update",), key=False, modes={"EXTEND": "prefill"})


def record(name: str, start: int, end: int, key: int | None = None, tid: int = 1, **values: int) -> Record:
    """One call from `start` to `end`, in microseconds."""
    made = PLANS[name]
    slots = [agent.MISSING] * 11
    if key is not None:
        slots[0] = key
    for value, number in values.items():
        slots[made.slots.index(value)] = number
    return (1, start * US, end * US, made.fid, tid, *slots, 1)


def process(pid: int, role: str, rank: int | None = None) -> Process:
    return Process(pid, role, rank, {p.fid: p for p in PLANS.values()})


def assembler(rule: BatchRule = KEYED, *followers: Process) -> Assembler:
    return Assembler("vllm", rule, process(CORE, "core"), followers, count().__next__)


def batches(made: Assembler, records: list[Record], **others: list[Record]) -> list[Batch]:
    """What comes of the core's records and those of the workers (`worker`, `second`)."""
    made.feed(CORE, records)
    for name, pid in (("worker", WORKER), ("second", SECOND)):
        if name in others:
            made.feed(pid, others[name])
    return made.take(10**15)


def stages(batch: Batch) -> dict[str, int]:
    """Stage name -> exclusive microseconds."""
    return {name: duration // US for name, duration in batch.stage_ns().items()}


def plain_turn(start: int, key: int, **values: int) -> list[Record]:
    """schedule 10, execute 50, update 10 us."""
    return [
        record("schedule", start, start + 10, key, active=1, **values),
        record("execute", start + 10, start + 60, key),
        record("update", start + 60, start + 70, key),
    ]


def worker_turn(start: int, tokens: int, *, tid: int = 9) -> list[Record]:
    """prepare 10 of an execution of 40, then 5 of sampling."""
    return [
        record("worker_prepare", start + 2, start + 12, tid=tid),
        record("worker_execute", start, start + 40, tid=tid, tokens=tokens),
        record("worker_sample", start + 41, start + 46, tid=tid),
    ]


def core_turn(start: int, key: int, tokens: int) -> list[Record]:
    """Launch by a message that takes 5 us, then wait for the worker."""
    return [
        record("schedule", start, start + 10, key, active=1, tokens=tokens),
        record("execute", start + 10, start + 15, key),
        record("result", start + 15, start + 70),
        record("update", start + 70, start + 80, key),
    ]
