"""The nouns: frozen dataclasses, no input or output."""

from prismtop.model.alert import Alert, Cause, Severity
from prismtop.model.batch import STAGES, Batch, Mode, Origin, RankTime, Stage, Workload
from prismtop.model.breakdown import Bound, Breakdown, DeviceTime, HostTime, Part
from prismtop.model.capture import Capture, CapturePhase, CaptureRequest, Layer, LayerState
from prismtop.model.counter import Counter
from prismtop.model.frame import (
    HISTORY_S,
    AttachState,
    Clock,
    EngineMetrics,
    FirstToken,
    Frame,
    HookStatus,
    Lost,
    Percentiles,
    ProbeCost,
    Request,
    Throughput,
)
from prismtop.model.judgement import Judgement
from prismtop.model.prediction import ModelCard, ModelState, Prediction, Verdict
from prismtop.model.recording import Recording, Replay
from prismtop.model.slo import Headroom, Interference, SloStatus, SloTargets
from prismtop.model.target import Group, ProcessId, Target

__all__ = [
    "HISTORY_S",
    "STAGES",
    "Alert",
    "AttachState",
    "Batch",
    "Bound",
    "Breakdown",
    "Capture",
    "CapturePhase",
    "CaptureRequest",
    "Cause",
    "Clock",
    "Counter",
    "DeviceTime",
    "EngineMetrics",
    "FirstToken",
    "Frame",
    "Group",
    "Headroom",
    "HookStatus",
    "HostTime",
    "Interference",
    "Judgement",
    "Layer",
    "LayerState",
    "Lost",
    "Mode",
    "ModelCard",
    "ModelState",
    "Origin",
    "Part",
    "Percentiles",
    "Prediction",
    "ProbeCost",
    "ProcessId",
    "RankTime",
    "Recording",
    "Replay",
    "Request",
    "Severity",
    "SloStatus",
    "SloTargets",
    "Stage",
    "Target",
    "Throughput",
    "Verdict",
    "Workload",
]
