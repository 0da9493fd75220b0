"""Whether the model of mixed batches may be believed when it says that a batch is slow."""

from __future__ import annotations

from collections import deque

LEAST, WINDOW, LAG = 100, 300, 20
SHARE = 0.02


class Trust:
    """How often the model was wrong by more than noise, until shortly ago.

    A model that is often wrong has not met this load yet, and an anomaly is not often. The latest `LAG`
    batches do not count yet: an anomaly must not silence itself.
    """

    def __init__(self) -> None:
        self._late: deque[bool] = deque()
        self._flags: deque[bool] = deque(maxlen=WINDOW)
        self._flagged = 0

    @property
    def given(self) -> bool:
        """Whether nearly all batches were predicted well."""
        return len(self._flags) >= LEAST and self._flagged <= SHARE * len(self._flags)

    def note(self, flag: bool) -> None:
        """Take one batch."""
        self._late.append(flag)
        if len(self._late) <= LAG:
            return
        if len(self._flags) == WINDOW:
            self._flagged -= self._flags[0]
        self._flags.append(self._late.popleft())
        self._flagged += self._flags[-1]
