"""The diagnoser over a simulated session: every fault by its own name, and none without one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from prismtop.diagnosis.hypotheses import CAUSE_IDS, HYPOTHESES, USED_SIGNALS
from prismtop.diagnosis.live import (
    POINTS,
    SERIES,
    LiveDiagnoser,
    _inside,
    _undisturbed_since,
    _windows,
)
from prismtop.diagnosis.memory import OBSERVED
from prismtop.diagnosis.ranking import NAMED
from prismtop.diagnosis.signals import SIGNALS
from prismtop.diagnosis.worst import LostTime
from prismtop.model import Batch, Counter, Mode, Prediction
from tests.factories import MS, make_batch, make_frame
from tests.unit.diagnosis_world import (
    GPU_COUNTERS,
    HOST_COUNTERS,
    SECOND,
    START,
    USUAL_MS,
    Fault,
    World,
    make_counter,
    make_ranks,
)

THREAD = "pid 4242 tid 4242"
PROMPT = {"stages": {"launch": 6.0}, "load": {"prefill_tokens": 512, "new_requests": 2, "cached_tokens": 0}}
SLOW_HOST = {"schedule": 0.5, "prepare": 1.6, "post": 1.1}
SLOW_DEVICE = {"wait": 9.0}
SLOW_ALL = {name: 1.7 * length for name, length in USUAL_MS.items()}
SPEED = ("host_cpu_speed_ratio", "host")

FAULTS = {
    "gpu_clock_limited": Fault(
        stages=SLOW_DEVICE,
        counters={("gpu_sm_clock_mhz", "gpu 0"): 1395.0, ("gpu_clock_limits_bitmask", "gpu 0"): 4.0},
    ),
    "cpu_frequency": Fault(stages=SLOW_HOST, counters={("host_cpu_frequency_mhz", "host"): 1500.0}),
    "noisy_neighbour": Fault(stages=SLOW_ALL, counters={SPEED: 0.57}),
    "cpu_contention": Fault(
        stages=SLOW_HOST,
        counters={("thread_runq_wait_ratio", THREAD): 0.4, ("host_cpu_busy_ratio", "host"): 0.95},
    ),
    "cgroup_throttling": Fault(
        stages=SLOW_HOST,
        counters={("cgroup_throttled_ratio", "pid 4242"): 0.4, ("thread_runq_wait_ratio", THREAD): 0.3},
    ),
    "memory_pressure": Fault(stages=SLOW_HOST, counters={("thread_major_faults_per_s", THREAD): 150.0}),
    "pcie_saturation": Fault(
        stages=SLOW_DEVICE,
        counters={
            ("gpu_pcie_receive_bytes_per_s", "gpu 0"): 2.2e10,
            ("gpu_others_memory_bytes", "gpu 0"): 4e9,
            ("gpu_others_count", "gpu 0"): 1.0,
        },
    ),
    "interconnect_saturation": Fault(
        stages=SLOW_DEVICE, counters={("gpu_nvlink_receive_bytes_per_s", "gpu 0"): 2e11}
    ),
    "gpu_shared": Fault(
        stages=SLOW_DEVICE,
        counters={("gpu_others_memory_bytes", "gpu 0"): 6e9, ("gpu_others_count", "gpu 0"): 1.0},
    ),
    "gpu_memory_pressure": Fault(stages=SLOW_DEVICE, counters={("gpu_memory_used_bytes", "gpu 0"): 79.6e9}),
    "kv_cache_full": Fault(load={"kv_usage": 0.99, "waiting": 12}),
    "preemption": Fault(load={"kv_usage": 0.99, "preempted": 1}),
    "prefill_interference": Fault(**PROMPT, more={"mode": Mode.MIXED}, expected=True),
    "gc_or_gil": Fault(stages=SLOW_HOST, counters={("thread_voluntary_switches_per_s", THREAD): 3000.0}),
    "tokenization": Fault(
        stages={"recv": 4.0}, counters={("process_cpu_ratio", "pid 78"): 1.0}, more={"idle_ns": 5 * MS}
    ),
    "frontend": Fault(counters={("process_cpu_ratio", "pid 77"): 1.0}, more={"idle_ns": 9 * MS}),
    "straggler_rank": Fault(stages=SLOW_DEVICE, more={"ranks": make_ranks(2.0, 2.1, 6.0, 1.9)}),
    "workload_change": Fault(
        stages={"launch": 4.0, "wait": 12.0}, load={"batch_size": 64, "context_tokens": 30000}, expected=True
    ),
    "regime_change": Fault(stages={"launch": 3.0, "wait": 8.0}, stale=True),
}
"""The least that each fault does to a session in which everything else stays as it was."""


@pytest.mark.parametrize("cause", FAULTS)
def test_a_fault_is_named_first(cause: str) -> None:
    usual = Fault(more={"ranks": make_ranks(2.0, 2.1, 1.9, 2.0)}) if cause == "straggler_rank" else Fault()
    causes = World(FAULTS[cause], usual_batch=usual).run()
    assert causes[0].id == cause, [(c.id, c.score, c.evidence) for c in causes]
    assert causes[0].score >= NAMED
    assert causes[0].evidence
    assert causes[0].next_step


def test_a_drop_of_the_prefix_cache_is_named() -> None:
    cached = Fault(load={"prefill_tokens": 64, "cached_tokens": 448, "new_requests": 1})
    missed = Fault(load={"prefill_tokens": 512, "cached_tokens": 0, "new_requests": 1}, expected=True)
    mixed = {"mode": Mode.MIXED}
    causes = World(replace(missed, more=mixed), usual_batch=replace(cached, more=mixed)).run()
    assert causes[0].id == "prefix_cache_miss"


def test_every_id_of_the_contract_has_a_hypothesis() -> None:
    assert {hypothesis.id for hypothesis in HYPOTHESES} | {"unknown"} == set(CAUSE_IDS)


def test_every_signal_asked_for_can_be_written_in_a_sentence() -> None:
    assert set(SIGNALS) >= USED_SIGNALS


def test_nothing_is_named_when_nothing_changed() -> None:
    assert [cause.id for cause in World().run()] == ["unknown"]


def test_slower_batches_with_quiet_counters_are_unknown() -> None:
    causes = World(Fault(stages=SLOW_DEVICE)).run()
    assert causes[0].id == "unknown"
    assert any("wait" in sentence for sentence in causes[0].evidence)


def test_slower_host_stages_without_any_counter_name_nothing() -> None:
    causes = World(Fault(stages=SLOW_HOST), usual={}).run()
    assert causes[0].id == "unknown"
    assert "no CPU counters" in causes[0].against


def test_a_core_that_was_fought_over_all_along_explains_slow_batches_with_less_certainty() -> None:
    usual = {**HOST_COUNTERS, ("thread_runq_wait_ratio", THREAD): 0.7}
    causes = World(Fault(stages=SLOW_HOST), usual=usual).run()
    assert causes[0].id == "cpu_contention"
    assert "high before as well" in causes[0].evidence[0]
    assert causes[0].score < World(FAULTS["cpu_contention"]).run()[0].score


def test_a_slower_core_is_told_with_its_numbers_and_what_to_ask() -> None:
    named = World(FAULTS["noisy_neighbour"]).run()[0]
    assert re.search(r"speed of the engine's core .* 9\d(\.\d)? % -> 5\d", named.evidence[0])
    assert named.against == ()
    assert "steal" in named.next_step


def test_what_the_core_does_not_explain_speaks_against_it_and_is_said() -> None:
    whole = World(FAULTS["noisy_neighbour"]).run()[0]
    part = World(replace(FAULTS["noisy_neighbour"], counters={SPEED: 0.7})).run()[0]
    assert part.score < whole.score
    assert any("does not explain" in line for line in part.against)


def test_a_core_that_lost_far_less_than_the_batches_is_no_cause() -> None:
    stages = {name: 4 * length for name, length in USUAL_MS.items()}
    assert World(Fault(stages=stages, counters={SPEED: 0.85})).run()[0].id == "unknown"


@pytest.mark.parametrize("cause", ["cpu_contention", "workload_change", "cgroup_throttling", "gc_or_gil"])
def test_a_core_at_its_usual_speed_has_no_noisy_neighbour(cause: str) -> None:
    assert "noisy_neighbour" not in {found.id for found in World(FAULTS[cause]).run()}


def test_a_core_slowed_down_by_other_work_of_this_machine_is_contention() -> None:
    shared = replace(FAULTS["cpu_contention"], stages=SLOW_ALL)
    causes = World(replace(shared, counters={**shared.counters, SPEED: 0.6})).run()
    assert causes[0].id == "cpu_contention"


def test_a_change_of_the_workload_on_a_slower_core_that_costs_nothing_is_no_neighbour() -> None:
    both = replace(FAULTS["workload_change"], counters={SPEED: 0.92})
    assert World(both).run()[0].id == "workload_change"


def test_a_lower_clock_that_is_shown_comes_before_a_neighbour_that_is_not() -> None:
    lower = Fault(stages=SLOW_ALL, counters={("host_cpu_frequency_mhz", "host"): 1700.0, SPEED: 0.57})
    assert World(lower).run()[0].id == "cpu_frequency"


def test_a_change_of_the_workload_is_no_fault() -> None:
    causes = World(FAULTS["workload_change"]).run()
    assert [cause.id for cause in causes if cause.score >= NAMED] == ["workload_change"]


def test_a_fault_during_a_change_of_the_workload_is_named_before_it() -> None:
    both = replace(FAULTS["workload_change"], counters=FAULTS["cpu_contention"].counters, expected=False)
    assert World(both).run()[0].id == "cpu_contention"


def test_a_baseline_that_is_too_short_names_nothing() -> None:
    causes = World(FAULTS["cpu_contention"], quiet_s=2.0, predictions=False).run()
    assert causes[0].id == "unknown"


def test_an_episode_with_a_single_reading_is_explained_with_less_certainty() -> None:
    short = World(FAULTS["cpu_contention"], fault_s=1.0).run()
    long = World(FAULTS["cpu_contention"]).run()
    assert short[0].id == "cpu_contention"
    assert short[0].score < long[0].score


def test_a_counter_that_moved_only_later_counts_less_and_says_so() -> None:
    class Late(World):
        def _readings(self, now: int, fault: Fault) -> Iterator[Counter]:
            return super()._readings(now, fault if now >= self.fault_ns + 8 * SECOND else Fault())

    late, prompt = Late(FAULTS["cpu_frequency"]).run(), World(FAULTS["cpu_frequency"]).run()
    score = {cause.id: cause.score for cause in late}["cpu_frequency"]
    assert score < prompt[0].score
    assert any("after the batches" in line for cause in late for line in cause.against)


def test_the_order_in_which_things_moved_is_told() -> None:
    causes = World(FAULTS["cpu_contention"]).run()
    assert causes[0].evidence[-1].startswith("moved first: ")


def test_the_reason_of_a_clock_limit_is_told() -> None:
    causes = World(FAULTS["gpu_clock_limited"]).run()
    assert any(line.startswith("GPU clock held down") for line in causes[0].evidence)


def test_the_straggler_is_named_by_its_rank() -> None:
    usual = Fault(more={"ranks": make_ranks(2.0, 2.1, 1.9, 2.0)})
    causes = World(FAULTS["straggler_rank"], usual_batch=usual).run()
    assert "rank 2" in causes[0].evidence[0]


def test_ranks_that_all_became_slower_are_no_straggler() -> None:
    usual = Fault(more={"ranks": make_ranks(2.0, 2.1, 1.9, 2.0)})
    slower = Fault(stages=SLOW_DEVICE, more={"ranks": make_ranks(4.0, 4.2, 3.8, 4.0)})
    assert World(slower, usual_batch=usual).run()[0].id == "unknown"


def test_a_clock_that_falls_because_the_gpu_has_less_to_do_limits_nothing() -> None:
    idle = Fault(
        load={"batch_size": 2, "context_tokens": 600},
        stages={"wait": 1.0},
        counters={("gpu_sm_clock_mhz", "gpu 0"): 1200.0, ("gpu_busy_ratio", "gpu 0"): 0.2},
        expected=True,
    )
    assert "gpu_clock_limited" not in {c.id for c in World(idle).run() if c.score >= NAMED}


def test_another_gpu_than_the_engines_is_no_cause() -> None:
    usual = {**HOST_COUNTERS, **GPU_COUNTERS, ("gpu_sm_clock_mhz", "gpu 1"): 1980.0}
    other = Fault(stages=SLOW_DEVICE, counters={("gpu_sm_clock_mhz", "gpu 1"): 500.0})
    assert World(other, usual=usual).run()[0].id == "unknown"


def test_readings_that_are_not_numbers_are_left_out() -> None:
    causes = World(Fault(stages=SLOW_HOST, counters={("host_cpu_busy_ratio", "host"): math.nan})).run()
    assert "cpu_contention" not in {cause.id for cause in causes if cause.score >= NAMED}


def test_engines_without_stages_still_get_an_answer_from_counters() -> None:
    world = World(
        replace(FAULTS["cpu_contention"], more={"stages": ()}), usual_batch=Fault(more={"stages": ()})
    )
    assert world.run()[0].id == "cpu_contention"


def test_metrics_stand_in_for_a_workload_that_is_not_exposed() -> None:
    hidden = {"kv_usage": None, "waiting": None}
    usual = Fault(load=hidden, metrics={"vllm:kv_cache_usage_perc": 0.3, "vllm:num_requests_waiting": 0})
    full = Fault(load=hidden, metrics={"vllm:kv_cache_usage_perc": 0.99, "vllm:num_requests_waiting": 9})
    assert World(full, usual_batch=usual).run()[0].id == "kv_cache_full"


def test_an_alert_is_answered_when_it_opens_and_again_when_it_closes() -> None:
    world = World(FAULTS["cpu_contention"])
    world.run()
    assert world.alerts[0].closed_ns is None
    assert world.alerts[-1].causes[0].id == "cpu_contention"
    assert len(world.alerts) <= 6


def test_an_answer_that_did_not_change_is_not_given_again() -> None:
    world = World(Fault(stages=SLOW_DEVICE), usual={}, fault_s=70.0, after_s=10.0)
    world.run()
    answers = [[(c.id, c.score) for c in alert.causes] for alert in world.alerts]
    assert all(before != after for before, after in pairwise(answers))


def test_an_earlier_episode_is_not_part_of_the_baseline() -> None:
    assert _inside(5 * SECOND, [(4 * SECOND, 6 * SECOND)])
    points = [(at * SECOND, 1.0) for at in range(60)]
    spans = [(50 * SECOND, 55 * SECOND)]
    baseline, incident, _ = _windows(points, (0, 50 * SECOND), spans, SECOND, [(20 * SECOND, 30 * SECOND)])
    assert not [time for time, _ in baseline if 20 * SECOND <= time <= 31 * SECOND]
    assert len(baseline) == 60 - 11 - 12
    assert incident


@pytest.mark.parametrize(("sound", "used"), [(range(25), 25), (range(5), 49), (range(0), 49)])
def test_readings_of_idle_or_slow_seconds_are_no_baseline_while_there_are_enough_others(
    sound: range, used: int
) -> None:
    points = [(at * SECOND + SECOND // 2, 1.0) for at in range(60)]
    spans = [(50 * SECOND, 55 * SECOND)]
    baseline, _, _ = _windows(points, (0, 50 * SECOND), spans, SECOND, [], set(sound))
    assert len(baseline) == used


def test_the_seconds_in_which_batches_ran_as_they_should_are_known() -> None:
    lost = LostTime()
    lost.take([slow_at(1.0, 1.0), slow_at(2.0, 1.0), slow_at(4.0, 9.0, ms=2500.0), slow_at(8.0, 1.4)])
    assert lost.sound() == {1, 2, 8}


def test_a_baseline_reaches_back_until_it_holds_enough_time_without_an_alert() -> None:
    assert _undisturbed_since(200 * SECOND, []) == 110 * SECOND
    long, inside = (100 * SECOND, 189 * SECOND), (120 * SECOND, 150 * SECOND)
    assert _undisturbed_since(200 * SECOND, [inside, long]) == 20 * SECOND
    assert _undisturbed_since(200 * SECOND, [(20 * SECOND, 90 * SECOND)]) == 110 * SECOND


def test_a_fault_after_minutes_of_another_alert_is_held_against_the_time_before_that() -> None:
    world = World(FAULTS["cpu_contention"], quiet_s=130.0)
    opened = START + 12 * SECOND
    other = replace(world.make_alert(opened, 40), id=9, started_ns=opened)
    closed = replace(other, closed_ns=START + 129 * SECOND)
    untold = [other, closed]
    diagnoser = LiveDiagnoser()
    for frame in world.frames():
        due = [alert for alert in untold[:1] if frame.time_ns >= (alert.closed_ns or opened)]
        del untold[: len(due)]
        world.alerts.extend(diagnoser.take(replace(frame, changed_alerts=(*frame.changed_alerts, *due))))
    assert world.alerts[-1].causes[0].id == "cpu_contention"


def slow_at(at_s: float, times: float, ms: float = 10.0) -> Batch:
    """A batch of `ms`, which is `times` what was predicted."""
    predicted = Prediction(int(ms / times * MS), 0, 1 << 40)
    return make_batch(round(at_s * 10), int(at_s * SECOND), duration_ns=int(ms * MS), prediction=predicted)


def worst_of(batches: Iterable[Batch], end_s: float) -> list[tuple[float, float]]:
    """Seconds of an alert from 0 to `end_s` that are to be explained."""
    lost = LostTime()
    lost.take(batches)
    spans, _ = lost.worst(0, int(end_s * SECOND))
    return [(first / SECOND, last / SECOND) for first, last in spans]


def test_an_alert_that_closes_late_is_explained_by_the_time_in_which_batches_were_slow() -> None:
    slow = [slow_at(at / 10, 2.0) for at in range(40)]
    fast = [slow_at(4 + at / 10, 1.05 if at % 2 else 0.95) for at in range(100)]
    assert worst_of([*slow, *fast], 14.0) == [(0.0, 4.0)]


def test_a_fault_within_a_longer_and_milder_slowdown_is_what_is_explained() -> None:
    batches = [slow_at(at / 10, 1.8 if 120 <= at < 170 else 1.2) for at in range(300)]
    assert worst_of(batches, 30.0) == [(12.0, 17.0)]


def test_how_much_slower_batches_are_is_told_of_the_part_that_is_explained() -> None:
    lost = LostTime()
    lost.take(slow_at(at / 10, 1.8 if at < 50 else 1.2) for at in range(300))
    assert lost.worst(0, 30 * SECOND)[1] == pytest.approx(0.8, abs=0.01)


def test_bursts_are_explained_by_the_seconds_in_which_they_were() -> None:
    batches = [slow_at(at / 10, 3.0 if at in (13, 44, 57) else 1.0, ms=30.0) for at in range(80)]
    assert worst_of(batches, 8.0) == [(1.0, 2.0), (4.0, 6.0)]


def test_a_batch_that_took_seconds_is_explained_to_its_end() -> None:
    usual = [slow_at(at / 10, 1.0) for at in range(20)]
    assert worst_of([*usual, slow_at(2.0, 300.0, ms=3500.0), slow_at(5.5, 1.0)], 6.0) == [(2.0, 5.5)]


@pytest.mark.parametrize(
    "batches",
    [
        pytest.param([slow_at(at / 10, 1.2 + 0.05 * (at % 3)) for at in range(60)], id="the same all along"),
        pytest.param([slow_at(at / 10, 1.2 + 0.2 * (at < 30)) for at in range(60)], id="hardly worse"),
        pytest.param([], id="no batches"),
        pytest.param([make_batch(at, at * SECOND // 10) for at in range(60)], id="no predictions"),
        pytest.param([slow_at(at / 10, 0.98) for at in range(60)], id="gaps between batches, none slow"),
    ],
)
def test_where_no_part_of_an_alert_is_worse_the_whole_of_it_is_explained(batches: list[Batch]) -> None:
    assert worst_of(batches, 6.0) == [(0.0, 6.0)]


def test_lost_time_of_a_replay_that_was_moved_back_is_forgotten() -> None:
    lost = LostTime()
    lost.take(slow_at(20 + at / 10, 9.0) for at in range(20))
    lost.take(slow_at(at / 10, 3.0 if at < 20 else 1.0) for at in range(60))
    assert lost.worst(0, 30 * SECOND)[0] == [(0, 2 * SECOND)]


def test_a_long_batch_that_began_before_others_came_moves_nothing_back() -> None:
    slow = [slow_at(at / 10, 3.0 if at < 20 else 1.0) for at in range(50)]
    assert worst_of([*slow, slow_at(2.0, 1.0, ms=3100.0)], 5.0) == [(0.0, 2.0)]


class ClosesLate(World):
    """Its alert stays open three times as long again as the fault lasted."""

    def _readings(self, now: int, fault: Fault) -> Iterator[Counter]:
        return super()._readings(now, fault if now < self._over_ns else Fault())

    def _batch(self, at: int, fault: Fault) -> Batch:
        return super()._batch(at, fault if at < self._over_ns else Fault())

    @property
    def _over_ns(self) -> int:
        return self.fault_ns + int(self.fault_s * SECOND / 4)


def test_a_cause_that_was_seen_is_not_forgotten_while_the_alert_stays_open() -> None:
    late = ClosesLate(FAULTS["cpu_contention"], fault_s=24.0)
    assert late.run()[0].id == "cpu_contention"


class TwoThings(World):
    """When its fault is over, the alert goes on with another one, for four times as long."""

    def _readings(self, now: int, fault: Fault) -> Iterator[Counter]:
        return super()._readings(now, fault if now < self._other_ns else FAULTS["noisy_neighbour"])

    def _batch(self, at: int, fault: Fault) -> Batch:
        other = FAULTS["noisy_neighbour"] if at < self.fault_ns + self.fault_s * SECOND else Fault()
        return super()._batch(at, fault if at < self._other_ns else other)

    @property
    def _other_ns(self) -> int:
        return self.fault_ns + int(self.fault_s * SECOND / 5)


def test_what_explained_the_beginning_of_an_alert_is_kept_when_something_else_prolongs_it() -> None:
    world = TwoThings(FAULTS["cpu_contention"], fault_s=60.0)
    causes = {cause.id: cause for cause in world.run()}
    assert list(causes)[:2] in (["cpu_contention", "noisy_neighbour"], ["noisy_neighbour", "cpu_contention"])
    assert re.search(r"\(in its first \d+ s\)\.$", causes["cpu_contention"].text)


def test_memory_is_bounded_however_much_comes() -> None:
    diagnoser = LiveDiagnoser()
    for at in range(3 * SERIES):
        reading = make_counter("thread_runq_wait_ratio", 0.1, at * 10**9, f"pid 1 tid {at}")
        diagnoser.take(make_frame(1, time_ns=at * 10**9, new_counters=(reading,)))
    for at in range(3 * POINTS):
        reading = make_counter("host_cpu_busy_ratio", 0.1, at * 10**9)
        diagnoser.take(make_frame(0, time_ns=at * 10**9, new_counters=(reading,)))
    assert len(diagnoser._series) <= SERIES + 2
    assert max(map(len, diagnoser._series.values())) <= POINTS
    assert len(diagnoser._batches.seen(None)) <= OBSERVED


def test_answers_that_cost_too_much_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = iter(range(10_000))
    monkeypatch.setattr("prismtop.diagnosis.live.time.thread_time", lambda: float(next(spent)))
    world = World(FAULTS["cpu_contention"])
    world.run()
    assert len(world.alerts) <= 1


def test_frames_without_alerts_cost_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(evidence: object) -> None:
        raise AssertionError("looked for causes without an alert")

    monkeypatch.setattr("prismtop.diagnosis.live.rank", never)
    diagnoser = LiveDiagnoser()
    for frame in World(fault_s=0, after_s=0, quiet_s=5).frames():
        assert diagnoser.take(frame) == ()


def test_a_process_that_is_stopped_now_and_then_is_named() -> None:
    usual = {**HOST_COUNTERS, ("process_stopped_ratio", "pid 4242"): 0.0}
    fault = Fault(stages=SLOW_HOST, counters={("process_stopped_ratio", "pid 4242"): 1.0})
    assert World(fault, usual=usual).run()[0].id == "process_stopped"


BUSY_ENGINE = {
    **HOST_COUNTERS,
    ("host_cores_count", "host"): 2.0,
    ("host_cpu_busy_ratio", "host"): 0.5,
    ("process_cpu_ratio", "pid 4242"): 0.62,
    ("process_cpu_ratio", "pid 77"): 0.05,
    ("process_cpu_ratio", "pid 78"): 0.05,
    ("thread_cpu_ratio", THREAD): 0.6,
}


def test_another_thread_of_the_engine_is_the_interpreter_lock_and_not_other_work() -> None:
    more = {("host_cpu_busy_ratio", "host"): 0.85, ("process_cpu_ratio", "pid 4242"): 1.32}
    fault = Fault(stages=SLOW_HOST, counters={**more, ("thread_voluntary_switches_per_s", THREAD): 700.0})
    causes = World(fault, usual=BUSY_ENGINE).run()
    assert causes[0].id == "gc_or_gil"
    assert "cpu_contention" not in [cause.id for cause in causes]


def test_cores_that_others_use_are_other_work() -> None:
    more = {("host_cpu_busy_ratio", "host"): 0.95, ("thread_runq_wait_ratio", THREAD): 0.2}
    causes = World(Fault(stages=SLOW_HOST, counters=more), usual=BUSY_ENGINE).run()
    assert causes[0].id == "cpu_contention"
    assert any("other processes use" in sentence for sentence in causes[0].evidence)
