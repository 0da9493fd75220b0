"""What batches say, as series: stages at equal workload, the workload itself, ranks."""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prismtop.diagnosis.evidence import ENOUGH, Point, median
from prismtop.model import Batch, Mode, Part, Workload

HOST_STAGES = ("schedule", "prepare", "sample", "post")
"""Stages in which the host works for the batch; `launch` is kept apart, for it also waits for the device."""
_ALL: tuple[object, ...] = ("all",)


class Observation(NamedTuple):
    """What is remembered of a batch.

    Attributes:
        time_ns: its start.
        pid, seq, mode, duration_ns, idle_ns, workload: as in `Batch`.
        excess: judged time over the predicted one; None without a prediction.
        stages: exclusive nanoseconds by name.
        skew: slowest rank's time before its collective over the median rank's; None without ranks.
        slowest: that rank.
        whole: what device and host did in it; None without a deep capture.
    """

    time_ns: int
    pid: int
    seq: int
    mode: Mode
    duration_ns: int
    idle_ns: int
    workload: Workload
    excess: float | None
    stages: Mapping[str, int]
    skew: float | None
    slowest: int | None
    whole: Part | None = None


def observe(batch: Batch) -> Observation:
    """What to remember of a batch."""
    skew, slowest = _skew(batch)
    return Observation(
        batch.start_ns,
        batch.pid,
        batch.seq,
        batch.mode,
        batch.duration_ns,
        batch.idle_ns,
        batch.workload,
        _excess(batch),
        batch.stage_ns(),
        skew,
        slowest,
        batch.breakdown.parts[0] if batch.breakdown is not None and batch.breakdown.parts else None,
    )


def batch_series(
    baseline: Sequence[Observation], incident: Sequence[Observation]
) -> dict[str, tuple[list[Point], list[Point]]]:
    """Series by signal name in both windows, in order of time.

    Times are held against those of baseline batches that did the same work: the same mode and, as far as the
    baseline has enough of them, nearly the same batch size, prompt tokens and context.
    """
    usual = Usual(baseline)
    made: dict[str, tuple[list[Point], list[Point]]] = {}
    deep = any(seen.whole is not None for window in (baseline, incident) for seen in window)
    for name, take in _READERS.items() if deep else _SHALLOW.items():
        windows = tuple(
            [(seen.time_ns, value) for seen in window if (value := take(seen, usual)) is not None]
            for window in (baseline, incident)
        )
        if windows[0] or windows[1]:
            made[name] = (windows[0], windows[1])
    return made


class Usual:
    """What batches of a baseline took, by the work that they did.

    Answers are kept by the identity of the observation: ask only about observations that outlive this.
    """

    def __init__(self, baseline: Iterable[Observation]) -> None:
        members: dict[tuple[object, ...], list[Observation]] = {}
        durations: list[float] = []
        for seen in baseline:
            durations.append(seen.duration_ns)
            for key in (*_keys(seen), _ALL):
                members.setdefault(key, []).append(seen)
        self._members = members
        self._found: dict[int, tuple[object, ...] | None] = {}
        self._stages: dict[tuple[tuple[object, ...], tuple[str, ...]], float] = {}
        self._shares: dict[tuple[tuple[object, ...], tuple[str, ...]], tuple[float, float, float]] = {}
        self.duration_ns = median(durations) if durations else 0.0

    def peers(self, seen: Observation) -> tuple[object, ...] | None:
        """The closest group of baseline batches that did the same work; None when there is none."""
        which = id(seen)
        if which not in self._found:
            groups = (key for key in _keys(seen) if len(self._members.get(key, ())) >= ENOUGH)
            self._found[which] = next(groups, None)
        return self._found[which]

    def growth(self, seen: Observation, stages: tuple[str, ...]) -> float | None:
        """Time in these stages as a share of a usual batch: what is usual for all, plus what this batch took
        beyond its peers. None without peers, or when the engine does not show the stages.
        """
        key = self.peers(seen)
        if key is None or not self.duration_ns:
            return None
        own = [seen.stages[name] for name in stages if name in seen.stages]
        if not own:
            return None
        # By peers' own duration, so that batches of any size can be put side by side.
        found = self._shares.get((key, stages))
        if found is None:
            length = self._median(key, ())
            share = self._median(key, stages) / length if length else 0.0
            found = self._shares[key, stages] = length, share, self._share(stages)
        length, group, usual = found
        return sum(own) / length - group + usual if length else None

    def excess(self, seen: Observation) -> float | None:
        """Duration over the prediction, or over that of its peers."""
        if seen.excess is not None:
            return seen.excess
        key = self.peers(seen)
        length = self._median(key, ()) if key is not None else 0.0
        return seen.duration_ns / length if length else None

    def length(self, seen: Observation) -> float:
        """What a batch with this work usually takes, ns; its own length without a baseline. What makes every
        batch longer by the same share would not show as a share of the batch itself.
        """
        key = self.peers(seen)
        return (self._median(key, ()) if key is not None else self.duration_ns) or seen.duration_ns

    def _share(self, stages: tuple[str, ...]) -> float:
        length = self._median(_ALL, ())
        return self._median(_ALL, stages) / length if length else 0.0

    def _median(self, key: tuple[object, ...], stages: tuple[str, ...]) -> float:
        found = self._stages.get((key, stages))
        if found is None:
            group = self._members[key]
            values = [
                float(sum(seen.stages.get(name, 0) for name in stages) if stages else seen.duration_ns)
                for seen in group
            ]
            found = self._stages[key, stages] = median(values)
        return found


