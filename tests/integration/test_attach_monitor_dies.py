"""prismtop dies, at any moment, and the target does not notice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.engines import (
    FEW_MINORS,
    PRISMTOP,
    PROFILE,
    ROOT,
    ScriptedEngine,
    Watch,
    probe_is_gone,
    scripted,
    watching,
    write_profile,
)
from tests.integration.test_attach_cycle import expected_afterwards

LEASE_S = 2.0
SHORT_LEASE = ("--set", f"lease_s={LEASE_S}")


def watched_and_killed(engine: ScriptedEngine) -> None:
    """A monitor that saw a batch, and was killed."""
    with watching(engine.pid, *SHORT_LEASE, env=engine.environment) as watch:
        watch.until("batch")
        watch.process.kill()
        watch.process.wait()


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_the_lease_takes_the_probe_of_a_killed_monitor_out(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        watched_and_killed(engine)
        assert probe_is_gone(engine.pid, LEASE_S + 2)
        assert engine.state() == expected_afterwards(before)
        assert engine.scratch_left() == 0
        assert engine.works()


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_the_lease_ends_too_where_the_hook_that_ends_batches_was_renamed(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        write_profile(engine.home, PROFILE.replace("Scheduler.update", "Scheduler.update_from_output"))
        before = engine.state()
        watched_and_killed(engine)
        assert probe_is_gone(engine.pid, LEASE_S + 2)
        assert engine.state() == expected_afterwards(before)
        assert engine.works()


def test_the_target_lives_when_the_monitor_is_killed_at_random_moments(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine:
        before = engine.state()
        latest = time_to_first_batch(engine) + 0.1
        for _ in range(20):
            process = subprocess.Popen(
                [*PRISMTOP, "watch", "--pid", str(engine.pid), "--json", *SHORT_LEASE],
                cwd=ROOT,
                env=engine.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(random.uniform(latest / 10, latest))
            process.kill()
            process.wait()
            assert engine.works()
        assert no_helper_is_left(engine, within_s=10)
        assert probe_is_gone(engine.pid, LEASE_S + 2)
        assert {**engine.state(), "modules": []} == {**before, "modules": []}
        assert engine.scratch_left() == 0
        assert engine.works()
        with watching(engine.pid, "-n", "10", env=engine.environment) as watch:
            assert watch.finish()[0] == 0


def test_the_target_lives_when_the_helper_is_killed(tmp_path: Path) -> None:
    killed = []
    with scripted(tmp_path) as engine:
        before = engine.state()
        for _ in range(6):
            with watching(engine.pid, "-n", "5", *SHORT_LEASE, env=engine.environment) as watch:
                hit = kill_helper_of(watch.process.pid, after_s=random.uniform(0, 0.08))
                code, err = watch.finish()
            assert engine.works()
            assert no_helper_is_left(engine, within_s=10)
            if hit and code:
                killed.append(code)
                assert code == 3
                assert len(err.strip().splitlines()) == 1
                assert "helper process was killed by signal 9; the target goes on" in err
        assert probe_is_gone(engine.pid, LEASE_S + 2)
        assert {**engine.state(), "modules": []} == {**before, "modules": []}
    assert killed, "no helper was hit"


def test_a_monitor_that_was_stopped_for_longer_than_the_lease_says_so(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine:
        before = engine.state()
        with watching(engine.pid, *SHORT_LEASE, env=engine.environment) as watch:
            watch.until("batch")
            watch.process.send_signal(signal.SIGSTOP)
            assert probe_is_gone(engine.pid, LEASE_S + 2)
            watch.process.send_signal(signal.SIGCONT)
            code, err = watch.finish()
        assert engine.state() == expected_afterwards(before)
        assert code == 3
        assert len(err.strip().splitlines()) == 1
        assert "scripted runs on, but the probe has left it" in err
        assert "no sign of life from us for 2 s" in watch.of("warning")[-1]["text"]


def test_ctrl_c_takes_the_probe_out(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine:
        before = engine.state()
        with watching(engine.pid, env=engine.environment) as watch:
            watch.until("batch")
            watch.process.send_signal(signal.SIGINT)
            code, _ = watch.finish()
        assert code == 130
        assert engine.state() == expected_afterwards(before)
        assert engine.scratch_left() == 0


def time_to_first_batch(engine: ScriptedEngine) -> float:
    started = time.monotonic()
    watch = Watch(engine.pid, "-n", "1", env=engine.environment)
    watch.until("batch")
    took = time.monotonic() - started
    assert watch.finish()[0] == 0
    return took


def helpers_of(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"prismtop.attach.helper" in Path(f"/proc/{word}/cmdline").read_bytes():
                    found.append(int(word))
    return found


def kill_helper_of(pid: int, after_s: float) -> bool:
    """SIGKILL a monitor's next helper process, `after_s` after it was seen; False when there was none."""
    end = time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        for helper in helpers_of(pid):
            time.sleep(after_s)
            with contextlib.suppress(OSError):
                os.kill(helper, signal.SIGKILL)
                return True
        time.sleep(0.001)
    return False


def no_helper_is_left(engine: ScriptedEngine, within_s: float) -> bool:
    """Whether the helpers end that outlived their monitors; the test's config directory tells them."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(_is_helper_for(name, engine.home) for name in filter(str.isdigit, os.listdir("/proc"))):
            return True
        time.sleep(0.05)
    return False


def _is_helper_for(name: str, home: Path) -> bool:
    with contextlib.suppress(OSError):
        return (
            b"prismtop.attach.helper" in Path(f"/proc/{name}/cmdline").read_bytes()
            and str(home).encode() in Path(f"/proc/{name}/environ").read_bytes()
        )
    return False
