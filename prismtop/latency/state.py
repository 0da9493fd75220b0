"""What a model keeps between sessions: one JSON file per key in the user's state directory.

The key is what a batch's cost depends on: engine, version, model, GPU, parallelism. A file of that very key
is taken up again; else one of the same engine is scaled to the new one by its first batches
(shared/latency-model.md A6: 2.9 -> 1.8 % after ten rows). A file that is not sound is renamed, never deleted,
and never believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prismtop.latency.decode import BUCKET_SDS, FIXED, SDS, DecodeModel
from prismtop.latency.engine import BASES, EngineJudge
from prismtop.latency.levels import Level
from prismtop.latency.mixed import MEANS, MixedModel
from prismtop.latency.padding import schedule_named
from prismtop.latency.regime import Regime
from prismtop.latency.ridge import Ridge
from prismtop.model import Group
from prismtop.safe_text import safe_file_name, safe_text

SCHEMA = 2
MAX_BYTES = 8_000_000
MAX_FILES = 20
MAX_REGIMES = 16
NOISE_KEPT = 400
MALFORMED = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What reading a file raises that is JSON, but no state."""


@dataclass(frozen=True)
class Key:
    """What a batch's cost depends on; empty is: not known."""

    engine: str
    version: str
    model: str
    gpu: str
    parallel: str

    @property
    def file_name(self) -> str:
        """A name that is safe, readable, and different for different keys."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
        return f"{safe_file_name(self.engine, 24)}-{digest}.json"

    def likeness(self, other: Mapping[str, object]) -> int:
        """How much a state of another key has to do with this one; 0 is nothing."""
        if other.get("engine") != self.engine:
            return 0
        same = [
            bool(value) and other.get(name) == value
            for name, value in asdict(self).items()
            if name != "engine"
        ]
        version, model, gpu, parallel = same
        return 1 + version + 4 * model + 2 * gpu + parallel


def key_of(group: Group, gpus: Sequence[str]) -> Key:
    """The key of a group on a machine with these GPUs (names, one each)."""
    ranks: dict[str, int] = {}
    for member in group.members:
        for kind, rank in member.ranks:
            ranks[kind] = max(ranks.get(kind, 0), rank + 1)
    model = next((member.model for member in group.members if member.model), "")
    return Key(
        group.engine,
        group.version or "",
        model,
        ",".join(sorted(set(gpus))),
        ",".join(f"{kind}{count}" for kind, count in sorted(ranks.items())),
    )


def gpu_names(root: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the kernel's driver lists; empty without one."""
    names = []
    try:
        for file in sorted(root.glob("*/information")):
            for line in file.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    names.append(line.partition(":")[2].strip())
    except OSError:
        pass
    return tuple(names)


def state_dir() -> Path:
    """The directory of the files."""
    import platformdirs

    return Path(platformdirs.user_state_dir("prismtop", appauthor=False)) / "models"


@dataclass(frozen=True)
class Loaded:
    """What was found.

    Attributes:
        content: the state; None when there is none that can be used.
        exact: whether it is of the very key.
        warnings: sentences about files that were set aside.
    """

    content: Mapping[str, Any] | None
    exact: bool
    warnings: tuple[str, ...] = ()


class Store:
    """The files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, key: Key) -> Loaded:
        """The state of this key, else the one most like it."""
        warnings: list[str] = []
        own = self._directory / key.file_name
        if own.exists():
            content = self._read(own, warnings)
            if content is not None and content["key"] == asdict(key):
                return Loaded(content, True, tuple(warnings))
            if content is not None:
                warnings.append(self._set_aside(own, "it is of another engine than its name says"))
        best: Mapping[str, Any] | None = None
        likeness = 0
        for path in self._files():
            if path == own:
                continue
            content = self._read(path, warnings)
            if content is None:
                continue
            found = key.likeness(content["key"])
            if found > likeness:
                best, likeness = content, found
        return Loaded(best, False, tuple(warnings))

    def save(self, key: Key, content: Mapping[str, Any]) -> None:
        """Write the state of this key: the whole file or nothing. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps({"schema": SCHEMA, "key": asdict(key), **content}, allow_nan=False)
        handle, name = tempfile.mkstemp(dir=self._directory, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, self._directory / key.file_name)
        except BaseException:
            try:
                os.unlink(name)
            except OSError:
                pass
            raise

    def _files(self) -> list[Path]:
        try:
            found = [(path.stat().st_mtime, path) for path in self._directory.glob("*.json")]
        except OSError:
            return []
        return [path for _, path in sorted(found, reverse=True)[:MAX_FILES]]

    def _read(self, path: Path, warnings: list[str]) -> Mapping[str, Any] | None:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError("it is too large")
            content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
            if not isinstance(content, dict) or not isinstance(content.get("key"), dict):
                raise ValueError("it is no state of a model")
            if content.get("schema") != SCHEMA:
                raise ValueError("another version of prismtop wrote it")
            check(content)
        except MALFORMED as error:
            warnings.append(self._set_aside(path, str(error)))
            return None
        except OSError:
            return None
        return content

    def _set_aside(self, path: Path, why: str) -> str:
        aside = path.with_suffix(".bad")
        try:
            os.replace(path, aside)
        except OSError as error:
            return (
                f"the latency model in {safe_text(str(path))} is not used: {safe_text(why, 120)} "
                f"({error.strerror})"
            )
        return f"a latency model was set aside as {safe_text(str(aside))}: {safe_text(why, 120)}"


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def check(content: Mapping[str, Any]) -> None:
    """Build everything once. Raises one of `MALFORMED` when a part is not sound."""
    if len(content["regimes"]) > MAX_REGIMES:
        raise ValueError("it has too many regimes")
    if content["basis"] not in BASES:
        raise ValueError("its basis is unknown")
    schedule_named(str(content["schedule"]), [int(size) for size in content["sizes"]])
    for entry in content["regimes"].values():
        _ridge(entry["ridge"])
        if not (_number(entry["unit_ns"]) > 0 and _number(entry["floor"]) >= 0):
            raise ValueError("its scale is not positive")
        [_level(values) for values in entry["levels"].values()]
        [_number(value) for value in entry["noise"]]
        if _number(entry.get("rough", 0.0)) < 0:
            raise ValueError("its noise is negative")
        _number(entry["moved"])
        if "buckets" in entry:
            _number(entry["largest"])
            [(int(bucket), int(at)) for bucket, at in entry["buckets"].items()]


