"""How readily alerts open: three named settings, no thresholds for the user to tune."""

from __future__ import annotations

from dataclasses import dataclass

from prismtop.errors import UsageError


@dataclass(frozen=True)
class Sensitivity:
    """What a rule needs before it opens an alert. Every threshold also rises with the engine's own noise.

    Attributes:
        name: quiet, normal or sensitive.
        point: log ratio that one batch must exceed.
        shift: log ratio that the median of five batches must exceed.
        drift_allowance, drift_limit: of the cumulative sum against the anchor (log ratios).
        false_alerts_per_h: that each threshold is set for, where the noise allows no better; summed over the
            rules.
    """

    name: str
    point: float
    shift: float
    drift_allowance: float
    drift_limit: float
    false_alerts_per_h: float


RULES = 3
QUIET = Sensitivity("quiet", 0.92, 0.13, 0.09, 0.25, 0.1)
NORMAL = Sensitivity("normal", 0.50, 0.07, 0.055, 0.10, 0.6)
SENSITIVE = Sensitivity("sensitive", 0.30, 0.05, 0.045, 0.10, 6.0)
LEVELS = {level.name: level for level in (QUIET, NORMAL, SENSITIVE)}


def sensitivity(name: str) -> Sensitivity:
    """The level of that name. Raises UsageError, naming those that exist."""
    if name not in LEVELS:
        raise UsageError(f"there is no sensitivity {name!r}.", fix=f"Use one of {', '.join(LEVELS)}.")
    return LEVELS[name]
