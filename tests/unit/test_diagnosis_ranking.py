"""Ranking on evidence made by hand: thresholds, what speaks against, and `unknown`."""

from __future__ import annotations

import pytest

from prismtop.diagnosis.evidence import Effect, Evidence
from prismtop.diagnosis.hypotheses import HYPOTHESES
from prismtop.diagnosis.ranking import HIGHEST, LISTED, NAMED, rank, sentence
from prismtop.diagnosis.signals import SIGNALS

BUSY, CLOCK, DELAY = "host_cpu_busy_ratio", "host_cpu_frequency_mhz", "thread_runq_delay_seconds"


def make_effect(name: str, before: float, after: float, z: float = 50.0, **more: object) -> Effect:
    return Effect(name, "", before, after, z if after >= before else -z, 30, 10, **more)  # type: ignore[arg-type]


def make_evidence(*effects: Effect) -> Evidence:
    by_name: dict[str, tuple[Effect, ...]] = {}
    for effect in effects:
        by_name[effect.name] = (*by_name.get(effect.name, ()), effect)
    return Evidence(by_name)


def score_of(cause: str, *effects: Effect) -> float:
    return next((found.score for found in rank(make_evidence(*effects)) if found.id == cause), 0.0)


def test_without_evidence_the_answer_is_unknown() -> None:
    (only,) = rank(Evidence())
    assert only.id == "unknown"
    assert only.text == "Nothing moved beyond its noise."
    assert "no GPU counters" in only.against


def test_the_answer_is_best_first_and_scores_are_between_0_and_1() -> None:
    causes = rank(make_evidence(make_effect(CLOCK, 3000, 2000), make_effect(BUSY, 0.1, 0.5)))
    scores = [cause.score for cause in causes]
    assert scores == sorted(scores, reverse=True)
    assert all(LISTED <= score <= HIGHEST for score in scores)


def test_a_larger_movement_scores_higher() -> None:
    scores = [score_of("cpu_frequency", make_effect(CLOCK, 3000, after)) for after in (2900, 2700, 1000)]
    assert scores == sorted(scores)
    assert scores[0] < NAMED < scores[-1]


def test_a_movement_below_what_matters_is_no_sign() -> None:
    assert score_of("cpu_frequency", make_effect(CLOCK, 3000, 2950)) == 0


def test_a_movement_within_its_noise_is_no_sign() -> None:
    assert score_of("cpu_frequency", make_effect(CLOCK, 3000, 1000, z=2.0)) == 0


def test_a_movement_in_the_wrong_direction_is_no_sign() -> None:
    assert score_of("cpu_frequency", make_effect(CLOCK, 1000, 3000)) == 0


def test_a_lower_clock_of_a_cpu_that_became_busy_is_the_loads_doing() -> None:
    alone = score_of("cpu_frequency", make_effect(CLOCK, 3500, 3090))
    loaded = score_of("cpu_frequency", make_effect(CLOCK, 3500, 3090), make_effect(BUSY, 0.06, 0.56))
    assert loaded < NAMED < alone


def test_what_speaks_against_a_cause_is_told() -> None:
    causes = rank(
        make_evidence(
            make_effect(CLOCK, 3500, 3000), make_effect(BUSY, 0.06, 0.5), make_effect(DELAY, 4e-7, 9e-7)
        )
    )
    assert causes[0].id == "cpu_contention"
    against = next(cause.against for cause in causes if cause.id == "cpu_frequency")
    assert any("busy share of all cores" in line for line in against)


def test_busy_cores_that_the_engine_does_not_wait_for_are_not_named() -> None:
    assert score_of("cpu_contention", make_effect(BUSY, 0.1, 0.6), make_effect(DELAY, 4e-7, 4e-7)) < NAMED


def test_a_lower_gpu_clock_that_nothing_notices_is_not_named() -> None:
    clock = make_effect("gpu_sm_clock_mhz", 1410, 1155)
    assert score_of("gpu_clock_limited", clock, make_effect("kernel.time", 1, 1)) < NAMED
    assert score_of("gpu_clock_limited", clock, make_effect("kernel.time", 1, 1.3)) >= NAMED


def test_a_gpu_that_was_always_busy_cannot_become_busier() -> None:
    clock = make_effect("gpu_sm_clock_mhz", 1410, 1155)
    assert score_of("gpu_clock_limited", clock, make_effect("gpu_busy_ratio", 0.99, 0.99)) >= NAMED


def test_a_more_specific_cause_comes_before_a_general_one() -> None:
    traffic = make_effect("gpu_pcie_receive_bytes_per_s", 1e7, 2e10)
    others = make_effect("gpu_others_memory_bytes", 0, 9e9)
    causes = rank(make_evidence(traffic, others))
    assert causes[0].id == "pcie_saturation"
    assert rank(make_evidence(others))[0].id == "gpu_shared"


def test_the_level_matters_where_only_fullness_hurts() -> None:
    assert score_of("kv_cache_full", make_effect("workload.kv_usage", 0.1, 0.5)) == 0
    assert score_of("kv_cache_full", make_effect("workload.kv_usage", 0.6, 0.99)) >= NAMED


def test_one_of_several_devices_is_enough_and_is_named() -> None:
    quiet = Effect("gpu_sm_clock_mhz", "gpu 0", 1980, 1980, 0, 30, 10)
    slow = Effect("gpu_sm_clock_mhz", "gpu 1", 1980, 900, -80, 30, 10)
    causes = rank(make_evidence(quiet, slow))
    assert causes[0].id == "gpu_clock_limited"
    assert "gpu 1" in causes[0].evidence[0]


def test_unknown_comes_first_when_only_weak_causes_are_left() -> None:
    causes = rank(make_evidence(make_effect(CLOCK, 3000, 2900)))
    assert causes[0].id == "unknown"
    assert all(cause.score < NAMED for cause in causes[1:])


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda hypothesis: hypothesis.id)
def test_every_hypothesis_names_itself_on_its_strongest_sign(hypothesis) -> None:  # type: ignore[no-untyped-def]
    sign = max((s for s in hypothesis.needs if not s.standing), key=lambda sign: sign.weight)
    before = 100.0 if not sign.absolute else (sign.level or sign.full * 2)
    up = sign.direction >= 0
    if sign.absolute:
        after = before + 2 * sign.full if up else before - 1.5 * sign.full
    else:
        after = before * (10 if up else 0.1)
    strongest = Effect(sign.signals[0], "", before, after, 100 if up else -100, 50, 20)
    quiet = [Effect(sign.signals[0], "", 1, 1, 0, 50, 20) for sign in hypothesis.quiet]
    causes = rank(make_evidence(strongest, *quiet))
    assert causes[0].id == hypothesis.id


def test_a_sentence_has_both_levels_and_the_change() -> None:
    assert sentence(make_effect("gpu_sm_clock_mhz", 1980, 1395)) == "GPU clock 1980 MHz -> 1395 MHz, -30 %"


def test_a_change_from_nothing_has_no_percentage() -> None:
    assert sentence(make_effect("workload.preempted", 0, 0.5)).endswith("0 a batch -> 0.5 a batch")


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_makes_a_sentence(name: str) -> None:
    assert SIGNALS[name].label in sentence(make_effect(name, 1, 2))
