"""From what probes write to ticks: replicas, ranks, lost records, processes that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.model import AttachState, HookStatus, ProbeCost, ProcessId, Target
from prismtop.probe import agent
from prismtop.sources.hook_code import EVENT_KINDS, HookPlan
from prismtop.sources.live import PARTIAL, AttachOptions, LiveSource, plans_for
from prismtop.sources.probe_cost import PERIOD_NS, CostMeter
from prismtop.sources.probe_link import cuts_in
from prismtop.sources.replica import by_replica, followers_of
from prismtop.sources.ring import ProbeStatus, Record
from prismtop.targets.profile import BatchRule, Hook, Profile
from tests.factories import make_group, make_target
from tests.unit.engine_records import KEYED, PLANS, US, core_turn, plain_turn, worker_turn

CORE, WORKER, PEER = 100, 200, 101
ALL_IN = ProbeStatus(hooks=dict.fromkeys(range(20), ("code", "")), complete_ns=0)


class FakeLink:
    """A probe whose records are given."""

    def __init__(self, pid: int, role: str = "core", **target: Any) -> None:
        self.target: Target = make_target(pid, role=role, **target)
        self.pid = pid
        self.plans: dict[int, HookPlan] = {plan.fid: plan for plan in PLANS.values()}
        self.status = ALL_IN
        self.state = "live"
        self.warnings: list[str] = []
        self.cuts: tuple[int, ...] = ()
        self.lost = self.torn = self.version = 0
        self.next: list[Record] = []
        self.dropped: set[str] = set()
        self.spent: list[int] = []
        self.detached = False

    def poll(self, now_ns: int) -> list[Record]:
        read, self.next = self.next, []
        return read

    def installed(self, name: str) -> bool:
        return name not in self.dropped

    def installed_plans(self) -> Iterator[HookPlan]:
        return (plan for plan in self.plans.values() if plan.hook.name not in self.dropped)

    def hooks(self) -> tuple[HookStatus, ...]:
        return tuple(HookStatus(name, "", self.pid, "", "gone") for name in sorted(self.dropped))

    def cost(self) -> ProbeCost:
        return ProbeCost(self.pid)

    def spend(self, now_ns: int, busy_ns: int) -> None:
        self.spent.append(busy_ns)

    def ask_detach(self) -> None:
        self.detached = True

    def finish_detach(self) -> tuple[str, ...]:
        return (f"{self.pid} is out",)


PROFILE = Profile("demo", "Demo", (), (), (), (), batch=KEYED)


def live(*links: FakeLink, rule: Any = KEYED) -> LiveSource:
    group = make_group(*(link.target for link in links), engine="demo")
    return LiveSource(group, PROFILE, rule, links, AttachOptions(metrics=False))  # type: ignore[arg-type]


def seqs(source: LiveSource) -> list[tuple[int, int]]:
    """(pid, seq) of the next tick's batches."""
    return [(batch.pid, batch.seq) for batch in source.poll().batches]


def event(kind: str, id: int, at: int) -> Record:
    """One request event."""
    word = PLANS["update"].fid | (agent.FLAG_EVENT | EVENT_KINDS[kind] << 4) << 16
    return (1, at * US, at * US, word, 1, id, 0, 0, *[agent.MISSING] * 6, 1, agent.MISSING, 1)


# -- ticks


def test_a_tick_has_the_batches_since_the_last() -> None:
    core = FakeLink(CORE)
    source = live(core)
    core.next = plain_turn(0, 1)
    assert (seqs(source), seqs(source)) == ([(CORE, 0)], [])


def test_batches_of_replicas_are_numbered_together_in_order_of_their_end() -> None:
    one, two = (FakeLink(pid, ranks=(("DP", n),)) for n, pid in enumerate((CORE, PEER)))
    source = live(one, two)
    one.next, two.next = plain_turn(500, 1), plain_turn(0, 1)
    assert [batch.pid for batch in source.poll().batches] == [PEER, CORE]


