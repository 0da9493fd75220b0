"""Batches and their stages as slices: most of what a recording holds, so it is the part that must be fast."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import isfinite
from operator import attrgetter
from typing import Any

from prismtop.model import Batch, Breakdown, ModelState, Origin, Prediction, Stage, Verdict, Workload
from prismtop.safe_text import safe_text
from prismtop.trace.metadata import json_object
from prismtop.trace.own import WORKLOAD
from prismtop.trace.tracks import Tracks, quoted

_TEMPLATES_MAX = 20_000
_workload_values = attrgetter(*WORKLOAD)
_Templates = dict[tuple[str, str], str]


class BatchEncoder:
    """Encodes the batches of one session, in order. Not thread safe."""

    def __init__(self, tracks: Tracks, base_ns: int, engine: str) -> None:
        self._tracks = tracks
        self._base = base_ns
        self._engine = engine
        self._nested: dict[tuple[int, int, int | None, int], _Templates] = {}
        self._apart: dict[tuple[object, ...], str] = {}
        self._workloads: dict[tuple[type, ...], str] = {}

    def encode(self, batch: Batch, out: list[str]) -> None:
        """Append the batch, and behind it its stages."""
        start = max(0, batch.start_ns - self._base)
        duration = max(0, batch.duration_ns)
        pid, stages = batch.pid, batch.stages
        thread = 0
        for stage in stages:
            if stage.pid == pid:
                thread = stage.tid
                break
        tid = self._tracks.place(pid, "batches", start, start + duration)
        args = f'"seq":{batch.seq},"stages":{len(stages)}' + self._workload(batch.workload)
        if batch.period_ns is not None:
            args += f',"period_ns":{batch.period_ns}'
        if batch.prediction is not None:
            args += _prediction(batch.prediction)
        if thread:
            args += f',"thread":{thread}'
        if batch.rank is not None:
            args += f',"rank":{batch.rank}'
        if batch.origin is not Origin.EXACT or batch.engine != self._engine or batch.suspect:
            args += self._oddities(batch)
        if batch.idle_ns:
            args += f',"idle_ns":{batch.idle_ns}'
        if batch.ranks:
            ranks = ",".join(f"[{r.rank},{r.pid},{r.pre_collective_ns}]" for r in batch.ranks)
            args += f',"ranks":[{ranks}]'
        if batch.breakdown is not None:
            args += f',"breakdown":{_breakdown(batch.breakdown)}'
        out.append(
            f'{{"ph":"X","cat":"batch","name":"{batch.mode.value}","pid":{pid},"tid":{tid},"ts":{us(start)},'
            f'"dur":{us(duration)},"args":{{{args}}}}}'
        )
        if stages:
            mark = len(out)
            if not self._all_nested(batch, thread, tid, start, start + duration, out):
                del out[mark:]
                self._each(batch, thread, tid, start, start + duration, out)

    def _workload(self, workload: Workload) -> str:
        values = _workload_values(workload)
        kinds = tuple(map(type, values))
        template = self._workloads.get(kinds)
        if template is None:
            template = self._workloads[kinds] = "".join(
                "%.0s" if kind is type(None) else f',"{name}":%r'
                for name, kind in zip(WORKLOAD, kinds, strict=True)
            )
        if float in kinds and not all(isfinite(value) for value in values if type(value) is float):
            without: dict[str, Any] = {
                name: None for name, value in zip(WORKLOAD, values, strict=True) if type(value) is float
            }
            return self._workload(replace(workload, **without))
        text = template % values
        if workload.sampled:
            text += ',"sampled":[' + ",".join(map(quoted, sorted(workload.sampled))) + "]"
        return text

    def _oddities(self, batch: Batch) -> str:
        text = ""
        if batch.origin is not Origin.EXACT:
            text += f',"origin":"{batch.origin.value}"'
        if batch.engine != self._engine:
            text += f',"engine":{quoted(batch.engine)}'
        if batch.suspect:
            text += f',"suspect":{quoted(batch.suspect)}'
        return text

    def _all_nested(self, batch: Batch, thread: int, tid: int, start: int, end: int, out: list[str]) -> bool:
        """The usual case: stages of the batch's own thread, in order of their start, inside one another and
        the batch. False when they are not; what was appended is wrong then.
        """
        base, seq, pid, rank = self._base, batch.seq, batch.pid, batch.rank
        lane = (pid, thread, rank, tid)
        templates = self._nested.get(lane)
        if templates is None:
            if len(self._nested) > _TEMPLATES_MAX:
                self._nested.clear()
            templates = self._nested[lane] = {}
        if start < 1000:
            return False
        # Ends of the slices that are open around the previous one, whose own end is `top`.
        around: list[int] = []
        top, last = start, 0
        append = out.append
        for stage in batch.stages:
            span = stage.span_ns
            at = stage.start_ns - base
            if stage.tid != thread or stage.pid != pid or stage.rank != rank or span < 1000 or at < start:
                return False
            if at >= top:
                while around and around[-1] <= at:
                    around.pop()
                limit = around[-1] if around else end
            elif at >= last:
                around.append(top)
                limit = top
            else:
                return False
            last, top = at, at + span
            if top > limit:
                return False
            name = (stage.name, stage.hook)
            prefix = templates.get(name)
            if prefix is None:
                if len(templates) > _TEMPLATES_MAX:
                    templates.clear()
                prefix = templates[name] = _stage_prefix(stage, batch, thread, tid)
            since, length = str(at), str(span)
            if stage.duration_ns == span:
                append(f'{prefix}{seq}}},"ts":{since[:-3]}.{since[-3:]},"dur":{length[:-3]}.{length[-3:]}}}')
            else:
                append(
                    f'{prefix}{seq},"excl_ns":{stage.duration_ns}}},"ts":{since[:-3]}.{since[-3:]},'
                    f'"dur":{length[:-3]}.{length[-3:]}}}'
                )
        return True

    def _each(self, batch: Batch, thread: int, tid: int, start: int, end: int, out: list[str]) -> None:
        """Stages of several processes or threads, parents before children: nested in their batch's lane, or
        in a lane of their own process and thread. What does not nest there gets a lane for itself.
        """
        base = self._base
        order = [
            (max(0, stage.start_ns - base), -max(0, stage.span_ns or stage.duration_ns), n, stage)
            for n, stage in enumerate(batch.stages)
        ]
        in_order = all(before <= after for before, after in pairwise([entry[:2] for entry in order]))
        if not in_order:
            order.sort(key=lambda entry: entry[:3])
        open_ends: dict[tuple[int, int], tuple[int, list[int]]] = {(batch.pid, thread): (tid, [end])}
        for at, span, n, stage in order:
            until = at - span
            mine = (stage.pid, stage.tid)
            if mine not in open_ends:
                last = max(a - s for a, s, _, other in order if (other.pid, other.tid) == mine)
                open_ends[mine] = (self._tracks.place(stage.pid, _lane_name(stage), at, last), [last])
            where, ends = open_ends[mine]
            while len(ends) > 1 and ends[-1] <= at:
                ends.pop()
            if start <= at and until <= ends[-1]:
                ends.append(until)
            else:
                where = self._tracks.place(stage.pid, _lane_name(stage), at, until)
            out.append(self._stage(stage, batch, thread, where, at, -span, -1 if in_order else n))

    def _stage(self, stage: Stage, batch: Batch, thread: int, tid: int, at: int, span: int, n: int) -> str:
        key = (stage.name, stage.hook, stage.pid, tid, stage.tid, stage.rank, batch.pid, thread, batch.rank)
        prefix = self._apart.get(key)
        if prefix is None:
            if len(self._apart) > _TEMPLATES_MAX:
                self._apart.clear()
            prefix = self._apart[key] = _stage_prefix(stage, batch, thread, tid)
        more = "" if span == stage.duration_ns else f',"excl_ns":{stage.duration_ns}'
        if not stage.span_ns:
            more += ',"span_ns":0'
        if n >= 0:
            more += f',"n":{n}'
        return f'{prefix}{batch.seq}{more}}},"ts":{us(at)},"dur":{us(span)}}}'


def us(ns: int) -> str:
    """Microseconds with exactly three decimals of nanoseconds that are not negative."""
    text = str(ns)
    return f"{text[:-3]}.{text[-3:]}" if ns >= 1000 else f"0.{ns:03d}"


def _prediction(prediction: Prediction) -> str:
    text = (
        f',"expected_ns":{prediction.expected_ns},"low_ns":{prediction.low_ns},"high_ns":{prediction.high_ns}'
    )
    if prediction.verdict is not Verdict.OK:
        text += f',"verdict":"{prediction.verdict.value}"'
    if prediction.state is not ModelState.READY:
        text += f',"model":"{prediction.state.value}"'
    if prediction.basis != "duration":
        text += f',"basis":{quoted(prediction.basis)}'
    return text


def _breakdown(breakdown: Breakdown) -> str:
    """Fields under their own names; what is None is left out."""
    parts = [
        {
            "stage": part.stage,
            "wall_ns": part.wall_ns,
            "host": {name: value for name, value in vars(part.host).items() if value is not None},
            "device": None if part.device is None else vars(part.device),
        }
        for part in breakdown.parts
    ]
    bound = None if breakdown.bound is None else breakdown.bound.value
    return json_object(
        {"pid": breakdown.pid, "parts": parts, "bound": bound, "reason": safe_text(breakdown.reason)}
    )


def _lane_name(stage: Stage) -> str:
    return "stages" if stage.rank is None else f"stages of rank {stage.rank}"


def _stage_prefix(stage: Stage, batch: Batch, thread: int, tid: int) -> str:
    args = f'"hook":{quoted(stage.hook)}'
    if stage.pid != batch.pid:
        args += f',"of":{batch.pid}'
    if stage.tid != thread:
        args += f',"thread":{stage.tid}'
    if stage.rank != batch.rank:
        args += f',"rank":{"null" if stage.rank is None else stage.rank}'
    return (
        f'{{"ph":"X","cat":"stage","name":{quoted(stage.name)},"pid":{stage.pid},"tid":{tid},'
        f'"args":{{{args},"seq":'
    )
