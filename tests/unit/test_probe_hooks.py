"""The probe's hooks, installed in this very process, for every mechanism that this Python has."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from prismtop.probe import agent
from prismtop.sources.hook_code import HookPlan, plan_hook, source, spec
from prismtop.sources.requests import EVENT, events_of
from prismtop.sources.ring import Record, Ring, find_ring
from prismtop.targets.expressions import compile_expression
from prismtop.targets.profile import Event, Hook

MECHANISMS = (["monitoring"] if hasattr(sys, "monitoring") else []) + ["setattr", "code"]


def decorate(f: Any) -> Any:
    @functools.wraps(f)
    def outer(*a: Any, **k: Any) -> Any:
        return f(*a, **k)

    return outer


ENGINE_SOURCE = """
import asyncio, time

class Batch:
    def __init__(self, n):
        self.reqs = list(range(n)); self.mode = "DECODE"

class Base:
    def inherited(self, n):
        return n + 1

class Engine(Base):
    def __init__(self):
        self.captured = self.step
        self.count = 0
    def step(self, batch, *, flag=None):
        self.count += 1
        return batch
    @decorate
    def decorated(self, n):
        return n * 2
    @staticmethod
    def static(n):
        return n
    @classmethod
    def of_class(cls, n):
        return cls.__name__ + str(n)
    def failing(self):
        raise ValueError("mine")
    async def coroutine(self, n):
        time.sleep(0.002)
        await asyncio.sleep(0.05)
        return n
    def generator(self, n):
        for i in range(n):
            got = yield i
        return "end"
    def closing(self):
        return __class__.__name__
    def nothing(self):
        return None
