"""Layers that are collected outside the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prismtop.deepdive.layer import Collector
from prismtop.model import CaptureRequest


def collectors(pids: Sequence[int], hot: Mapping[int, int], request: CaptureRequest) -> list[Collector]:
    """Those that make sense here.

    Args:
        pids: captured processes.
        hot: native id of the model thread by pid, where it is known.
    """
    return []
