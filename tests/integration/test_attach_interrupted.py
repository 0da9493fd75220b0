"""Ctrl-C, or an error of our own, while a process is being entered: it is left as it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prismtop.sources import live, probe_link
from prismtop.sources.live import AttachOptions, LiveSource
from prismtop.sources.ring import find_ring
from tests.integration.engines import attached, batches_from, open_session, scripted, watching
from tests.integration.test_attach_cycle import expected_afterwards
from tests.integration.test_attach_idle import request_until

SLOW = AttachOptions(timeout_s=1.5)


@contextmanager
def ctrl_c(after_s: float) -> Iterator[None]:
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_ctrl_c_while_an_idle_engine_is_waited_for_leaves_nothing_queued(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor, "read") as engine:
        before = engine.state()
        with ctrl_c(1.0), pytest.raises(KeyboardInterrupt):
            open_session(engine, SLOW)
        assert engine.state() == before
        request_until(engine, 20)
        assert engine.state() == before
        with attached(engine, AttachOptions(timeout_s=0.3)) as session:
            engine.request(30)
            batches_from(session, 20)


@pytest.mark.parametrize("after_s", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])
def test_ctrl_c_at_any_moment_of_an_attach_leaves_no_probe(
    after_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(*arguments: Any) -> LiveSource:
        """From here on the probe is somebody else's to take out."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return LiveSource(*arguments)

    monkeypatch.setattr(live, "LiveSource", done)
    handler = signal.getsignal(signal.SIGINT)
    with scripted(tmp_path) as engine:
        before = engine.state()
        session = None
        try:
            with ctrl_c(after_s):
                session = open_session(engine)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, handler)
        if session is not None:  # it was too late for this attach
            session.close()
        assert find_ring(engine.pid) is None
        assert {**engine.state(), "modules": []} == {**before, "modules": []}
        assert engine.scratch_left() == 0
        assert engine.works()


def test_an_error_of_ours_while_the_probe_goes_in_takes_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(tmp_path) as engine:
        before = engine.state()
        monkeypatch.setattr(probe_link, "find_ring", FailsOnce())
        with pytest.raises(ZeroDivisionError):
            open_session(engine)
        assert find_ring(engine.pid) is None
        assert engine.state() == expected_afterwards(before)


class FailsOnce:
    """`find_ring` that fails at the look for the probe's own ring."""

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, pid: int, nonce: str = "") -> str | None:
        if nonce and not self.failed:
            self.failed = True
            raise ZeroDivisionError
        return find_ring(pid, nonce)


def test_a_watch_that_is_interrupted_while_it_attaches_leaves_nothing(tmp_path: Path) -> None:
    with scripted(tmp_path, mode="read") as engine:
        before = engine.state()
        options = ("--set", "attach_timeout_s=1.5")
        with watching(engine.pid, *options, env=engine.environment) as watch:
            while not engine.scratch_left():
                time.sleep(0.01)
            watch.process.send_signal(signal.SIGINT)
            code, err = watch.finish()
        assert code == 130
        assert "Traceback" not in err
        request_until(engine, 20)
        assert engine.state() == before