"""


@pytest.fixture
def engine() -> Iterator[types.ModuleType]:
    """A throw-away engine module."""
    module = types.ModuleType("prismtop_test_engine")
    module.decorate = decorate  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    exec(ENGINE_SOURCE, module.__dict__)
    yield module
    del sys.modules[module.__name__]


def hook(qualname: str, kind: str = "method", **fields: Any) -> Hook:
    for at in ("entry", "exit"):
        if at in fields:
            fields[at] = {n: compile_expression(t, where="test") for n, t in fields[at].items()}
    return Hook(
        name=qualname.rsplit(".", 1)[-1],
        roles=("engine",),
        module="prismtop_test_engine",
        qualname=qualname,
        kind=kind,
        stage="launch",
        **fields,
    )


class Probe:
    """An agent in this process with its ring open for reading."""

    def __init__(self, hooks: list[Hook], mechanism: str, roles: str = "", **config: Any) -> None:
        """`roles`: for each hook e when it ends a batch, o when it opens one, - for none of it."""
        self.plans: list[HookPlan] = [
            plan_hook(n, h, boundary=role == "e", stands_in=role == "o")
            for n, (h, role) in enumerate(zip(hooks, roles or "e" * len(hooks), strict=True))
        ]
        scope: dict[str, Any] = dict(vars(agent))
        exec(compile(source(self.plans), "<prismtop>", "exec"), scope)
        settings = {
            "nonce": f"test{time.monotonic_ns()}",
            "capacity": 1024,
            "lease_ns": 10**10,
            "monitor": 1,
            "namespace": 0,
            "mechanisms": [mechanism],
            "hooks": [spec(plan) for plan in self.plans],
            "order": list(range(len(self.plans))),
            "first": len(self.plans),
            **config,
        }
        agent.start(settings, scope["BUILDERS"])
        path = find_ring(__import__("os").getpid(), str(settings["nonce"]))
        assert path is not None
        self.ring = Ring(path)
        self.status = self.ring.status()

    def records(self) -> list[Record]:
        return [r for r in self.ring.read() if r[3] & 0xFFFF != agent.DUMMY]

    def values(self, record: Record) -> dict[str, int]:
        plan = self.plans[record[3] & 0xFFFF]
        return {n: record[5 + i] for i, n in enumerate(plan.slots) if record[5 + i] != agent.MISSING}


@pytest.fixture
def probe() -> Iterator[Any]:
    """Makes probes and takes them out again."""
    yield Probe
    module = sys.modules.get(agent.MODULE)
    if module is not None:
        module.AGENT.detach()


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> str:
    """Each way of hooking that this Python has."""
    return str(request.param)


def test_a_call_makes_a_record_with_its_values(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe(
        [hook("Engine.step", exit={"key": "id(ret)", "batch_size": "len(batch.reqs)", "mode": "ret.mode"})],
        mechanism,
    )
    batch = engine.Batch(5)
    engine.Engine().step(batch, flag=1)
    (record,) = p.records()
    assert p.values(record) == {
        "key": id(batch),
        "batch_size": 5,
        "mode": int.from_bytes(b"DECODE", "little"),
    }


def test_the_status_names_the_mechanism(engine: Any, probe: Any, mechanism: str) -> None:
    assert probe([hook("Engine.step")], mechanism).status.hooks == {0: (mechanism, "")}


def test_entry_values_are_read_before_the_call(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe(
        [hook("Engine.step", entry={"running": "self.count"}, exit={"waiting": "self.count"})], mechanism
    )
    engine.Engine().step(engine.Batch(1))
    assert p.values(p.records()[0]) == {"running": 0, "waiting": 1}


def test_an_argument_given_by_keyword_is_found(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step", exit={"tokens": "flag", "batch_size": "len(batch.reqs)"})], mechanism)
    engine.Engine().step(batch=engine.Batch(3), flag=7)
    assert p.values(p.records()[0]) == {"tokens": 7, "batch_size": 3}


def test_a_value_that_cannot_be_read_is_missing_with_its_reason(
    engine: Any, probe: Any, mechanism: str
) -> None:
    p = probe([hook("Engine.step", exit={"tokens": "ret.absent", "batch_size": "len(ret.reqs)"})], mechanism)
    engine.Engine().step(engine.Batch(2))
    assert p.values(p.records()[0]) == {"batch_size": 2}
    assert "absent" in p.ring.status().bad[(0, "tokens")]


def test_none_is_missing_without_a_reason(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.nothing", exit={"tokens": "ret"})], mechanism)
    engine.Engine().nothing()
    assert (p.values(p.records()[0]), p.ring.status().bad) == ({}, {})


def test_a_sum_that_is_no_integer_is_written_as_one(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step", exit={"tokens": "sum(r * 0.5 for r in batch.reqs)"})], mechanism)
    engine.Engine().step(engine.Batch(4))
    engine.Engine().step(engine.Batch(2))
    assert [p.values(record)["tokens"] for record in p.records()] == [3, 0]


def test_a_value_beyond_64_bits_is_missing(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe(
        [
            hook(
                "Engine.step",
                exit={"tokens": "len(batch.reqs) * 4611686018427387904", "batch_size": "len(batch.reqs)"},
            )
        ],
        mechanism,
    )
    engine.Engine().step(engine.Batch(4))
    assert p.values(p.records()[0]) == {"batch_size": 4}


@pytest.mark.parametrize("way", ["monitoring", "code"])
def test_a_bound_method_captured_at_start_is_reached(engine: Any, probe: Any, way: str) -> None:
    if way not in MECHANISMS:
        pytest.skip("sys.monitoring needs Python 3.12")
    e = engine.Engine()
    p = probe([hook("Engine.step", binding="captured")], way)
    e.captured(engine.Batch(1))
    assert len(p.records()) == 1


def test_a_captured_method_is_refused_for_attribute_wrapping(engine: Any, probe: Any) -> None:
    p = probe([hook("Engine.step", binding="captured")], "setattr")
    assert p.status.hooks == {0: ("", "captured at start: setting the attribute would not reach it")}


def test_a_decorated_function_is_hooked_inside(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.decorated", exit={"tokens": "ret", "batch_size": "n"})], mechanism)
    assert engine.Engine().decorated(4) == 8
    assert p.values(p.records()[0]) == {"tokens": 8, "batch_size": 4}


@pytest.mark.parametrize(
    ("name", "kind", "result"), [("static", "staticmethod", 3), ("of_class", "classmethod", "Engine3")]
)
def test_static_and_class_methods_keep_working(
    engine: Any, probe: Any, mechanism: str, name: str, kind: str, result: object
) -> None:
    p = probe([hook(f"Engine.{name}", kind, exit={"tokens": "n"})], mechanism)
    assert getattr(engine.Engine, name)(3) == result
    assert p.values(p.records()[0]) == {"tokens": 3}


def test_an_inherited_method_is_hooked_where_it_is_defined(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.inherited")], mechanism)
    engine.Engine().inherited(1)
    assert len(p.records()) == 1
    assert "inherited" not in vars(engine.Engine)


def test_a_function_with_a_closure_cell_can_be_hooked(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.closing")], mechanism)
    assert engine.Engine().closing() == "Engine"
    assert len(p.records()) == 1


def test_an_exception_passes_unchanged(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.failing")], mechanism)
    with pytest.raises(ValueError, match="mine"):
        engine.Engine().failing()
    flags = [r[3] >> 16 for r in p.records()]
    assert flags == ([] if mechanism == "monitoring" else [agent.FLAG_RAISED])


def test_a_coroutine_is_timed_without_its_suspended_time(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.coroutine", "async_method", exit={"tokens": "n"})], mechanism)
    assert asyncio.run(engine.Engine().coroutine(9)) == 9
    (record,) = p.records()
    assert p.values(record)["tokens"] == 9
    assert record[15] >= 45_000_000
    assert 1_500_000 <= record[2] - record[1] - record[15] < 40_000_000


def test_a_generator_is_timed_without_its_consumer(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.generator", "generator")], mechanism)
    seen = []
    for i in engine.Engine().generator(3):
        time.sleep(0.01)
        seen.append(i)
    assert seen == [0, 1, 2]
    (record,) = p.records()
    assert record[15] >= 28_000_000


def test_a_generator_closed_early_leaves_the_target_alone(engine: Any, probe: Any, mechanism: str) -> None:
    probe([hook("Engine.generator", "generator")], mechanism)
    g = engine.Engine().generator(3)
    assert next(g) == 0
    g.close()
    with pytest.raises(StopIteration):
        next(g)


def test_a_coroutine_stays_one(engine: Any, probe: Any, mechanism: str) -> None:
    import inspect

    probe([hook("Engine.coroutine", "async_method")], mechanism)
    assert inspect.iscoroutinefunction(engine.Engine.coroutine)


def test_an_inactive_call_writes_no_record(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step", exit={"active": "len(batch.reqs)"})], mechanism)
    e = engine.Engine()
    e.step(engine.Batch(0))
    e.step(engine.Batch(2))
    assert [p.values(r)["active"] for r in p.records()] == [2]


def test_request_events_travel_three_to_a_record(engine: Any, probe: Any, mechanism: str) -> None:
    each = compile_expression("((i + 100, 5, 6) for i in batch.reqs)", where="test")
    p = probe([hook("Engine.step", events=(Event("exit", "finish", each),))], mechanism)
    engine.Engine().step(engine.Batch(4))
    records = p.records()
    events = [e for r in records if r[3] & EVENT for e in events_of(r)]
    assert [(e.kind, e.id, e.a, e.b) for e in events] == [("finish", 100 + i, 5, 6) for i in range(4)]
    assert sum(not r[3] & EVENT for r in records) == 1


def test_more_requests_than_the_cap_are_flagged(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe(
        [hook("Engine.step", exit={"tokens": "sum(1 for r in batch.reqs)", "batch_size": "len(batch.reqs)"})],
        mechanism,
    )
    engine.Engine().step(engine.Batch(agent.CAP + 88))
    (record,) = p.records()
    assert record[3] >> 16 & agent.FLAG_CAPPED
    assert p.values(record) == {"tokens": agent.CAP, "batch_size": agent.CAP + 88}


def test_values_cut_at_entry_are_flagged_too(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step", entry={"tokens": "sum(1 for r in batch.reqs)"})], mechanism)
    e = engine.Engine()
    e.step(engine.Batch(agent.CAP + 1))
    e.step(engine.Batch(1))
    assert [record[3] >> 16 & agent.FLAG_CAPPED for record in p.records()] == [agent.FLAG_CAPPED, 0]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"module": "absent_module"}, "module not loaded"),
        ({"qualname": "Engine.absent"}, "no Engine.absent in prismtop_test_engine"),
        ({"qualname": "Absent.step"}, "no Absent in prismtop_test_engine"),
        ({"kind": "async_method"}, "is not a coroutine or generator here"),
    ],
)
def test_a_hook_that_does_not_resolve_says_why(
    engine: Any, probe: Any, mechanism: str, changed: dict[str, str], reason: str
) -> None:
    from dataclasses import replace

    p = probe([replace(hook("Engine.step"), **changed)], mechanism)
    assert p.status.hooks == {0: ("", reason)}


def test_an_expression_over_an_unknown_parameter_is_refused(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step", exit={"tokens": "scheduler_output.n"})], mechanism)
    assert p.status.hooks == {0: ("", "no parameter scheduler_output")}


@pytest.mark.parametrize("place", [None, object(), 3])
def test_a_hook_in_something_that_has_no_names_says_why(
    engine: Any, probe: Any, mechanism: str, place: Any
) -> None:
    engine.Missing = place
    p = probe([hook("Missing.step"), hook("Engine.step")], mechanism)
    assert p.status.hooks == {0: ("", "no Missing.step in prismtop_test_engine"), 1: (mechanism, "")}


@pytest.mark.parametrize("first", [0, 2])
def test_a_probe_that_cannot_be_built_leaves_nothing(
    engine: Any, probe: Any, mechanism: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("the test's")

    before, descriptors = engine.Engine.__dict__["step"], set(os.listdir("/proc/self/fd"))
    code = before.__code__
    monkeypatch.setattr(agent.Agent, "advance", fails)
    with pytest.raises(RuntimeError):
        probe([hook("Engine.step"), hook("Engine.failing")], mechanism, first=first)
    assert engine.Engine.__dict__["step"] is before
    assert before.__code__ is code
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert agent.MODULE not in sys.modules


def test_detach_restores_every_attribute(engine: Any, probe: Any, mechanism: str) -> None:
    before = {n: (v, getattr(v, "__code__", None)) for n, v in vars(engine.Engine).items()}
    kinds = [
        ("step", "method"),
        ("static", "staticmethod"),
        ("of_class", "classmethod"),
        ("coroutine", "async_method"),
    ]
    p = probe([hook(f"Engine.{n}", k) for n, k in kinds], mechanism)
    sys.modules[agent.MODULE].AGENT.detach()
    after = {n: (v, getattr(v, "__code__", None)) for n, v in vars(engine.Engine).items()}
    assert after == before
    assert p.ring.state == agent.DETACHED
    engine.Engine().step(engine.Batch(1))
    assert p.records() == []


def test_a_function_wrapped_over_by_someone_else_is_left_and_reported(engine: Any, probe: Any) -> None:
    p = probe([hook("Engine.step")], "setattr")
    ours = engine.Engine.step
    engine.Engine.step = lambda self, b: ours(self, b)
    sys.modules[agent.MODULE].AGENT.detach()
    assert p.ring.status().left == ("Engine.step: wrapped by someone else, left as a pass-through",)
    assert engine.Engine().step(engine.Batch(1)) is not None
    assert p.records() == []


def test_the_mailbox_detaches_at_a_boundary(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step")], mechanism)
    number = p.ring.command(agent.OP_DETACH)
    assert p.ring.state == agent.RUNNING
    engine.Engine().step(engine.Batch(1))
    assert (p.ring.state, p.ring.acknowledged) == (agent.DETACHED, number)


OPEN_AND_END = ("Engine.inherited", "Engine.step")


@pytest.mark.parametrize("end", ["Engine.renamed", "Engine.nothing"])
def test_where_no_batch_ends_its_opening_looks_at_mailbox_and_lease(
    engine: Any, probe: Any, mechanism: str, end: str
) -> None:
    """Of two releases, one in which the hook is not found, and one in which it is never called."""
    p = probe([hook("Engine.inherited"), hook(end)], mechanism, "oe")
    number = p.ring.command(agent.OP_DETACH)
    for _ in range(agent.PATIENCE):
        engine.Engine().inherited(1)
    assert p.ring.state == agent.RUNNING
    engine.Engine().inherited(1)
    assert (p.ring.state, p.ring.acknowledged) == (agent.DETACHED, number)


def test_an_opening_that_stands_in_measures_too(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.inherited"), hook("Engine.renamed")], mechanism, "oe")
    for _ in range(agent.PATIENCE + agent.SAMPLE * agent.SAMPLES + 1):
        engine.Engine().inherited(1)
    assert p.ring.boundary_ns > 0
    assert p.ring.call_ns(0, p.ring.status()) > 50


def test_an_opening_does_not_look_while_batches_end(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook(name) for name in OPEN_AND_END], mechanism, "oe")
    e = engine.Engine()
    for _ in range(3 * agent.PATIENCE):
        e.inherited(1)
        e.step(engine.Batch(1))
    number = p.ring.command(agent.OP_DETACH)
    e.inherited(1)
    assert p.ring.state == agent.RUNNING
    e.step(engine.Batch(1))
    assert (p.ring.state, p.ring.acknowledged) == (agent.DETACHED, number)


def test_an_opening_of_no_batch_does_not_stand_in(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.inherited", entry={"active": "0"}), hook("Engine.renamed")], mechanism, "oe")
    p.ring.command(agent.OP_DETACH)
    for _ in range(agent.PATIENCE + 1):
        engine.Engine().inherited(1)
    assert p.ring.state == agent.RUNNING


def test_hooks_that_nothing_could_take_out_again_are_not_left_in(
    engine: Any, probe: Any, mechanism: str
) -> None:
    before = dict(vars(engine.Engine))
    names = ("Engine.renamed", "Engine.gone", "Engine.step", "Engine.inherited")
    p = probe([hook(name) for name in names], mechanism, "eo--", first=3)
    assert dict(vars(engine.Engine)) == before
    e = engine.Engine()
    e.step(engine.Batch(1))
    e.inherited(1)
    assert p.records() == []
    left_out = ("", "left out: no hook is in that could take the probe out again")
    why = [("", "no Engine.renamed in prismtop_test_engine"), ("", "no Engine.gone in prismtop_test_engine")]
    assert p.ring.status().hooks == dict(enumerate([*why, left_out, left_out]))


def test_the_mailbox_drops_and_restores_hooks(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step"), hook("Engine.inherited")], mechanism)
    e = engine.Engine()
    p.ring.command(agent.OP_HOOKS, 0b01)
    e.step(engine.Batch(1))
    p.records()
    e.inherited(1)
    assert p.records() == []
    assert p.ring.status().hooks[1] == ("", "dropped")
    p.ring.command(agent.OP_HOOKS, 0b11)
    e.step(engine.Batch(1))
    p.records()
    e.inherited(1)
    assert len(p.records()) == 1


def test_the_probe_removes_itself_when_its_lease_runs_out(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step")], mechanism, lease_ns=20_000_000)
    time.sleep(0.03)
    engine.Engine().step(engine.Batch(1))
    assert p.ring.state == agent.LEASE_EXPIRED


def test_a_heartbeat_keeps_the_probe(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step")], mechanism, lease_ns=200_000_000)
    for _ in range(4):
        time.sleep(0.1)
        p.ring.beat()
        engine.Engine().step(engine.Batch(1))
    assert p.ring.state == agent.RUNNING


def test_a_second_monitor_is_refused_while_the_first_lives(engine: Any, probe: Any, mechanism: str) -> None:
    probe([hook("Engine.step")], mechanism)
    with pytest.raises(RuntimeError, match="busy: watched by another prismtop, pid 1"):
        probe([hook("Engine.step")], mechanism)


def test_a_second_monitor_replaces_a_dead_one(engine: Any, probe: Any, mechanism: str) -> None:
    first = probe([hook("Engine.step")], mechanism, lease_ns=1)
    second = probe([hook("Engine.step")], mechanism)
    engine.Engine().step(engine.Batch(1))
    assert first.ring.state == agent.LEASE_EXPIRED
    assert len(second.records()) == 1


def test_one_fork_callback_serves_every_attach(engine: Any, probe: Any, mechanism: str) -> None:
    probe([hook("Engine.step")], mechanism)
    holder = sys.modules[agent.FORK_MODULE]
    sys.modules[agent.MODULE].AGENT.detach()
    probe([hook("Engine.step")], mechanism)
    assert sys.modules[agent.FORK_MODULE] is holder


def test_an_overrun_is_counted_as_lost(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step")], mechanism)
    e, b = engine.Engine(), engine.Batch(1)
    before = sum(1 for _ in p.ring.read())
    for _ in range(3000):
        e.step(b)
    got = list(p.ring.read())
    assert p.ring.lost > 1000
    assert before + len(got) + p.ring.lost == got[-1][0]
    assert got[-1][0] == got[0][0] + len(got) - 1


def test_the_probe_measures_its_own_cost(engine: Any, probe: Any, mechanism: str) -> None:
    p = probe([hook("Engine.step", exit={"batch_size": "len(batch.reqs)"})], mechanism)
    e, b = engine.Engine(), engine.Batch(1)
    for _ in range(agent.SAMPLE * agent.SAMPLES + 1):
        e.step(b)
    assert 50 < p.ring.call_ns(0, p.ring.status()) < 100_000


def test_hooks_that_take_too_long_to_put_in_wait_for_the_next_boundaries(
    engine: Any, probe: Any, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = agent.Hook.install

    def slow(self: Any, mechanisms: Any) -> None:
        time.sleep(agent.SETUP_NS / 1e9)
        real(self, mechanisms)

    monkeypatch.setattr(agent.Hook, "install", slow)
    p = probe([hook("Engine.step"), hook("Engine.inherited")], mechanism, first=1)
    assert (p.status.todo, p.status.hooks[1]) == (1, ("", ""))
    for _ in range(3):
        engine.Engine().step(engine.Batch(1))
    assert (p.ring.status().todo, p.ring.status().hooks[1]) == (0, (mechanism, ""))