def test_a_workers_records_read_a_tick_earlier_join_the_batch() -> None:
    core, worker = FakeLink(CORE), FakeLink(WORKER, "worker")
    source = live(core, worker)
    worker.next = worker_turn(20, 8)
    source.poll()
    core.next = core_turn(0, 1, 8)
    (batch,) = source.poll().batches
    assert {stage.pid for stage in batch.stages} == {CORE, WORKER}


def test_batches_that_began_before_the_last_hook_was_in_say_so() -> None:
    core = FakeLink(CORE)
    core.status = replace(ALL_IN, complete_ns=50 * US)
    source = live(core)
    core.next = [*plain_turn(0, 1), *plain_turn(100, 2)]
    assert [batch.suspect for batch in source.poll().batches] == [PARTIAL, ""]


def test_warnings_of_probes_come_once() -> None:
    core = FakeLink(CORE)
    core.warnings.append("look")
    source = live(core)
    assert (source.poll().warnings, source.poll().warnings) == (("look",), ())


def test_an_engine_whose_opening_hook_is_not_in_says_why_there_are_no_batches() -> None:
    core = FakeLink(CORE)
    core.dropped.add("schedule")
    (warning,) = live(core).poll().warnings
    assert warning == f"process {CORE}: no hook opens a batch (gone), so no batch can be shown"


def test_an_engine_whose_ending_hook_is_not_in_says_so_once() -> None:
    core = FakeLink(CORE)
    core.dropped.add("update")
    source = live(core)
    (warning,) = source.poll().warnings
    assert warning == f"process {CORE}: no hook ends a batch (gone), so one ends where the next begins"
    core.version += 1
    assert source.poll().warnings == ()


def test_a_launch_that_is_dropped_is_not_waited_for() -> None:
    core, worker = FakeLink(CORE), FakeLink(WORKER, "worker")
    source = live(core, worker)
    source.poll()
    core.dropped.add("execute")
    core.version += 1
    core.next = [r for r in core_turn(0, 1, 8) if r[3] != PLANS["execute"].fid]
    worker.next = worker_turn(20, 8)
    (batch,) = source.poll().batches
    assert WORKER in {stage.pid for stage in batch.stages}


# -- lost records


def test_records_lost_inside_one_read_cut_the_batches_there() -> None:
    core = FakeLink(CORE)
    source = live(core)
    core.next, core.cuts = [*plain_turn(0, 1)[:2], *plain_turn(100, 1)[2:], *plain_turn(200, 3)], (2,)
    tick = source.poll()
    assert ([batch.start_ns for batch in tick.batches], tick.lost.batches) == ([200 * US], 1)


@pytest.mark.parametrize(
    ("numbers", "last", "cuts"),
    [([1, 2, 3], 0, ()), ([5, 6], 3, (0,)), ([1, 2, 9, 10], 0, (2,)), ([3, 7, 9], 2, (1, 2)), ([], 4, ())],
)
def test_cuts_are_where_numbers_jump(numbers: list[int], last: int, cuts: tuple[int, ...]) -> None:
    assert cuts_in([(n, 0, 0, 1) for n in numbers], last) == cuts


def test_calls_of_the_dummy_take_no_place() -> None:
    assert cuts_in([(1, 0, 0, agent.DUMMY), (2, 0, 0, 1), (9, 0, 0, 1)], 0) == (1,)


# -- processes that come and go


def test_the_last_batches_of_a_process_that_ended_are_kept() -> None:
    core = FakeLink(CORE)
    source = live(core)
    source.poll()
    core.next, core.state = [*plain_turn(0, 1), *plain_turn(100, 2)[:2]], "exited"
    tick = source.poll()
    assert (tick.state, len(tick.batches), tick.lost.batches) == (AttachState.GONE, 1, 1)


def test_an_armed_probe_that_comes_to_life_is_read_from_its_first_record() -> None:
    core = FakeLink(CORE)
    core.state = "armed"
    source = live(core)
    assert source.poll().state is AttachState.ARMED
    core.state, core.next = "live", plain_turn(0, 1)
    assert seqs(source) == [(CORE, 0)]


def test_closing_detaches_every_process_once() -> None:
    links = [FakeLink(CORE), FakeLink(WORKER, "worker")]
    source = live(*links)
    assert (source.close(), source.close()) == ((f"{CORE} is out", f"{WORKER} is out"), ())


