"""The nouns: frozen dataclasses, no input or output."""

from prismtop.model.batch import STAGES, Batch, Mode, Origin, RankTime, Stage, Workload
from prismtop.model.frame import (
    AttachState,
    Clock,
    EngineMetrics,
    Frame,
    HookStatus,
    Lost,
    Percentiles,
    ProbeCost,
    Request,
    Throughput,
)
from prismtop.model.target import Group, ProcessId, Target

__all__ = [
    "STAGES",
    "AttachState",
    "Batch",
    "Clock",
    "EngineMetrics",
    "Frame",
    "Group",
    "HookStatus",
    "Lost",
    "Mode",
    "Origin",
    "Percentiles",
    "ProbeCost",
    "ProcessId",
    "RankTime",
    "Request",
    "Stage",
    "Target",
    "Throughput",
    "Workload",
]
