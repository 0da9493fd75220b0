"""Whatever happens to a trace, `repair` ends with a file that both viewers open, or with one sentence."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.errors import PrismtopError
from prismtop.trace.check import check
from prismtop.trace.events import Encoder
from prismtop.trace.merge import merge
from prismtop.trace.repair import repair
from tests.unit.trace_cases import CASES
from tests.unit.trace_frames import full_frame

MUTANTS = 240
BYTES = b'"\\{}[],:0e-\x00\xff'
TEXTS = (b'"', b"\\", b"{", b"}", b"]", b"NaN", b"[[[[", b"\\u0000", b"\\ud800", b"1e999", b"-", b"null")
TEXTS += (b'{"ph":"X","ts":1}', b'"ph":"E"', b'"args":{"value":Infinity}', b'"pid":"h(1)"', b'"ts":"x"')


def recording() -> bytes:
    frame = full_frame()
    encoder = Encoder(replace(frame, new_batches=(), changed_alerts=(), new_counters=(), requests=()))
    return ("[\n" + ",\n".join(encoder.header() + encoder.events_of(frame)) + "\n]\n").encode()


def mutant(source: bytes, rng: random.Random) -> bytes:
    made = bytearray(source)
    for _ in range(rng.choice((1, 3, 20))):
        kind, at = rng.random(), rng.randrange(len(made) or 1)
        if kind < 0.4 and made:
            made[at] = rng.choice(BYTES)
        elif kind < 0.6:
            del made[at : at + rng.randrange(200)]
        elif kind < 0.9:
            made[at:at] = rng.choice(TEXTS)
        else:
            made = made[:at]
    if rng.random() < 0.3:
        packed = bytearray(gzip.compress(bytes(made), 1))
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        return bytes(packed)
    return bytes(made) or b"\n"


def refuse(word: str) -> None:
    raise AssertionError(f"{word} in a repaired file")


@pytest.mark.parametrize("seed", range(4))
def test_every_mutant_is_repaired_or_refused_in_one_sentence(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    sources = [recording(), *(case.data for case in CASES.values())]
    repaired = 0
    refused: list[str] = []
    left_behind = False
    for n in range(MUTANTS // 4):
        source, target = tmp_path / f"{n}.json", tmp_path / f"{n}.whole.json"
        source.write_bytes(mutant(sources[0] if n % 2 else rng.choice(sources), rng))
        try:
            check(source)
            repair(source, target)
        except PrismtopError as error:
            refused.append(str(error))
            left_behind |= target.exists()
            continue
        repaired += 1
        made = json.loads(target.read_text(), parse_constant=refuse)
        events = made["traceEvents"] if isinstance(made, dict) else made
        left = {finding.rule for finding in check(target).findings}
        assert left <= ({"no-events"} if not events else set()), (n, left)
    assert repaired > MUTANTS // 16
    files = sorted(tmp_path.glob("*.whole.json"))[:6]
    try:
        merge(files, tmp_path / "all.json.gz")
    except PrismtopError as error:
        refused.append(str(error))
    assert not any("\n" in text for text in refused)
    assert not left_behind
    assert not list(tmp_path.glob(".*"))
