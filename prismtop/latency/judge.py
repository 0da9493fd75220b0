"""The judge of a session: one model per engine process, the objectives, the model card."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

from prismtop.latency.card import card_of
from prismtop.latency.engine import EngineJudge
from prismtop.latency.headroom import Prefills, Trend, headroom
from prismtop.latency.padding import schedule_for
from prismtop.latency.sensitivity import sensitivity
from prismtop.latency.slo import SloGuard
from prismtop.latency.state import (
    MALFORMED,
    Loaded,
    Store,
    dump,
    gpu_names,
    key_of,
    restore,
    state_dir,
)
from prismtop.latency.trees import Background
from prismtop.model import Alert, Batch, Group, Judgement, ModelCard, Request, SloStatus, SloTargets
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.settings import Settings

CARD_NS = 10**9
"""Time between two model cards."""
SAVE_NS = 600 * 10**9
"""Time between two copies of the state, for monitors that do not end in order."""


class Tick(Protocol):
    """What is judged of a `SourceTick`."""

    @property
    def time_ns(self) -> int:
        """Now, on the batches' clock."""

    @property
    def batches(self) -> tuple[Batch, ...]:
        """New batches, in order."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """Requests that finished."""


class LatencyJudge:
    """Implements `prismtop.session.Judge`. Knows no engine and no clock but the ticks'."""

    def __init__(
        self, settings: Settings, group: Group, *, inline: bool = False, store: Store | None = None
    ) -> None:
        self._store = store
        self._key = key_of(group, gpu_names() if store else ())
        self._loaded: Loaded | None = None
        self._warnings: list[str] = []
        self._saved_ns: int | None = None
        self._engine = group.engine
        self._sensitivity = sensitivity(settings.sensitivity)
        self._background = Background(inline=inline)
        self._ids = itertools.count(1)
        self._engines: dict[int, EngineJudge] = {}
        self._origin = "fresh"
        self._card: ModelCard | None = None
        self._card_ns = self._now_ns = 0
        targets = SloTargets(
            settings.slo_ttft_ms or None, settings.slo_tpot_ms or None, settings.slo_e2e_ms or None
        )
        pid = group.probed[0].id.pid if group.probed else 0
        self._guard = SloGuard(targets, settings.slo_target, self._ids, pid) if targets.any else None
        self._prefills = Prefills()
        self._trend = Trend()
        self._slo: SloStatus | None = None

    def take(self, tick: Tick) -> Judgement:
        """Predict every batch of the tick, then learn from it."""
        self._now_ns = tick.time_ns
        batches = tuple([self.engine(batch.pid).take(batch) for batch in tick.batches])
        changed: tuple[Alert, ...] = ()
        for engine in self._engines.values():
            changed += engine.alerts(tick.time_ns)
        due = self._card is None or not 0 <= tick.time_ns - self._card_ns < CARD_NS
        if self._guard:
            changed += self._guarded(self._guard, tick, batches, due)
        if due:
            self._card, self._card_ns = self.card(), tick.time_ns
        if self._background.failure:
            why, self._background.failure = self._background.failure, ""
            self._warnings.append(f"the latency model could not be refitted: {safe_text(why, 160)}")
        warnings, self._warnings = tuple(self._warnings), []
        self._save_now_and_then(tick.time_ns)
        return Judgement(batches, changed, self._card, self._slo, warnings)

    def _save_now_and_then(self, now_ns: int) -> None:
        if self._saved_ns is None or now_ns < self._saved_ns:
            self._saved_ns = now_ns
        elif now_ns - self._saved_ns >= SAVE_NS:
            self._saved_ns = now_ns
            failed = self._save()
            if failed:
                self._warnings.append(failed)

    def _guarded(
        self, guard: SloGuard, tick: Tick, batches: tuple[Batch, ...], due: bool
    ) -> tuple[Alert, ...]:
        guard.take(tick.requests, tick.time_ns)
        for batch in batches:
            work = batch.workload
            alone = None
            if work.prefill_tokens and work.decode_tokens:
                engine = self._engines[batch.pid]
                alone = engine.expected_decode_ns(work.decode_tokens, work.context_tokens or 0)
            self._prefills.take(batch, alone)
            self._trend.take(batch)
        if due:
            first = next(iter(self._engines.values()), None)
            room = headroom(first, guard.targets.tpot_ms, self._trend)
            seq = batches[-1].seq if batches else 0
            self._slo = guard.status(tick.time_ns, room, self._prefills.figure(), seq)
        return guard.alerts()

    def engine(self, pid: int) -> EngineJudge:
        """The judge of one process's batches."""
        found = self._engines.get(pid)
        if found is None:
            found = self._new_engine()
            self._engines[pid] = found
        return found

    def _new_engine(self) -> EngineJudge:
        schedule = schedule_for(self._engine)
        made = EngineJudge(self._sensitivity, schedule, self._ids, self._background)
        if self._store is None:
            return made
        if self._loaded is None:
            self._loaded = self._store.load(self._key)
            self._warnings.extend(self._loaded.warnings)
        loaded = self._loaded
        if loaded.content is None:
            return made
        try:
            restore(made, loaded.content, exact=loaded.exact)
        except MALFORMED as error:
            self._warnings.append(f"a kept latency model was not used: {safe_text(str(error), 120)}")
            self._loaded = Loaded(None, False)
            return EngineJudge(self._sensitivity, schedule, self._ids, self._background)
        self._origin = "restored" if loaded.exact else "calibrated"
        return made

    def _save(self) -> str:
        """Write the state of the process with most batches; a sentence when that failed."""
        engines = [engine for engine in self._engines.values() if engine.trained]
        if self._store is None or not engines:
            return ""
        try:
            self._store.save(self._key, dump(max(engines, key=lambda engine: engine.trained)))
        except (OSError, ValueError) as error:
            return f"the latency model could not be kept: {safe_text(str(error), 160)}"
        return ""

    def card(self) -> ModelCard:
        """The model card as of now."""
        return card_of(tuple(self._engines.values()), self._sensitivity, self._origin)

    def finish(self) -> tuple[Alert, ...]:
        """The batches ended: close what is open; the alerts that changed."""
        changed: tuple[Alert, ...] = ()
        for engine in self._engines.values():
            engine.episodes.close()
            changed += engine.episodes.take()
        if self._guard:
            self._guard.close(self._now_ns)
            changed += self._guard.alerts()
        return changed

    def close(self) -> tuple[str, ...]:
        """Save what was learnt."""
        self._background.wait(2.0)
        failed = self._save()
        return (failed,) if failed else ()


def make_judge(settings: Settings, group: Group) -> LatencyJudge:
    """The judge of a live session: it keeps what it learnt in the user's state directory."""
    return LatencyJudge(settings, group, store=Store(state_dir()))
