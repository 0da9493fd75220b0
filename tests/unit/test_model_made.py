"""Nouns that are made a hundred times a second have a second, faster way to be made. It makes the same."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest

from prismtop.model import Batch, Mode, ModelState, Prediction, Stage, Verdict, Workload
from prismtop.model.batch import new_batch, new_stage, new_workload
from prismtop.model.prediction import new_prediction

STAGE = Stage("wait", "update", 5, 7, 1, tid=3, rank=2, span_ns=9)
WORK = Workload(batch_size=4, prefill_tokens=0, kv_usage=0.5, sampled=frozenset({"context_tokens"}))
BATCH = Batch(1, "vllm", 3, 5, 7, mode=Mode.DECODE, stages=(STAGE,), workload=WORK, suspect="late")
PREDICTION = Prediction(10, 8, 12, ModelState.READY, Verdict.SLOW, "period")


def given(noun: object) -> dict[str, object]:
    return {field.name: getattr(noun, field.name) for field in fields(noun)}  # type: ignore[arg-type]


MADE = [
    (STAGE, new_stage(**given(STAGE))),  # type: ignore[arg-type]
    (WORK, new_workload(**given(WORK))),  # type: ignore[arg-type]
    (BATCH, new_batch(**given(BATCH))),  # type: ignore[arg-type]
    (PREDICTION, new_prediction(**given(PREDICTION))),  # type: ignore[arg-type]
    (replace(BATCH, prediction=PREDICTION), BATCH.with_prediction(PREDICTION)),
]


@pytest.mark.parametrize(("slowly", "quickly"), MADE, ids=lambda noun: type(noun).__name__)
def test_both_ways_make_the_same(slowly: object, quickly: object) -> None:
    assert quickly == slowly
    assert hash(quickly) == hash(slowly)
    assert repr(quickly) == repr(slowly)
    assert asdict(quickly) == asdict(slowly)  # type: ignore[call-overload]
    assert pickle.loads(pickle.dumps(quickly)) == slowly


@pytest.mark.parametrize(("slowly", "quickly"), MADE, ids=lambda noun: type(noun).__name__)
def test_neither_can_be_changed(slowly: object, quickly: object) -> None:
    for noun in (slowly, quickly):
        with pytest.raises(FrozenInstanceError):
            setattr(noun, fields(noun)[0].name, None)  # type: ignore[arg-type]


def test_what_is_left_out_has_its_default() -> None:
    assert new_batch(pid=1, engine="vllm", seq=3, start_ns=5, duration_ns=7, workload=Workload()) == Batch(
        1, "vllm", 3, 5, 7
    )
