"""One probe serves one monitor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.engines import attached, batches_from, prismtop, scripted, watching
from tests.integration.test_attach_cycle import expected_afterwards


@pytest.mark.parametrize("minor", ["3.11", "3.14"])
def test_the_second_monitor_is_told_of_the_first_which_goes_on(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, watching(engine.pid, env=engine.environment) as first:
        first.until("batch")
        second = prismtop("watch", "--pid", str(engine.pid), "-n", "5", env=engine.environment)
        assert second.returncode == 3
        assert second.stdout == ""
        assert len(second.stderr.strip().splitlines()) == 1
        assert f"already watched by another prismtop (pid {first.process.pid})" in second.stderr
        before = first.until("batch")["seq"]
        assert first.until("batch")["seq"] == before + 1


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.14"])
def test_the_probe_of_a_dead_monitor_gives_way_to_a_new_one(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        with watching(engine.pid, "--set", "lease_s=600", env=engine.environment) as first:
            first.until("batch")
            first.process.kill()
            first.process.wait()
        with attached(engine) as session:
            batches_from(session, 20)
        assert engine.state() == expected_afterwards(before)
        assert engine.scratch_left() == 0
