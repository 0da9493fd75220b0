"""Mutated traces: whatever comes in, the answer is batches or one sentence. Seeds are fixed.

Bounded by CPU time, so that it takes the same share of a fast and of a slow machine: the mutants come in the
same order everywhere, a fast machine sees more of them.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from prismtop.errors import PrismtopError
from prismtop.model import Batch
from prismtop.sources.replay import ReplaySource
from prismtop.trace import lenient
from prismtop.trace.cache import Cache
from prismtop.trace.load import load
from tests.factories import make_frame
from tests.unit.test_trace_load import quiet
from tests.unit.trace_files import kineto, recording
from tests.unit.trace_frames import full_frame

CPU_S = 4.0
PIECES = (
    b'"', b"\\", b"{", b"}", b"]", b"NaN", b"[[[[", b"\\u0000", b"1e999", b"null", b'"a":', b"-inf", b"\n",
)  # fmt: skip
VALUES = (b"[]", b'"x"', b"1e308", b"9" * 400, b"true", b"-")
TABLE = (
    "job_name,start_ts,duration_us,compute_batch_size,compute_avg_input_length,compute_forward_mode\n"
    + "".join(f"j,17642385398{n:05d}.75,150.25,16,239.75,2\n" for n in range(60))
).encode()


def ours(place: Path) -> bytes:
    frame = full_frame()
    frames = [quiet(frame), frame, *(make_frame(3, group=frame.group) for _ in range(8))]
    return recording(place / "seed.json", frames).read_bytes()


def seeds(kind: str, place: Path) -> bytes:
    """A small valid trace."""
    if kind == "ours":
        return ours(place)
    if kind == "kineto":
        return json.dumps(kineto(12), indent=1).encode()
    return TABLE


def mutant(seed: bytes, rng: random.Random) -> bytes:
    """The seed with one to twenty changes; sometimes packed, and then damaged once more."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 3, 20))):
        data = data or bytearray(b"{")
        at = rng.randrange(len(data))
        chance = rng.random()
        if chance < 0.35:
            data[at] = rng.choice(b'"\\{}[],:0e-\x00\xff\n')
        elif chance < 0.55:
            del data[at : at + rng.randrange(200)]
        elif chance < 0.75:
            data[at:at] = rng.choice(PIECES)
        elif chance < 0.9:  # a number becomes another value
            digits = [n for n in range(at, min(len(data), at + 60)) if data[n : n + 1].isdigit()]
            if digits:
                data[digits[0] : digits[0] + 1] = rng.choice(VALUES)
        else:
            del data[at:]
    if rng.random() < 0.25:
        packed = bytearray(gzip.compress(bytes(data), 1))
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        return bytes(packed)
    return bytes(data)


def outcome(path: Path, cache: Cache) -> str:
    """Open, read everything, jump about: `ok` or the name of the error that a user would see."""
    try:
        trace = load([path], cache)
    except PrismtopError as error:
        return "refused" if error.exit_code == 2 and "\n" not in str(error) else repr(error)
    batches = list(trace.batches())
    assert all(isinstance(batch, Batch) and isinstance(batch.duration_ns, int) for batch in batches)
    list(trace.requests())
    trace.alerts()
    trace.ground_truth()
    source = ReplaySource(trace, speed=100)
    for fraction in (0.9, 0.1):
        source.controls.seek_fraction(fraction)
        source.controls.step(1)
        source.controls.step(-1)
        source.poll()
    return "ok"


@pytest.mark.parametrize("kind", ["ours", "kineto", "table"])
def test_mutants_are_read_or_refused_and_never_raise_anything_else(tmp_path: Path, kind: str) -> None:
    rng = random.Random(f"prismtop {kind}")
    seed = seeds(kind, tmp_path)
    outcomes: Counter[str] = Counter()
    path = tmp_path / "mutant"
    end = time.process_time() + CPU_S
    number = 0
    while time.process_time() < end:
        data = mutant(seed, rng)
        path.write_bytes(data)
        cache = Cache(tmp_path / f"cache{number % 7}")
        try:
            outcomes[outcome(path, cache)] += 1
        except Exception as error:
            (tmp_path / f"failed-{number}").write_bytes(data)
            raise AssertionError(f"mutant {number} of {kind}: {error!r}") from error
        number += 1
    assert set(outcomes) == {"ok", "refused"}
    assert outcomes["ok"] > 3
    assert outcomes["refused"] > 1


def test_both_decoders_see_the_same_events_in_mutants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lenient._fast is None:
        pytest.skip("msgspec is not installed")
    from tests.unit.trace_files import read

    def seen(path: Path) -> object:
        try:
            events, _ = read(path)
        except PrismtopError as error:
            return str(error)
        return [(repr(e.ph), repr(e.name), lenient.ns_of(e.ts), lenient.ns_of(e.dur)) for e in events]

    rng = random.Random(20261121)
    seed = json.dumps(kineto(6)).encode()
    fast: Callable[[bytes], list[lenient.Event]] = lenient._fast
    for number in range(120):
        path = tmp_path / "mutant"
        path.write_bytes(mutant(seed, rng))
        monkeypatch.setattr(lenient, "_fast", fast)
        with_it = seen(path)
        monkeypatch.setattr(lenient, "_fast", None)
        assert seen(path) == with_it, number
