"""The things a user copies do what they say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from prismtop.export import jsonl
from prismtop.model import Clock, Mode
from tests.factories import MS, make_batch, make_frame

GATE = Path(__file__).resolve().parent.parent.parent / "examples" / "ci_latency_gate.sh"


def gate(
    tmp_path: Path, lines: list[str], *arguments: str, watch_exit: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the gate on what a `prismtop watch` would have printed."""
    recorded = tmp_path / "lines.jsonl"
    recorded.write_text("\n".join(lines) + "\n")
    command = tmp_path / "prismtop"
    command.write_text(f'#!/bin/sh\ncat "{recorded}"\nexit {watch_exit}\n')
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(
        [str(GATE), "4242", *arguments], env=env, capture_output=True, text=True, check=False
    )


def stream(durations_ms: list[float], mode: Mode = Mode.DECODE) -> list[str]:
    batches = [make_batch(n, duration_ns=int(ms * MS), mode=mode) for n, ms in enumerate(durations_ms)]
    return [jsonl.session_line(make_frame(0)), *(jsonl.batch_line(batch, Clock(0)) for batch in batches)]


@pytest.mark.parametrize(("limit", "code"), [("9.5", 0), ("8.5", 1)])
def test_the_gate_compares_the_95th_percentile(tmp_path: Path, limit: str, code: int) -> None:
    done = gate(tmp_path, stream([8.0] * 94 + [9.0] * 2 + [50.0] * 4), limit)
    assert done.returncode == code, done.stderr
    assert "p95 9.00 ms over 100 batches" in done.stdout


def test_the_gate_looks_at_one_mode_only(tmp_path: Path) -> None:
    lines = stream([8.0] * 30) + stream([500.0] * 30, Mode.PREFILL)
    assert gate(tmp_path, lines, "9").returncode == 0


def test_the_gate_does_not_pass_on_too_few_batches(tmp_path: Path) -> None:
    done = gate(tmp_path, stream([1.0] * 3), "9")
    assert done.returncode == 1
    assert "too few to judge" in done.stderr


def test_the_gate_hands_on_the_exit_code_of_watch(tmp_path: Path) -> None:
    assert gate(tmp_path, [], "9", watch_exit=4).returncode == 4
