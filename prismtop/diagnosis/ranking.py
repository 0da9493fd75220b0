"""From evidence to ranked causes: how strongly each hypothesis's signs moved, as calibrated scores.

The log-odds of a hypothesis are `BIAS`, plus the strongest of its needs, a quarter of its other needs, its
supports, less what speaks against it. A sign's share of its weight grows with the size of the movement (on a
logarithmic scale from `least` to `full`) and with how far it stands out of the series' own noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prismtop.diagnosis.evidence import Effect, Evidence
from prismtop.diagnosis.hypotheses import HYPOTHESES, NOTHING_TEXT, UNKNOWN, UNKNOWN_STEP, UNKNOWN_TEXT
from prismtop.diagnosis.signals import SIGNALS, written
from prismtop.diagnosis.signs import DOWN, UP, Hypothesis, Sign
from prismtop.model import Cause

NAMED = 0.5
"""Score from which a cause is named; below it the answer is `unknown`."""
LISTED = 0.15
"""Score below which a hypothesis is not worth a line."""
MOST = 5
"""Causes in an answer."""
BIAS = -2.0
"""Log-odds of a hypothesis before anything moved."""
GAIN = 1.6
"""Slope from log-odds to scores. The artifact's captures are told apart without error, so that a fit bounds
it from below only (above 2 on either engine, tests/bench/bench_diagnosis.py); live evidence is messier."""
HIGHEST = 0.99
OTHER_NEEDS = 0.25
YIELD = 3.0
"""Log-odds that a hypothesis loses to a more specific one that is named."""
LATE = 1.5
"""Log-odds lost by what moved only after the batches had become slow."""
CLEAR_Z, SURE_Z = 3.0, 8.0
"""Standard errors from which a movement counts, and from which it counts fully."""
FEW = {1: 0.6, 2: 0.8}
"""Most that a movement can count, by the number of readings in the incident."""


@dataclass(frozen=True)
class _Moved:
    """A sign as it was found: strength 0 to 1, the effect behind it, and whether it could be seen at all."""

    sign: Sign
    strength: float
    effect: Effect | None

    @property
    def odds(self) -> float:
        return self.sign.weight * self.strength


def rank(evidence: Evidence) -> tuple[Cause, ...]:
    """Causes, best first: never empty, `unknown` first when nothing fits."""
    judged = [made for made in (_judge(hypothesis, evidence) for hypothesis in HYPOTHESES) if made]
    named = {made.hypothesis.id: made.odds for made in judged if _score(made.odds) >= NAMED}
    judged = [_yielding(made, named) for made in judged]
    judged.sort(key=lambda made: -made.odds)
    causes = [made.cause() for made in judged if _score(made.odds) >= LISTED][:MOST]
    if causes and causes[0].score >= NAMED:
        causes[0] = _with_order(causes[0], evidence)
        return tuple(causes)
    return (_unknown(evidence, causes), *causes[: MOST - 1])


@dataclass(frozen=True)
class _Judged:
    hypothesis: Hypothesis
    odds: float
    fits: tuple[_Moved, ...]
    against: tuple[str, ...]

    def cause(self) -> Cause:
        fits = sorted((moved for moved in self.fits if moved.effect), key=lambda moved: -moved.odds)
        sentences = [
            _standing_sentence(moved.effect) if moved.sign.standing else sentence(moved.effect)
            for moved in fits
            if moved.effect
        ]
        return Cause(
            id=self.hypothesis.id,
            score=_score(self.odds),
            text=f"{self.hypothesis.text}: {sentences[0]}." if sentences else f"{self.hypothesis.text}.",
            evidence=tuple(dict.fromkeys(sentences)),
            against=self.against,
            next_step=self.hypothesis.next_step,
        )


def _judge(hypothesis: Hypothesis, evidence: Evidence) -> _Judged | None:
    needs = sorted((_moved(sign, evidence) for sign in hypothesis.needs), key=lambda moved: -moved.odds)
    if not needs[0].strength:
        return None
    odds = BIAS + needs[0].odds + OTHER_NEEDS * sum(moved.odds for moved in needs[1:])
    fits = [moved for moved in needs if moved.strength]
    against: list[str] = []
    for moved in (_moved(sign, evidence) for sign in hypothesis.supports):
        odds += moved.odds
        if moved.strength:
            fits.append(moved)
        elif moved.effect and moved.sign.missed and not needs[0].sign.standing:
            odds -= moved.sign.missed
            against.append(f"{sentence(moved.effect)}, which would have moved")
    for moved in (_moved(sign, evidence) for sign in hypothesis.against):
        odds -= moved.odds
        if moved.effect and moved.strength:
            against.append(f"{sentence(moved.effect)}, which speaks against it")
    share = hypothesis.quiet_weight / len(hypothesis.quiet) if hypothesis.quiet else 0.0
    for moved in (_moved(sign, evidence) for sign in hypothesis.quiet):
        if moved.effect and moved.strength:
            odds -= moved.odds
            against.append(f"{sentence(moved.effect)}, which explains it better")
        elif moved.effect:
            odds += share
    late = _lateness(needs[0].effect, evidence)
    if late:
        odds -= LATE
        against.append(late)
    return _Judged(hypothesis, odds, tuple(fits), tuple(against))


def _moved(sign: Sign, evidence: Evidence) -> _Moved:
    """The series among the sign's signals that moved most."""
    best, shown = 0.0, None
    for effect in evidence.of(sign.signals):
        if sign.ceiling is not None and effect.name.endswith("_ratio") and effect.before >= sign.ceiling:
            continue
        if not effect.baseline_points and not sign.standing:
            continue
        if sign.standing:
            strength = _standing(sign, effect) if evidence.onset_ns is not None else 0.0
        else:
            strength = _strength(sign, effect)
        if strength > best or shown is None:
            best, shown = strength, effect
    return _Moved(sign, best, shown)


