"""`Judgement`: what a judge says about what is new."""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.model.alert import Alert
from prismtop.model.batch import Batch
from prismtop.model.prediction import ModelCard
from prismtop.model.slo import SloStatus


@dataclass(frozen=True)
class Judgement:
    """What a judge says about one tick.

    Attributes:
        batches: those of the tick, with their predictions.
        changed: alerts that opened, changed or closed.
        model: the model card.
        slo: objectives; None without targets.
        warnings: sentences to show once.
    """

    batches: tuple[Batch, ...]
    changed: tuple[Alert, ...] = ()
    model: ModelCard | None = None
    slo: SloStatus | None = None
    warnings: tuple[str, ...] = ()