# -- requests


def test_probes_are_taken_out_again_where_nobody_comes_to_own_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import prismtop.sources.live as module

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    link = FakeLink(CORE)
    monkeypatch.setattr(module, "preflight", lambda *_, **__: SimpleNamespace(refusal=lambda: None))
    monkeypatch.setattr(module, "_link", lambda *_: link)
    monkeypatch.setattr(module, "attach_all", lambda *_: None)
    monkeypatch.setattr(module, "LiveSource", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.attach(make_group(), PROFILE)
    assert link.detached


def test_a_request_that_every_rank_reports_counts_once() -> None:
    """Each rank's process hashes the id with a seed of its own."""
    ranks = [FakeLink(pid, ranks=(("TP", n),)) for n, pid in enumerate((CORE, PEER))]
    source = live(*ranks)
    for n, link in enumerate(ranks):
        link.next = [event("arrival", 7 + n, 0), event("first_token", 7 + n, 10), event("finish", 7 + n, 20)]
    tick = source.poll()
    assert (len(tick.first_tokens), len(tick.requests)) == (1, 1)


# -- which processes belong together


def names(links: Any) -> list[int]:
    return [link.pid for link in links]


def test_tensor_ranks_of_one_replica_have_one_lead() -> None:
    links = [FakeLink(10 + n, ranks=(("DP", n // 2), ("TP", n % 2))) for n in range(4)]
    made = by_replica(links[::-1])  # type: ignore[arg-type]
    assert sorted((lead.pid, names(peers)) for lead, peers in made) == [(10, [11]), (12, [13])]


def test_engines_without_ranks_are_replicas_of_their_own() -> None:
    assert len(by_replica([FakeLink(1), FakeLink(2)])) == 2  # type: ignore[list-item]


def test_workers_follow_the_core_that_started_them() -> None:
    cores = [FakeLink(1), FakeLink(2)]
    workers = [FakeLink(10 + n, "worker", parent=ProcessId(n + 1, 1000 + n + 1)) for n in range(2)]
    assert names(followers_of(cores[1], cores, [*cores, *workers], "core")) == [11]  # type: ignore[arg-type]


# -- what the probes cost


def test_each_replica_is_held_against_its_own_busy_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**12, PERIOD_NS))
    monkeypatch.setattr("prismtop.sources.live.time.monotonic_ns", lambda: next(clock) + 10**9)
    one, two = (FakeLink(pid, ranks=(("DP", n),)) for n, pid in enumerate((CORE, PEER)))
    source = live(one, two)
    one.next = plain_turn(0, 1)
    source.poll()
    assert (one.spent[-1], two.spent[-1]) == (70 * US, 0)


class FakeRing:
    """Every call costs 1 us, every flush 10 us."""

    boundary_ns = 10_000

    def call_ns(self, fid: int, status: ProbeStatus) -> float:
        return 1000.0


def meter(budget: float = 0.005) -> CostMeter:
    made = CostMeter({plan.fid: plan for plan in PLANS.values()}, budget)
    made.start(0)
    return made


def test_the_share_is_of_the_time_that_the_engine_was_busy() -> None:
    made = meter()
    made.count([1] * 1000)
    made.measure(PERIOD_NS, PERIOD_NS // 10, FakeRing(), ALL_IN)  # type: ignore[arg-type]
    assert (made.share, made.rate, made.per_event_ns) == (0.005, 500.0, 1000.0)


def test_too_few_calls_say_nothing() -> None:
    made = meter()
    made.count([1] * 50)
    made.measure(PERIOD_NS, PERIOD_NS, FakeRing(), ALL_IN)  # type: ignore[arg-type]
    assert (made.share, made.rate) == (None, 25.0)


def test_the_budget_is_exceeded_only_twice_in_a_row() -> None:
    made = meter(0.001)
    said = []
    for n in range(1, 4):
        made.count([1] * 5000)
        said.append(made.measure(n * PERIOD_NS, PERIOD_NS, FakeRing(), ALL_IN))  # type: ignore[arg-type]
    assert said == [False, True, True]


def test_calls_from_before_a_short_period_do_not_count() -> None:
    made = meter()
    made.count([1] * 5000)
    made.measure(PERIOD_NS // 10, PERIOD_NS, FakeRing(), ALL_IN)  # type: ignore[arg-type]
    made.count([1] * 200)
    made.measure(PERIOD_NS, PERIOD_NS, FakeRing(), ALL_IN)  # type: ignore[arg-type]
    assert made.share == 0.0001 / 0.9


def test_hooks_of_priority_one_are_never_dropped() -> None:
    plans = {
        n: replace(PLANS["inner"], hook=replace(PLANS["inner"].hook, priority=p))
        for n, p in enumerate((1, 3, 3))
    }
    keep, out = CostMeter(plans, 0.005).least_important(ALL_IN)
    assert (keep, out) == ({0}, {1, 2})
    assert CostMeter({0: plans[0]}, 0.005).least_important(ALL_IN) == ({0}, set())


def test_a_hook_whose_end_would_save_nothing_is_kept() -> None:
    """Arrivals are few: without them no request has a time to its first token, and nothing is saved."""
    plans = {
        n: replace(PLANS["inner"], fid=n, hook=replace(PLANS["inner"].hook, priority=p))
        for n, p in enumerate((1, 2, 4))
    }
    made = CostMeter(plans, 0.005)
    made.start(0)
    made.count([0] * 1000 + [1] * 20 + [2] * 1000)
    made.measure(PERIOD_NS, PERIOD_NS, FakeRing(), ALL_IN)  # type: ignore[arg-type]
    all_in = replace(ALL_IN, hooks=dict.fromkeys(range(3), ("code", "")))
    dropped = replace(all_in, hooks={**all_in.hooks, 2: ("", "dropped")})
    assert made.least_important(all_in) == ({0, 1}, {2})
    assert made.least_important(dropped) == ({0, 1}, set())


def looking(*priorities: int, ends: int = 0, opens: int = -1, plain: bool = True) -> CostMeter:
    """A meter of hooks with those priorities: all called alike often, and far above the budget."""
    plans = {
        n: replace(
            PLANS["inner"],
            fid=n,
            hook=replace(PLANS["inner"].hook, priority=priority),
            boundary=n == ends or not plain,
            stands_in=n == opens,
        )
        for n, priority in enumerate(priorities)
    }
    made = CostMeter(plans, 0.005)
    made.start(0)
    made.count([*plans] * 1000)
    made.measure(PERIOD_NS, PERIOD_NS, FakeRing(), ALL_IN)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    ("made", "out"),
    [
        (looking(9, 1, 3), {2}),
        (looking(9, 7, opens=1), set()),
        (looking(5, 5, 5, plain=False), {1, 2}),
        (looking(5, plain=False), set()),
    ],
)
def test_the_hooks_that_could_take_the_probe_out_are_never_dropped(made: CostMeter, out: set[int]) -> None:
    assert made.least_important(ALL_IN)[1] == out


def test_where_no_batch_ends_its_opening_is_what_looks_and_costs() -> None:
    made = looking(5, 5, ends=-1, opens=0)
    assert made.share == (2000 * 1000 + 1000 * 10_000) / PERIOD_NS


KINDS = ("schedule", "execute", "update", "other")


def plans_of(*names: str, anchors: bool = True, **fields: Any) -> dict[str, tuple[bool, bool]]:
    """Name -> whether it ends a batch, whether it stands in."""
    hooks = [Hook(name, ("e",), "engine", f"Engine.{name}", **fields) for name in names]
    rule = BatchRule("e", ("schedule",), ("execute",), ("update",))
    return {
        plan.hook.name: (plan.boundary, plan.stands_in) for plan in plans_for(hooks, rule, anchors=anchors)
    }


def test_what_opens_a_batch_stands_in_for_what_ends_it() -> None:
    assert plans_of(*KINDS) == {
        "schedule": (False, True),
        "execute": (False, False),
        "update": (True, False),
        "other": (False, False),
    }


def test_a_process_without_batches_of_its_own_looks_everywhere() -> None:
    assert set(plans_of(*KINDS, anchors=False).values()) == {(True, False)}
