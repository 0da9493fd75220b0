"""A request as the scheduler sees it, and what a step says about it to the front."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class RequestStatus(enum.Enum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """One generation request.

    Times are nanoseconds of ``CLOCK_MONOTONIC``; ``None`` until they happen. ``num_computed_tokens`` counts
    the tokens whose keys and values are in the KV cache once the steps scheduled so far have run.
    """

    request_id: str
    prompt_token_ids: list[int]
    max_tokens: int
    arrival_time_ns: int
    temperature: float = 0.0
    seed: int = 0
    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    output_token_ids: list[int] = field(default_factory=list)
    scheduled_time_ns: int | None = None
    first_token_time_ns: int | None = None
    last_token_time_ns: int | None = None
    num_prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """Prompt tokens plus tokens generated so far."""
        return self.num_prompt_tokens + len(self.output_token_ids)


@dataclass(frozen=True)
class RequestOutput:
    """One new token of one request. Times are nanoseconds of ``CLOCK_MONOTONIC``."""

    request_id: str
    token_id: int
    num_prompt_tokens: int
    num_output_tokens: int
    finish_reason: str | None
    arrival_time_ns: int
    scheduled_time_ns: int
    token_time_ns: int
    previous_token_time_ns: int | None

    @property
    def finished(self) -> bool:
        """Whether this was the request's last token."""
        return self.finish_reason is not None
