"""What a hypothesis about a cause is: the movements that speak for it and against it."""

from __future__ import annotations

from dataclasses import dataclass, field

UP, DOWN, EITHER = 1, -1, 0


@dataclass(frozen=True)
class Sign:
    """A movement that speaks for or against a hypothesis.

    Attributes:
        signals: any of these; the one that moved most counts.
        weight: log-odds when it moved fully.
        least: smallest change that matters.
        full: change that leaves no doubt.
        direction: UP, DOWN or EITHER.
        absolute: changes are differences in the signal's unit; otherwise they are |ln(after / before)|.
        level: the incident's level must be at or beyond it.
        floor: with relative changes, the difference in the signal's unit that must be there as well.
        missed: log-odds lost when the signal is there and did not move.
        standing: the level in the incident counts instead of the change: what was bad before as well explains
            single slow batches. Only for alerts: of two captures it explains no difference.
        ceiling: a series that was already so high before could not have moved: it is left out.
    """

    signals: tuple[str, ...]
    weight: float
    least: float
    full: float
    direction: int = UP
    absolute: bool = False
    level: float | None = None
    floor: float = 0.0
    missed: float = 0.0
    ceiling: float | None = None
    standing: bool = False


@dataclass(frozen=True)
class Hypothesis:
    """One possible cause.

    Attributes:
        id: one of `CAUSE_IDS`.
        text: the sentence for a person.
        next_step: what to check next.
        needs: at least one of these must have moved, else it is not considered.
        supports: add to it.
        against: take from it.
        quiet: signals that must be known and still; each that is adds `quiet_weight` shared among them.
        yields_to: more specific hypotheses that explain the same signs.
    """

    id: str
    text: str
    next_step: str
    needs: tuple[Sign, ...]
    supports: tuple[Sign, ...] = ()
    against: tuple[Sign, ...] = ()
    quiet: tuple[Sign, ...] = ()
    quiet_weight: float = 0.0
    yields_to: tuple[str, ...] = field(default=())
