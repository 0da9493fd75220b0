"""`prismtop record` on the real demo engine, and on disks that are really full."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prismtop.trace.check import check
from tests.integration.test_viewers import events_of

ROOT = Path(__file__).resolve().parents[2]
PRISMTOP = [sys.executable, "-m", "prismtop"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only")


@pytest.fixture(scope="module")
def engine() -> Iterator[int]:
    """The pid of a demo engine under load."""
    server = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.server", "--port", "0", "--die-with-parent"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = int(server.stdout.readline().rsplit(":", 1)[1])
    load = subprocess.Popen(
        [sys.executable, "-m", "prismtop.demo.load", "--url", f"http://127.0.0.1:{port}", "--duration", "0"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    yield server.pid
    for process in (load, server):
        process.terminate()
        process.wait(20)
    server.stdout.close()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}


def prismtop(env: dict[str, str], *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PRISMTOP, *argv],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        **options,
    )


def wait_until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def has_batches(path: Path) -> bool:
    return path.exists() and b'"cat":"batch"' in path.read_bytes()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_recording_holds_what_watch_prints(tmp_path: Path, engine: int, env: dict[str, str]) -> None:
    path = tmp_path / "run.json.gz"
    done = prismtop(env, "record", "--pid", str(engine), "-o", str(path), "--duration", "1.5", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    batches = [event for event in events_of(path) if event.get("cat") == "batch"]
    assert said["batches"] == len(batches) > 10
    assert [event["args"]["seq"] for event in batches] == list(range(len(batches)))
    assert check(path).findings == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_detached_recording_goes_on_until_it_is_stopped(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    path = tmp_path / "run.json.gz"
    done = prismtop(env, "record", "--pid", str(engine), "-o", str(path), "--detach", "--json")
    assert done.returncode == 0, done.stderr
    pid = json.loads(done.stdout)["pid"]
    try:
        (one,) = json.loads(prismtop(env, "record", "--list", "--json").stdout)["recordings"]
        assert (one["pid"], one["path"]) == (pid, str(path))
        before = size(tmp_path / "run.json")
        wait_until(lambda: size(tmp_path / "run.json") > before)
    finally:
        stopped = prismtop(env, "record", "--stop", str(pid))
    assert stopped.returncode == 0, stopped.stderr
    assert sum(event.get("cat") == "batch" for event in events_of(path)) > 0
    assert check(path).findings == []
    assert prismtop(env, "record", "--stop").returncode == 3


def test_a_detached_recording_that_cannot_begin_says_why(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    done = prismtop(env, "record", "--pid", str(engine), "-o", str(tmp_path / "no" / "x.json"), "--detach")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no directory" in done.stderr
    assert "mkdir -p" in done.stderr


def on_a_terminal(env: dict[str, str], *argv: str) -> tuple[int, int]:
    """(pid, controlling side) of a prismtop that leads the session of a terminal of its own."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, [*PRISMTOP, *argv], env)
    return pid, master


def read_until(master: int, text: bytes) -> bytes:
    said = b""
    deadline = time.monotonic() + 60
    while text not in said:
        assert time.monotonic() < deadline, said
        if select.select([master], [], [], 1.0)[0]:
            said += os.read(master, 4096)
    return said


