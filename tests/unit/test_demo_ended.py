"""An engine of the demo that ends before it was asked to: how is said."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.commands import demo


def said_after(code: str) -> list[str]:
    """What is reported of a process that runs `code`."""
    said: list[str] = []
    context: Any = SimpleNamespace(report=SimpleNamespace(say=said.append))
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-S", "-c", code], stderr=errors)
        process.wait()
        demo._say_how_it_ended(context, process, errors)
    return said


def test_its_status_and_its_last_words_are_told() -> None:
    (sentence,) = said_after("import sys; print('no more\\x1b[2J memory', file=sys.stderr); sys.exit(3)")
    assert "with status 3" in sentence
    assert "no more" in sentence
    assert "\x1b" not in sentence


@pytest.mark.parametrize("number", [9, 15])
def test_the_signal_that_killed_it_is_told(number: int) -> None:
    (sentence,) = said_after(f"import os; os.kill(os.getpid(), {number})")
    assert f"killed by signal {number}" in sentence


def test_of_one_that_runs_nothing_is_said() -> None:
    said: list[str] = []
    context: Any = SimpleNamespace(report=SimpleNamespace(say=said.append))
    running: Any = SimpleNamespace(poll=lambda: None)
    with tempfile.TemporaryFile() as errors:
        demo._say_how_it_ended(context, running, errors)
    assert said == []
