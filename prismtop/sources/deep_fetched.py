"""What a deep capture leaves here, apart from how it is fetched: another process has to read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FetchedDeep:
    """The files of one process, here.

    Attributes:
        profile: PyTorch's own JSON (Chrome trace, CLOCK_REALTIME), with markers
            `prismtop_sync_<mono>_<real>`.
        events: JSON lines `{"layer":"python"|"gc","name":...,"t0":ns,"dur":ns,"tid":native id,"args":{...}}`,
            times in integer ns of CLOCK_MONOTONIC.
    """

    pid: int
    profile: Path | None
    events: Path | None