def dump(engine: EngineJudge) -> dict[str, Any]:
    """An engine's models as JSON values. Forests are not kept: they are learnt again from 200 batches."""
    decode = engine.decode_regime()
    schedule = engine.schedule
    if decode is not None and isinstance(decode.model, DecodeModel):
        schedule = decode.model.schedule
    return {
        "schedule": schedule.name,
        "sizes": list(schedule.sizes),
        "basis": engine.basis,
        "regimes": {
            name: _dump_regime(regime)
            for name, regime in engine.regimes.items()
            if regime.detector.ready or regime.kept
        },
    }


def restore(engine: EngineJudge, content: Mapping[str, Any], *, exact: bool) -> None:
    """Put what was kept into a new engine judge; its first batches calibrate it."""
    engine.schedule = schedule_named(str(content["schedule"]), [int(size) for size in content["sizes"]])
    if exact:
        engine.basis = content["basis"]
    for name, entry in content["regimes"].items():
        regime = engine.regime(str(name), carries_prefill=str(name).startswith("mixed"))
        _restore_regime(regime, entry, exact=exact)


def _dump_regime(regime: Regime) -> dict[str, Any]:
    model = regime.model
    ridge = model.ridge
    ridge.flush()
    entry: dict[str, Any] = {
        "unit_ns": model.unit_ns,
        "seen": model.seen,
        "floor": model.floor_ns,
        "ridge": {
            "coefficients": ridge.coefficients.tolist(),
            "moment": ridge.moment.tolist(),
            "gram": ridge.gram.tolist(),
            "rows": ridge.rows,
        },
        "levels": {
            str(bucket): [level.fast, level.anchor, level.rows]
            for bucket, level in regime.levels.items()
            if level.rows
        },
        "noise": regime.detector.noise.values()[-NOISE_KEPT:],
        "rough": regime.detector.rough,
        "moved": regime.moved,
    }
    if isinstance(model, DecodeModel):
        entry["largest"] = model.largest
        entry["buckets"] = {str(bucket): at for bucket, at in model.buckets.items()}
    return entry


def _restore_regime(regime: Regime, entry: Mapping[str, Any], *, exact: bool) -> None:
    model = regime.model
    ridge = _ridge(entry["ridge"])
    if isinstance(model, DecodeModel):
        buckets = {int(bucket): int(at) for bucket, at in entry["buckets"].items()}
        if sorted(buckets.values()) != list(range(FIXED, ridge.size, len(BUCKET_SDS))):
            raise ValueError("its buckets do not fit")
        model.take_over(
            ridge, _number(entry["unit_ns"]), _number(entry["floor"]), int(entry["largest"]), buckets
        )
    elif isinstance(model, MixedModel):
        if ridge.size != len(MEANS):
            raise ValueError("its coefficients do not fit")
        model.take_over(ridge, _number(entry["unit_ns"]), _number(entry["floor"]))
    levels = {int(bucket): _level(values) for bucket, values in entry["levels"].items()} if exact else {}
    noise = [_number(value) for value in entry["noise"]]
    rough = _number(entry.get("rough", 0.0))
    moved = _number(entry["moved"]) if exact else 0.0
    regime.take_over(levels, noise if exact else [], rough, moved, exact=exact)


def _ridge(entry: Mapping[str, Any]) -> Ridge:
    size = len(entry["coefficients"])
    if size == len(MEANS) and size < FIXED:
        from prismtop.latency.mixed import SDS as MIXED_SDS

        ridge = Ridge(MIXED_SDS, MEANS)
    else:
        more = size - FIXED
        if more < 0 or more % len(BUCKET_SDS):
            raise ValueError("its coefficients do not fit")
        ridge = Ridge((*SDS, *BUCKET_SDS * (more // len(BUCKET_SDS))))
    ridge.coefficients = np.array(entry["coefficients"], dtype=np.float64)
    ridge.moment = np.array(entry["moment"], dtype=np.float64)
    ridge.gram = np.array(entry["gram"], dtype=np.float64)
    ridge.rows = _number(entry["rows"])
    shapes = ridge.coefficients.shape == ridge.moment.shape == (size,) and ridge.gram.shape == (size, size)
    if not shapes or not ridge.finite() or ridge.rows < 0 or not np.allclose(ridge.gram, ridge.gram.T):
        raise ValueError("its numbers are not sound")
    return ridge


def _level(values: Sequence[Any]) -> Level:
    fast, anchor, rows = values
    level = Level(_number(fast), int(rows))
    level.anchor = _number(anchor)
    return level


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise ValueError("it holds something that is no number")
    return float(value)
