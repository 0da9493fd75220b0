"""What cannot be watched is refused in one sentence with the exit code of its kind, and left as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prismtop.attach.errors import TargetExitedError
from prismtop.model import ProcessId
from prismtop.probe import agent
from prismtop.sources.live import AttachOptions, attach
from tests.integration.engines import (
    PROFILE,
    ROOT,
    ScriptedEngine,
    attached,
    batches_from,
    group_for,
    needs,
    prismtop,
    profiles_of,
    scripted,
    write_profile,
)
from tests.integration.targets.harness import WORLD_READABLE

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start other users' processes")
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def refusal(pid: int, code: int, env: dict[str, str] | None = None) -> str:
    """What `watch` says of `pid`: one sentence on stderr, nothing on stdout, exit `code`."""
    done = prismtop("watch", "--pid", str(pid), "-n", "1", "--json", env=env)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("prismtop: ")
    return done.stderr


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ScriptedEngine]:
    with scripted(tmp_path) as engine:
        yield engine


@contextlib.contextmanager
def unchanged(engine: ScriptedEngine) -> Iterator[None]:
    """The engine is as it was before the block, works, and can be watched."""
    before = engine.state()
    yield
    assert engine.state() == before
    assert engine.scratch_left() == 0
    assert engine.works()
    with attached(engine) as session:
        batches_from(session, 3)


def wait_for(path: str, text: str) -> None:
    for _ in range(500):
        if text in Path(path).read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"no {text!r} in {path}")


def test_a_dead_pid_is_a_usage_error() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert f"no process {child.pid}" in refusal(child.pid, 2)


def test_a_zombie_is_a_usage_error() -> None:
    child = subprocess.Popen(["true"])
    wait_for(f"/proc/{child.pid}/stat", ") Z ")
    try:
        assert "zombie" in refusal(child.pid, 2)
    finally:
        child.wait()


def test_pid_1_is_refused() -> None:
    done = prismtop("watch", "--pid", "1", "-n", "1")
    assert done.returncode in (3, 4)
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_process_that_is_no_python_is_unavailable() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert f"{child.pid}" in (said := refusal(child.pid, 3))
        assert "Python" in said
    finally:
        child.kill()
        child.wait()


def test_a_stopped_engine_is_refused_with_the_way_to_continue_it(engine: ScriptedEngine) -> None:
    with unchanged(engine):
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            assert f"kill -CONT {engine.pid}" in refusal(engine.pid, 3, engine.environment)
        finally:
            os.kill(engine.pid, signal.SIGCONT)


def test_an_engine_under_strace_is_refused_and_strace_is_named(engine: ScriptedEngine) -> None:
    needs("strace")
    with unchanged(engine):
        strace = subprocess.Popen(
            ["strace", "-f", "-e", "trace=none", "-p", str(engine.pid), "-o", os.devnull],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(f"/proc/{engine.pid}/status", f"TracerPid:\t{strace.pid}")
            assert f"strace (pid {strace.pid})" in refusal(engine.pid, 3, engine.environment)
        finally:
            strace.terminate()
            strace.wait()


def test_an_engine_under_gdb_is_refused_and_gdb_is_named(engine: ScriptedEngine) -> None:
    needs("gdb")
    with unchanged(engine):
        gdb = subprocess.Popen(
            ["gdb", "-nx", "-iex", "set auto-solib-add off", "-p", str(engine.pid), "-ex", "continue"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for(f"/proc/{engine.pid}/status", f"TracerPid:\t{gdb.pid}")
            assert f"gdb (pid {gdb.pid})" in refusal(engine.pid, 3, engine.environment)
        finally:
            gdb.send_signal(signal.SIGINT)
            assert gdb.stdin is not None
            gdb.stdin.write(b"detach\nquit\n")
            gdb.stdin.close()
            gdb.wait(timeout=20)


def test_a_debugger_that_comes_later_does_not_end_the_watch(engine: ScriptedEngine) -> None:
    """Nothing of ours needs ptrace once the probe is in; also the way out does not."""
    needs("strace")
    before = engine.state()
    with attached(engine) as session:
        batches_from(session, 5)
        strace = subprocess.Popen(
            ["strace", "-f", "-e", "trace=none", "-p", str(engine.pid), "-o", os.devnull],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(f"/proc/{engine.pid}/status", f"TracerPid:\t{strace.pid}")
            batches_from(session, 50)
            assert session.close() == ()
        finally:
            strace.terminate()
            strace.wait()
    assert engine.state()["ids"] == before["ids"]
    assert engine.scratch_left() == 0


def test_a_pid_that_another_process_got_is_not_entered(engine: ScriptedEngine) -> None:
    group, profiles = group_for(engine), profiles_of(engine)
    (target,) = group.members
    earlier = replace(target, id=ProcessId(target.id.pid, target.id.start_time - 1))
    with unchanged(engine), pytest.raises(TargetExitedError, match="another process"):
        attach(replace(group, members=(earlier,)), profiles["scripted"], AttachOptions(metrics=False))


@root_only
def test_another_users_engine_is_a_matter_of_permission(engine: ScriptedEngine) -> None:
    if not Path(WORLD_READABLE).exists():
        pytest.skip(f"{WORLD_READABLE} is needed: an interpreter that every user may run")
    with unchanged(engine), tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        done = as_nobody(folder, "watch", "--pid", str(engine.pid), "-n", "1")
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"{engine.pid}" in done.stderr
    assert "root" in done.stderr


def as_nobody(folder: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run prismtop as user 65534 from a copy that this user can read."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    subprocess.run(["cp", "-r", str(ROOT / "prismtop"), folder], check=True)
    probe = subprocess.run(
        [*NOBODY, WORLD_READABLE, "-c", "import packaging, platformdirs"],
        env={"PYTHONPATH": ":".join(packages)},
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"user 65534 cannot import the dependencies with {WORLD_READABLE}")
    return subprocess.run(
        [*NOBODY, WORLD_READABLE, "-m", "prismtop", *argv],
        cwd=folder,
        env={"PYTHONPATH": ":".join([folder, *packages]), "HOME": folder, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('qualname = "Runner.execute"', "qualname = 7", "qualname"),
        ('open = "schedule"', 'open = "plan"', "plan"),
        ('stage = "launch"', 'stage = "lunch"', "lunch"),
        ('key = "id(plan)"', 'key = "__import__(plan)"', "__import__"),
        ("schema = 1", "schema = 1 1", "TOML"),
    ],
)
def test_a_broken_user_profile_is_named_with_file_and_line(
    old: str, new: str, said: str, engine: ScriptedEngine
) -> None:
    assert old in PROFILE
    path = write_profile(engine.home, PROFILE.replace(old, new, 1))
    number = next(n for n, line in enumerate(path.read_text().splitlines(), 1) if new in line)
    text = refusal(engine.pid, 2, engine.environment)
    assert f"{path}:{number}:" in text
    assert said in text
    write_profile(engine.home)
    with unchanged(engine):
        pass


def test_a_ring_of_another_version_is_refused(tmp_path: Path) -> None:
    ring = os.memfd_create("prismtop-feedface")
    try:
        os.ftruncate(ring, agent.HEADER_BYTES + 1024 * agent.RECORD.size)
        words = [agent.MAGIC, agent.VERSION + 1, agent.RECORD.size, 1024]
        os.pwrite(ring, b"".join(word.to_bytes(8, "little") for word in words), 0)
        os.set_inheritable(ring, True)
        with scripted(tmp_path, inherited=[ring]) as engine:
            before = engine.state()
            said = refusal(engine.pid, 3, engine.environment)
            assert engine.state() == before
            assert engine.works()
    finally:
        os.close(ring)
    assert f"ring version {agent.VERSION + 1}" in said
    assert f"reads {agent.VERSION}" in said
