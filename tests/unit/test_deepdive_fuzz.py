"""No profile, however broken, keeps a capture from being written, or makes a file that viewers reject."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from prismtop.deepdive.merge import write_trace
from prismtop.trace.check import check
from prismtop.trace.load import load
from tests.unit.deep_profiles import (
    PID,
    Fetched,
    batch_times,
    cuda_profile,
    eight_ms_batch,
    frames_of,
    make_capture,
)

ODD = (
    *(b"null", b"-1", b"1e308", b"9.1e15", b"NaN", b"Infinity", b"-9200000000000000", b"0.0005", b"true"),
    *(b'""', b'"a(1)"', b"[]", b"{}", b"4611686018427387904", b"99999999999999999999999", b"\xff\xfe"),
    b'"\\ud800\\u0000"',
)
FIELDS = (
    *("ts", "dur", "pid", "tid", "id", "name", "cat", "ph", "args"),
    *("baseTimeNanoseconds", "correlation", "stream"),
)


def broken(text: bytes, seed: int) -> bytes:
    """Values exchanged, bytes changed, the end cut: a little of each."""
    chance = random.Random(seed)
    for _ in range(chance.randrange(1, 12)):
        field = b'"%s":' % chance.choice(FIELDS).encode()
        places = [at for at in range(len(text)) if text.startswith(field, at)]
        if places:
            at = chance.choice(places) + len(field)
            end = min(place for place in (text.find(mark, at) for mark in (b",", b"}", b"\n")) if place > 0)
            text = text[:at] + b" " + chance.choice(ODD) + text[end:]
    for _ in range(chance.choice((0, 0, 1, 5))):
        at = chance.randrange(len(text))
        text = text[:at] + bytes((chance.randrange(256),)) + text[at + 1 :]
    return text[: chance.randrange(len(text))] if chance.random() < 0.3 else text


@pytest.mark.parametrize("seed", range(40))
def test_any_profile_gives_a_file_that_opens(tmp_path: Path, seed: int) -> None:
    path = cuda_profile(2).write(tmp_path / "profile.json")
    path.write_bytes(broken(path.read_bytes(), seed))
    frames = frames_of([eight_ms_batch(seq, start) for seq, start in enumerate(batch_times(2))])
    target = tmp_path / "deep.json"
    write_trace(target, frames=frames, fetched=[Fetched(PID, path)], layers=(), capture=make_capture())
    assert check(target).findings == []
    assert [batch.seq for batch in load([target]).batches()] == [0, 1]
    json.loads(target.read_text())
