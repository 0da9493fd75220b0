"""The latency model's part of `prismtop analyze`: its fit, and the anomalies that it found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prismtop.export.jsonl import alert_object
from prismtop.latency.judge import LatencyJudge
from prismtop.latency.score import judge_all
from prismtop.model import Alert, Batch, Clock, Group, ModelCard, Verdict
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.settings import Settings


class ModelPart:
    """What was found in the batches of one file.

    Attributes:
        batches: with their predictions, in order.
        alerts: in order of their opening.
        card: the model as of the last batch.
    """

    def __init__(self, batches: Iterable[Batch], group: Group, settings: Settings) -> None:
        judge = LatencyJudge(settings, group, inline=True)
        seen, alerts = judge_all(batches, judge)
        self.batches = tuple(one.batch for one in seen)
        self.alerts: tuple[Alert, ...] = tuple(alerts)
        self.card = judge.card()

    @property
    def flagged(self) -> int:
        """Batches that were slow for their workload."""
        return sum(
            1 for batch in self.batches if batch.prediction and batch.prediction.verdict is Verdict.SLOW
        )

    def lines(self) -> list[str]:
        """For a person."""
        lines = card_lines(self.card)
        lines.append(f"{self.flagged} of {len(self.batches)} batches were slow for their workload")
        lines += [f"alert {alert.id}: {alert.kind}: {safe_text(alert.text)}" for alert in self.alerts]
        if not self.alerts:
            lines.append("no alert")
        return lines

    def content(self, clock: Clock) -> dict[str, object]:
        """For a program."""
        alerts = []
        for alert in self.alerts:
            made = alert_object(alert, clock)
            made["t_us"] = clock.wall_us(alert.opened_ns)
            alerts.append(made)
        return {"model": card_object(self.card), "flagged": self.flagged, "alerts": alerts}


def card_lines(card: ModelCard) -> list[str]:
    """A model card as sentences."""
    lines = [f"model {card.state.value}" + (f": {safe_text(card.reason)}" if card.reason else "")]
    if card.median_ape is not None and card.p95_ape is not None and card.within_10pct is not None:
        decode = "" if card.decode_median_ape is None else f", decode {card.decode_median_ape:.2f} %"
        lines.append(
            f"error of undisturbed predictions: median {card.median_ape:.2f} %, P95 {card.p95_ape:.2f} %, "
            f"within 10 % {100 * card.within_10pct:.1f} %{decode}"
        )
    lines.append(
        f"trained on {card.trained} batches ({card.origin}), {card.rejected} not learnt; "
        f"regimes: {', '.join(card.regimes) or 'none'}"
    )
    if card.features:
        missing = f"; not exposed: {', '.join(card.missing)}" if card.missing else ""
        lines.append(f"features: {', '.join(card.features)}{missing}")
    if card.drift_pct is not None:
        lines.append(f"drift against the first reference: {card.drift_pct:+.1f} %")
    rate = "not known yet" if card.false_alerts_per_h is None else f"{card.false_alerts_per_h:g} an hour"
    lines.append(f"sensitivity {card.sensitivity}; false alerts expected: {rate}")
    return lines


def card_object(card: ModelCard) -> dict[str, object]:
    """A model card as JSON values; what is not known is absent."""
    made: dict[str, object] = {
        "state": card.state.value,
        "features": list(card.features),
        "missing": list(card.missing),
        "trained": card.trained,
        "rejected": card.rejected,
        "origin": card.origin,
        "sensitivity": card.sensitivity,
        "regimes": list(card.regimes),
    }
    if card.reason:
        made["reason"] = safe_text(card.reason)
    for name in (
        *("median_ape", "p95_ape", "within_10pct", "decode_median_ape"),
        *("drift_pct", "false_alerts_per_h"),
    ):
        value = getattr(card, name)
        if value is not None:
            made[name] = round(value, 4)
    return made