def slowest_rank(incident: Sequence[Observation]) -> str:
    """`rank 3`, when one rank is the slowest of most batches; else empty."""
    ranks = Tally(seen.slowest for seen in incident if seen.slowest is not None)
    if not ranks:
        return ""
    rank, count = ranks.most_common(1)[0]
    return f"rank {rank}" if count > 0.6 * sum(ranks.values()) else ""


def _keys(seen: Observation) -> tuple[tuple[object, ...], ...]:
    """Groups of equal work, narrowest first."""
    load = seen.workload
    size, prompt = _octave(load.batch_size, 4), _octave(load.prefill_tokens, 2)
    context = _octave(load.context_tokens, 2)
    return (
        (seen.mode, size, prompt, context),
        (seen.mode, size, prompt),
    )


def _octave(value: int | None, steps: int) -> int | None:
    return None if value is None else round(steps * math.log2(1 + value))


def _excess(batch: Batch) -> float | None:
    expected = batch.prediction
    if expected is None or expected.expected_ns <= 0:
        return None
    took = batch.judged_ns
    return None if took is None else took / expected.expected_ns


def _skew(batch: Batch) -> tuple[float | None, int | None]:
    if len(batch.ranks) < 2:
        return None, None
    last = max(batch.ranks, key=lambda rank: rank.pre_collective_ns)
    others = [float(rank.pre_collective_ns) for rank in batch.ranks if rank is not last]
    usual = median(others)
    return (last.pre_collective_ns / usual, last.rank) if usual > 0 else (None, None)


def _stage(*names: str) -> Callable[[Observation, Usual], float | None]:
    return lambda seen, usual: usual.growth(seen, names)


def _load(name: str) -> Callable[[Observation, Usual], float | None]:
    return lambda seen, _: getattr(seen.workload, name)


def _decode_excess(seen: Observation, usual: Usual) -> float | None:
    return usual.excess(seen) if seen.mode is Mode.DECODE else None


def _prefill_share(seen: Observation, _: Usual) -> float | None:
    if seen.mode in (Mode.PREFILL, Mode.MIXED, Mode.DECODE):
        return float(seen.mode is not Mode.DECODE)
    return None


def _unseen(seen: Observation, usual: Usual) -> float | None:
    return float(usual.peers(seen) is None)


def _cached_share(seen: Observation, _: Usual) -> float | None:
    load = seen.workload
    if not load.new_requests or load.cached_tokens is None or load.prefill_tokens is None:
        return None
    prompt = load.cached_tokens + load.prefill_tokens
    return load.cached_tokens / prompt if prompt else None


def _idle_share(seen: Observation, _: Usual) -> float | None:
    whole = seen.idle_ns + seen.duration_ns
    return seen.idle_ns / whole if whole > 0 else None


def _host_share(name: str) -> Callable[[Observation, Usual], float | None]:
    def share(seen: Observation, usual: Usual) -> float | None:
        value: int | None = getattr(seen.whole.host, name) if seen.whole is not None else None
        length = usual.length(seen)
        return value / length if value is not None and length else None

    return share


def _device_share(name: str) -> Callable[[Observation, Usual], float | None]:
    def share(seen: Observation, usual: Usual) -> float | None:
        device = seen.whole.device if seen.whole is not None else None
        length = usual.length(seen)
        if device is None or not length:
            return None
        value: int = getattr(device, name)
        return value / length / max(1, device.devices)

    return share


_READERS: Mapping[str, Callable[[Observation, Usual], float | None]] = {
    "batch.excess": lambda seen, usual: usual.excess(seen),
    "batch.decode_excess": _decode_excess,
    "batch.duration_seconds": lambda seen, _: seen.duration_ns / 1e9,
    "batch.idle_share": _idle_share,
    "stage.host": _stage(*HOST_STAGES),
    "stage.recv": _stage("recv"),
    "stage.stream": _stage("stream"),
    "stage.launch": _stage("launch"),
    "stage.wait": _stage("wait"),
    "workload.batch_size": _load("batch_size"),
    "workload.prefill_tokens": _load("prefill_tokens"),
    "workload.prefill_share": _prefill_share,
    "workload.context_tokens": _load("context_tokens"),
    "workload.unseen_share": _unseen,
    "workload.waiting": _load("waiting"),
    "workload.kv_usage": _load("kv_usage"),
    "workload.preempted": _load("preempted"),
    "workload.cached_share": _cached_share,
    "rank.skew": lambda seen, _: seen.skew,
    "deep.gc_share": _host_share("gc_ns"),
    "deep.runqueue_share": _host_share("runqueue_ns"),
    "deep.launch_share": _host_share("launches_ns"),
    "deep.device_idle_share": _device_share("idle_ns"),
    "deep.exposed_share": _device_share("exposed_ns"),
    "deep.copy_share": _device_share("copy_ns"),
}
_SHALLOW = {name: take for name, take in _READERS.items() if not name.startswith("deep.")}
"""Without those that read what only a deep capture knows."""
