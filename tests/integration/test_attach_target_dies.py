"""The target ends or forks: the monitor notices, and a child carries nothing of the probe."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from prismtop.attach.errors import NoSuchProcessError, TargetExitedError, TargetStateError
from prismtop.errors import UsageError
from tests.integration.engines import (
    FEW_MINORS,
    attached,
    batches_from,
    open_session,
    scripted,
    watching,
)


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_a_target_that_ends_while_it_is_watched_ends_the_watch(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, watching(engine.pid, env=engine.environment) as watch:
        watch.until("batch")
        os.kill(engine.pid, signal.SIGKILL)
        code, err = watch.finish()
    assert code == 0
    assert len(err.strip().splitlines()) == 1
    assert f"ended after {len(watch.of('batch'))} batches" in err


def test_a_target_that_ends_before_the_batches_asked_for_is_unavailable(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine, watching(engine.pid, "-n", "100000", env=engine.environment) as watch:
        watch.until("batch")
        assert engine.process.stdin is not None
        engine.process.stdin.write("die 7\n")
        engine.process.stdin.flush()
        code, err = watch.finish()
        assert engine.process.wait(5) == 7
    assert code == 3
    assert len(err.strip().splitlines()) == 1
    assert f"ended after {len(watch.of('batch'))} of 100000 batches" in err


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_a_target_that_ends_during_the_attach_is_one_sentence(minor: str, tmp_path: Path) -> None:
    ends = set()
    for _ in range(8):
        with scripted(tmp_path, minor) as engine, watching(engine.pid, env=engine.environment) as watch:
            time.sleep(random.uniform(0.1, 0.9))
            os.kill(engine.pid, signal.SIGKILL)
            engine.process.wait()
            code, err = watch.finish()
        assert code in (0, 2, 3), err
        assert len(err.strip().splitlines()) == 1, err
        assert f"{engine.pid}" in err or "ended after" in err
        assert list(engine.temporary.iterdir()) == []
        ends.add(code)
    assert ends


def test_a_target_that_ends_during_the_injection_is_an_exit_to_prismtop_too(tmp_path: Path) -> None:
    """As above, closer: the session is opened here, so that the moment is that of the attach itself."""
    for _ in range(8):
        with scripted(tmp_path) as engine:
            killer = threading.Timer(random.uniform(0.02, 0.3), os.kill, (engine.pid, signal.SIGKILL))
            killer.start()
            expected = (NoSuchProcessError, TargetExitedError, TargetStateError, UsageError)
            with contextlib.suppress(*expected), contextlib.closing(open_session(engine)):
                killer.join()
            killer.join()
            engine.process.wait()


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_a_forked_child_has_no_hooks_and_writes_nothing(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        with attached(engine) as session:
            batches = batches_from(session, 5)
            children = engine.ask("fork 3")
            batches += batches_from(session, 100)
            frame = session.tick()
        assert [child["taken"] for child in children] == [20, 20, 20]
        for child in children:
            assert child["ids"] == before["ids"]
            assert child["events"] == 0
            assert child["modules"] == ["_prismtop_fork"]
            assert child["tools"] == before["tools"]
            assert not [name for name in child["fds"] if "prismtop" in name]
    numbers = [batch.workload.new_requests or 0 for batch in batches]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert frame.lost.records == frame.lost.batches == 0


def test_a_program_that_the_target_starts_inherits_nothing(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine, attached(engine) as session:
        batches_from(session, 5)
        inherited = engine.ask("spawn")
    assert inherited
    assert not [name for name in inherited if "prismtop" in name]