def test_a_lost_terminal_ends_a_recording_with_a_whole_file(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    path = tmp_path / "run.json.gz"
    pid, master = on_a_terminal(env, "record", "--pid", str(engine), "-o", str(path))
    read_until(master, b"ctrl-c ends it")
    wait_until(lambda: size(tmp_path / "run.json") > 10_000)
    os.close(master)  # the kernel sends SIGHUP
    os.waitpid(pid, 0)
    assert events_of(path)[-1]["name"] == "prismtop_end"


def test_a_lost_terminal_does_not_end_a_detached_recording(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    path = tmp_path / "run.json.gz"
    pid, master = on_a_terminal(env, "record", "--pid", str(engine), "-o", str(path), "--detach")
    try:
        read_until(master, b"ends it")
        os.close(master)
        os.waitpid(pid, 0)
        before = size(tmp_path / "run.json")
        wait_until(lambda: size(tmp_path / "run.json") > before)
    finally:
        stopped = prismtop(env, "record", "--stop")
    assert stopped.returncode == 0
    assert events_of(path)[-1]["name"] == "prismtop_end"


def test_ctrl_c_ends_a_recording_and_it_is_no_error(tmp_path: Path, engine: int, env: dict[str, str]) -> None:
    path = tmp_path / "run.json"
    process = subprocess.Popen(
        [*PRISMTOP, "record", "--pid", str(engine), "-o", str(path)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: has_batches(path))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert events_of(path)[-1]["name"] == "prismtop_end"


def test_a_killed_recording_leaves_the_engine_free_for_the_next(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    path = tmp_path / "run.json"
    options = ("record", "--pid", str(engine), "--set", "lease_s=2")
    process = subprocess.Popen(
        [*PRISMTOP, *options, "-o", str(path)], cwd=ROOT, env=env, stderr=subprocess.PIPE
    )
    wait_until(lambda: has_batches(path))
    process.kill()
    process.communicate()
    assert sum(event.get("cat") == "batch" for event in events_of(path)) > 0
    assert json.loads(prismtop(env, "record", "--list", "--json").stdout)["recordings"] == []
    time.sleep(3)  # the lease of the probe that nobody renews any more
    done = prismtop(env, *options, "-o", str(tmp_path / "next.json"), "--duration", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batches"] > 0


# -- disks that are really full


def test_the_kernels_file_size_limit_ends_the_recording_with_a_sentence(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    path = tmp_path / "run.json"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    done = prismtop(env, "record", "--pid", str(engine), "-o", str(path), "--json", preexec_fn=limit)
    assert done.returncode == 3
    assert "ended early: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert 0 < path.stat().st_size <= 600_000
    assert len(events_of(path)) > 50
    assert check(path).findings == []


@contextmanager
def small_disk(at: Path, kilobytes: int) -> Iterator[Path]:
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "prismtop-test", str(at)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_a_full_disk_ends_the_recording_with_a_sentence(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    with small_disk(tmp_path / "disk", 200) as disk:
        path = disk / "run.json"
        done = prismtop(env, "record", "--pid", str(engine), "-o", str(path), "--json")
        assert done.returncode == 3
        assert "ended early: No space left on device" in done.stderr
        assert json.loads(done.stdout)["error"] == "No space left on device"
        assert os.listdir(disk) == ["run.json"]
        assert len(events_of(path)) > 50
        assert check(path).findings == []


def test_a_disk_too_full_to_compress_keeps_the_plain_file(
    tmp_path: Path, engine: int, env: dict[str, str]
) -> None:
    from prismtop.trace.recorder import Recorder, RecorderSettings
    from tests.factories import make_batch, make_frame

    with small_disk(tmp_path / "disk", 400) as disk:
        recorder = Recorder(RecorderSettings(on_alert=False))
        recorder.take(make_frame(0))
        recorder.start(disk / "run.json.gz")
        recorder.take(
            make_frame(0, new_batches=tuple(make_batch(n, 10**12 + n * 9_000_000) for n in range(200)))
        )
        writer = recorder._writer
        assert writer is not None
        wait_until(lambda: not writer._queue)
        used = sum((disk / name).stat().st_size for name in os.listdir(disk))
        (disk / "filler").write_bytes(bytes(400 * 1024 - (used // 4096 + 2) * 4096))
        (note,) = [text for text in recorder.close() if "could not be written" in text]
        assert "No space left on device" in note
        assert sum(event.get("cat") == "batch" for event in events_of(disk / "run.json")) == 200
        assert sorted(os.listdir(disk)) == ["filler", "run.json"]
