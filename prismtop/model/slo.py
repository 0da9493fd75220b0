"""`SloStatus`: service level objectives, how well they are met, and how much room is left."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SloTargets:
    """Targets in milliseconds; None is: no target."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a target at all."""
        return not (self.ttft_ms is self.tpot_ms is self.e2e_ms is None)


@dataclass(frozen=True)
class Headroom:
    """From the fitted model: how far the load may grow at the present mix of contexts.

    Attributes:
        max_batch_size: largest decode batch whose expected step stays under the TPOT target.
        max_prefill_tokens: largest prefill that a step may carry beside the present decodes.
        breaks_in_s: seconds until a target breaks at the present trend; None when it does not.
        reason: why values are missing.
    """

    max_batch_size: int | None = None
    max_prefill_tokens: int | None = None
    breaks_in_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Interference:
    """Time that prefill tokens added to the steps of decoding requests, over the window.

    Attributes:
        share: of the decoding requests' step time.
        worst_ms: the most that one batch added.
        worst_seq: that batch.
    """

    share: float
    worst_ms: float
    worst_seq: int


@dataclass(frozen=True)
class SloStatus:
    """Attainment over the window; None is: no request with that figure in the window, or no target.

    Attributes:
        targets: what was asked for.
        window_s: seconds the figures cover.
        requests: finished in the window.
        ttft, tpot, e2e: share of requests that met each target.
        attainment: share of requests that met all targets.
        goodput_per_s: requests a second that met all targets.
        budget_burn: speed at which the error budget is used; 1 is: just allowed.
        headroom: how far the load may grow.
        interference: prefill-decode interference; None without mixed batches.
    """

    targets: SloTargets
    window_s: float
    requests: int = 0
    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    attainment: float | None = None
    goodput_per_s: float | None = None
    budget_burn: float | None = None
    headroom: Headroom = Headroom()
    interference: Interference | None = None