def _strength(sign: Sign, effect: Effect) -> float:
    change = effect.delta if sign.absolute else effect.log_ratio
    size = abs(change) if sign.direction not in (UP, DOWN) else change * sign.direction
    if size < sign.least or abs(effect.delta) < sign.floor or abs(effect.z) < CLEAR_Z:
        return 0.0
    if sign.level is not None and effect.after < sign.level:
        return 0.0
    span = math.log(min(size, sign.full) / sign.least) / math.log(sign.full / sign.least)
    sure = 0.4 + 0.6 * min((abs(effect.z) - CLEAR_Z) / (SURE_Z - CLEAR_Z), 1.0)
    sure = min(sure, FEW.get(effect.incident_points, 1.0))
    return (0.35 + 0.65 * span) * sure


def _standing(sign: Sign, effect: Effect) -> float:
    if effect.after < sign.least:
        return 0.0
    span = math.log(min(effect.after, sign.full) / sign.least) / math.log(sign.full / sign.least)
    return 0.35 + 0.65 * span


def _yielding(made: _Judged, named: dict[str, float]) -> _Judged:
    for better in made.hypothesis.yields_to:
        if better in named and made.hypothesis.id != better:
            why = f"{better} explains the same more specifically"
            odds = min(made.odds - YIELD, named[better] - YIELD)
            return replace(made, odds=odds, against=(*made.against, why))
    return made


def _lateness(effect: Effect | None, evidence: Evidence) -> str:
    if effect is None or effect.onset_ns is None or evidence.onset_ns is None:
        return ""
    late = effect.onset_ns - evidence.onset_ns
    if late <= 2 * effect.period_ns + 50_000_000:
        return ""
    return f"{SIGNALS[effect.name].label} moved {late / 1e9:.1f} s after the batches"


def _with_order(cause: Cause, evidence: Evidence) -> Cause:
    """The same cause, with what moved first as its last sentence."""
    order = [sentence for _, sentence in sorted(_onsets(evidence))]
    if len(order) < 2:
        return cause
    return replace(cause, evidence=(*cause.evidence, "moved first: " + ", then ".join(order[:4])))


def _onsets(evidence: Evidence) -> Iterator[tuple[float, str]]:
    if evidence.onset_ns is None:
        return
    yield 0.0, "batches at 0 s"
    seen: dict[str, float] = {}
    for effects in evidence.effects.values():
        for effect in effects:
            if effect.onset_ns is not None and abs(effect.z) >= SURE_Z and not _of_batches(effect):
                at = (effect.onset_ns - evidence.onset_ns) / 1e9
                seen[effect.name] = min(at, seen.get(effect.name, at))
    for name, at in seen.items():
        yield at, f"{SIGNALS[name].label} at {at:+.1f} s"


def _of_batches(effect: Effect) -> bool:
    return effect.name.startswith(("batch.", "stage.", "workload.", "model.", "metrics."))


def _unknown(evidence: Evidence, causes: Sequence[Cause]) -> Cause:
    moved = [
        sentence(effect)
        for name in ("batch.excess", "batch.duration_seconds", "stage.wait", "stage.launch", "stage.host")
        for effect in evidence.effects.get(name, ())
        if abs(effect.z) >= CLEAR_Z and abs(effect.delta) > 0.02 * abs(effect.before)
    ]
    slower = evidence.slower is not None and evidence.slower > 0.02
    return Cause(
        id=UNKNOWN,
        score=round(1 - (causes[0].score if causes else 1 - HIGHEST), 3),
        text=f"{UNKNOWN_TEXT if moved or slower else NOTHING_TEXT}.",
        evidence=tuple(moved),
        against=_missing(evidence),
        next_step=UNKNOWN_STEP,
    )


def _missing(evidence: Evidence) -> tuple[str, ...]:
    """Which kinds of counters were not there, for `unknown` is only as good as what could be seen."""
    kinds = (("GPU counters", "gpu_"), ("CPU counters", "host_cpu_"), ("run-queue counters", "thread_runq"))
    said = [
        f"{label}: too few readings" if any(n.startswith(start) for n in evidence.thin) else f"no {label}"
        for label, start in kinds
        if not any(name.startswith(start) for name in evidence.effects)
    ]
    return tuple(said)


def sentence(effect: Effect) -> str:
    """One effect in words, with its numbers."""
    signal = SIGNALS[effect.name]
    where = f" ({effect.device})" if effect.device else ""
    before, after = written(effect.before, signal.unit), written(effect.after, signal.unit)
    ratio = effect.log_ratio
    change = ""
    if before != after and effect.before and abs(ratio) < math.log(20):
        change = f", {100 * math.expm1(ratio):+.0f} %"
    elif before != after and effect.before and math.isfinite(ratio):
        change = f", {math.exp(abs(ratio)):.0f} times {'more' if ratio > 0 else 'less'}"
    text = f" [{effect.text}]" if effect.text else ""
    if before == after:
        return f"{signal.label}{where} stayed at {after}"
    return f"{signal.label}{where} {before} -> {after}{change}{text}"


def _standing_sentence(effect: Effect) -> str:
    signal = SIGNALS[effect.name]
    where = f" ({effect.device})" if effect.device else ""
    text = f" [{effect.text}]" if effect.text else ""
    since = "high before as well" if effect.baseline_points else "with nothing before it to compare"
    return f"{signal.label}{where} {written(effect.after, signal.unit)}, {since}{text}"


def _score(odds: float) -> float:
    return round(min(1 / (1 + math.exp(-GAIN * odds)), HIGHEST), 3)
