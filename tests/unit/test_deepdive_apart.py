"""The merge in a process of its own gives the same as without, and its errors are ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prismtop.deepdive import apart
from prismtop.deepdive.layer import LayerEvent
from prismtop.deepdive.merge import write_trace
from prismtop.errors import UnavailableError, UsageError
from prismtop.model import Capture, CapturePhase, CaptureRequest
from tests.factories import make_frame

CAPTURE = Capture(1, CaptureRequest(), CapturePhase.MERGING, 10**12)
EVENT = LayerEvent("scheduler", "slice", "runs", 10**12 + 5, 1000, 4242, 4242, {"cpu": 1})


def write(write_it: object, target: Path) -> object:
    return write_it(target, frames=[make_frame(5)], fetched=[], layers=iter([EVENT]), capture=CAPTURE)  # type: ignore[operator]


def test_it_writes_what_the_merge_here_would_write(tmp_path: Path) -> None:
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    assert write(apart.write_apart, there) == write(write_trace, here)
    assert there.read_bytes() == here.read_bytes()


def test_a_refusal_is_raised_here(tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    with pytest.raises(UsageError.__bases__[0], match="exists already") as raised:
        write(apart.write_apart, taken)
    assert raised.value.exit_code == 2
    assert taken.read_text() == "mine"


def test_a_process_that_dies_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no memory left' >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(UnavailableError, match="the process that merges failed: no memory left"):
        write(apart.write_apart, tmp_path / "x.json")
