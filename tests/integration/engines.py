"""Engines to attach to: the scripted one of `targets/engine_loop.py`, and real ones where installed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.attach.payload import READ_HEAD, TEMPLATE_HEAD
from prismtop.model import Batch, Frame, Group
from prismtop.session import Session
from prismtop.sources.live import AttachOptions, attach
from prismtop.sources.ring import find_ring
from prismtop.targets.discovery import group_of
from prismtop.targets.profile import Profile
from prismtop.targets.profiles import load_profiles
from tests.integration.targets.harness import HERE, python_or_skip

ROOT = Path(__file__).resolve().parents[2]
PRISMTOP = [sys.executable, "-m", "prismtop"]
LOOP = HERE / "engine_loop.py"
ALL_MINORS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
DEFAULTS = AttachOptions()
FEW_MINORS = ("3.9", "3.11", "3.12", "3.14")
"""One for each way in and each way of hooking: oldest, wrapping, monitoring, PEP 768."""

PROFILE = r"""schema = 1
name = "scripted"
title = "scripted engine"
distribution = "scripted-engine"
confidence = "high"
order = 1

[[role]]
name = "engine"
cmdline_regex = 'engine_loop\.py '
probed = true
anchor = true

[batch]
role = "engine"
open = "schedule"
launch = "execute"
settle = "update"
key = true

[[hook]]
name = "schedule"
module = "engine_parts"
qualname = "Scheduler.schedule"
stage = "schedule"
priority = 1
belongs = "key"
[hook.exit]
key = "id(ret)"
batch_size = "len(ret.tokens)"
tokens = "sum(ret.tokens[name] for name in ret.tokens)"
prefill_tokens = "sum(ret.tokens[name] for name in ret.tokens if ret.tokens[name] > 1)"
new_requests = "ret.number"
running = "len(self.running)"

[[hook]]
name = "execute"
module = "engine_parts"
qualname = "Runner.execute"
stage = "launch"
priority = 1
belongs = "key"
[hook.entry]
key = "id(plan)"

[[hook]]
name = "prepare"
module = "engine_parts"
qualname = "Runner.prepare"
stage = "prepare"
priority = 3

[[hook]]
name = "hidden"
module = "engine_parts"
qualname = "Runner.hidden"
stage = "wait"
binding = "captured"
priority = 6

[[hook]]
name = "sample"
module = "engine_parts"
qualname = "Runner.sample"
kind = "staticmethod"
stage = "sample"
priority = 3

[[hook]]
name = "gone"
module = "engine_parts"
qualname = "Runner.renamed_in_the_next_release"
stage = "post"
priority = 5

[[hook]]
name = "unloaded"
module = "engine_parts_gpu"
qualname = "Runner.execute"
stage = "launch"
priority = 5

[[hook]]
name = "update"
module = "engine_parts"
qualname = "Scheduler.update"
stage = "post"
priority = 1
belongs = "key"
[hook.entry]
key = "id(plan)"
"""


# ---------------------------------------------------------------- the scripted engine


class ScriptedEngine:
    """A running `engine_loop.py`; `home` holds its temporary files and the user's config directory."""

    def __init__(self, process: subprocess.Popen[str], pid: int, home: Path, work_fd: int) -> None:
        self.process, self.pid, self.home, self.work_fd = process, pid, home, work_fd
        self.temporary = home / "tmp"

    def ask(self, command: str, within_s: float = 20.0) -> Any:
        """Send one command and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], within_s)[0]:
            raise AssertionError(f"the engine did not answer {command!r} within {within_s:.0f} s")
        line = self.process.stdout.readline()
        assert line, f"the engine ended with {self.process.wait()} instead of answering {command!r}"
        return json.loads(line)

    def state(self) -> dict[str, Any]:
        """Identities, descriptors, threads, files: everything that must be the same afterwards."""
        found: dict[str, Any] = self.ask("state")
        del found["steps"]
        found["files"] = sorted(str(p) for p in self.temporary.rglob("*"))
        return found

    def request(self, steps: int = 1) -> None:
        """Give an engine in mode `read` something to do."""
        os.write(self.work_fd, b"x" * steps)

    def steps(self) -> int:
        return int(self.ask("gap")["steps"])

    def works(self, within_s: float = 10.0) -> bool:
        """Whether its loop still turns; an idle one is given something to do."""
        before, end = self.steps(), time.monotonic() + within_s
        while time.monotonic() < end and self.process.poll() is None:
            if self.steps() > before:
                return True
            time.sleep(0.01)
        return False

    def rss_kb(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def scratch_left(self) -> int:
        """Anonymous mappings that hold an injected source, whether it was read or not."""
        heads = (TEMPLATE_HEAD.encode(), READ_HEAD.encode(), b"\0" + TEMPLATE_HEAD[1:].encode())
        return sum(text.startswith(heads) for text in self._small_anonymous())

    def _small_anonymous(self) -> Iterator[bytes]:
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
                span, rights, *_, inode = line.split()[:5]
                low, high = (int(word, 16) for word in span.split("-"))
                if (
                    inode == "0"
                    and rights.startswith("r")
                    and high - low <= 1 << 20
                    and len(line.split()) == 5
                ):
                    with contextlib.suppress(OSError, ValueError):
                        memory.seek(low)
                        yield memory.read(64)

    @property
    def environment(self) -> dict[str, str]:
        """For a prismtop that is to know this engine's profile."""
        return {**os.environ, "XDG_CONFIG_HOME": str(self.home / "config")}


def write_profile(home: Path, text: str = PROFILE, name: str = "scripted.toml") -> Path:
    """Put a user profile where prismtop looks for it below `home`/config."""
    folder = home / "config" / "prismtop" / "engines"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


@contextlib.contextmanager
def scripted(
    home: Path,
    minor: str = "3.11",
    mode: str = "busy",
    *,
    step_us: int = 2000,
    python: str | None = None,
    inherited: Sequence[int] = (),
) -> Iterator[ScriptedEngine]:
    """A scripted engine on CPython `minor`; it is ended with the block."""
    write_profile(home)
    (home / "tmp").mkdir(exist_ok=True)
    (home / "tmp").chmod(0o1777)  # as /tmp is: a script is put in no other folder that all may write
    readable, writable = os.pipe()
    process = subprocess.Popen(
        [python or python_or_skip(minor), "-W", "ignore", str(LOOP), mode, str(step_us), str(readable)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[readable, *inherited],
        start_new_session=True,
        cwd=home,
        env={**os.environ, "TMPDIR": str(home / "tmp")},
    )
    os.close(readable)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the engine did not start: {process.wait()}"
        engine = ScriptedEngine(process, int(json.loads(line)["pid"]), home, writable)
        if mode not in ("idle", "read"):
            assert engine.works()
        yield engine
    finally:
        os.close(writable)
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def profiles_of(engine: ScriptedEngine) -> dict[str, Profile]:
    return load_profiles(engine.home / "config" / "prismtop" / "engines")


def group_for(engine: ScriptedEngine) -> Group:
    return group_of(engine.pid, profiles_of(engine))


def open_session(engine: ScriptedEngine, options: AttachOptions = DEFAULTS) -> Session:
    """Attach as `prismtop watch` does, in this process."""
    profiles = profiles_of(engine)
    group = group_of(engine.pid, profiles)
    return Session(attach(group, profiles[group.engine], replace(options, metrics=False)))


@contextlib.contextmanager
def attached(engine: ScriptedEngine, options: AttachOptions = DEFAULTS) -> Iterator[Session]:
    """A session that is closed with the block."""
    session = open_session(engine, options)
    try:
        yield session
    finally:
        session.close()


def ticks_until(
    session: Session, done: Callable[[list[Batch], Frame], bool], within_s: float = 10.0
) -> tuple[list[Batch], Frame]:
    """Tick until `done(batches so far, frame)`; the batches and the last frame."""
    batches: list[Batch] = []
    said: list[str] = []
    end = time.monotonic() + within_s
    while True:
        frame = session.tick()
        batches += frame.new_batches
        said += frame.warnings
        if done(batches, frame):
            return batches, frame
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {len(batches)} batches, {frame.state}, {said}")
        time.sleep(0.01)


def batches_from(session: Session, count: int, within_s: float = 10.0) -> list[Batch]:
    """The next `count` batches or more."""
    return ticks_until(session, lambda batches, _: len(batches) >= count, within_s)[0]


def probe_is_in(pid: int, within_s: float) -> bool:
    """Whether the probe's memory appears among the target's descriptors in time."""
    end = time.monotonic() + within_s
    while find_ring(pid) is None:
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def probe_is_gone(pid: int, within_s: float) -> bool:
    """Whether the probe's memory disappears from the target's descriptors in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if find_ring(pid) is None:
            return True
        time.sleep(0.02)
    return False


# ---------------------------------------------------------------- prismtop as a user runs it


def prismtop(
    *argv: str, env: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PRISMTOP, *argv], cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


class Watch:
    """A `prismtop watch --json` that runs."""

    def __init__(self, pid: int, *argv: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*PRISMTOP, "watch", "--pid", str(pid), "--json", *argv],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []

    def until(self, kind: str, within_s: float = 20.0) -> dict[str, Any]:
        """The next line of that type."""
        assert self.process.stdout is not None
        end = time.monotonic() + within_s
        while True:
            line = self.process.stdout.readline()
            assert line, f"watch ended with {self.process.wait()}: {self.process.communicate()[1]}"
            self.lines.append(json.loads(line))
            if self.lines[-1]["type"] == kind:
                return self.lines[-1]
            assert time.monotonic() < end, f"no {kind} line within {within_s} s"

    def finish(self, timeout: float = 30.0) -> tuple[int, str]:
        """Read the rest, wait for its end: exit code and stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        killer = threading.Timer(timeout, self.process.kill)
        killer.start()
        self.lines += [json.loads(line) for line in self.process.stdout]
        err = self.process.stderr.read()
        code = self.process.wait()
        killer.cancel()
        return code, err

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == kind]


@contextlib.contextmanager
def watching(pid: int, *argv: str, env: dict[str, str] | None = None) -> Iterator[Watch]:
    """`prismtop watch --json`; killed with the block when it still runs."""
    watch = Watch(pid, *argv, env=env)
    try:
        yield watch
    finally:
        if watch.process.poll() is None:
            watch.process.kill()
            watch.process.communicate()


# ---------------------------------------------------------------- real engines

ENGINES = Path(
    os.environ.get("ENGINES")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prismtop-engines"
)
TOOLS = ROOT.parent / "shared" / "tools" / "engines"
_PROGRAM = {"hf": "transformers", "vllm": "vllm", "sgl": "sglang"}


@dataclass(frozen=True)
class Server:
    """A real engine that serves on loopback."""

    kind: str
    pid: int
    port: int
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def complete(self, max_tokens: int = 8, timeout: float = 60.0) -> dict[str, Any]:
        """One chat request, to see that it still answers."""
        body = {
            "model": self.model,
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": "def f(x)"}],
        }
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def load(self, *argv: str) -> subprocess.Popen[str]:
        """`load.py` against it, with the engine's own Python, which has aiohttp."""
        python = ENGINES / self.kind / "bin" / "python"
        if not (ENGINES / self.kind / "lib").glob("python*/site-packages/aiohttp"):
            python = ENGINES / "hf" / "bin" / "python"
        return subprocess.Popen(
            [str(python), str(TOOLS / "load.py"), self.url, self.model, *argv],
            stdout=subprocess.PIPE,
            text=True,
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def installed_or_skip(kind: str) -> None:
    """Skip with the reason when engine `kind` cannot be started here."""
    if not (TOOLS / "serve.sh").exists():
        pytest.skip(f"{TOOLS}/serve.sh is not here: it starts the real engines")
    program = ENGINES / kind / "bin" / _PROGRAM[kind]
    if not program.exists():
        pytest.skip(f"{program} is not installed: run {TOOLS}/install.sh {kind}")


@contextlib.contextmanager
def serving(
    kind: str, size: str = "tiny", *argv: str, within_s: float = 300.0, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start a real engine on a free port and end it with the block."""
    installed_or_skip(kind)
    port = free_port()
    log = ENGINES / f"test-{kind}-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(TOOLS / "serve.sh"), kind, size, str(port), *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "ENGINES": str(ENGINES), **(env or {})},
        )
    server = Server(kind, process.pid, port, f"models/qwen3-{size}")
    try:
        _wait_until_it_serves(server, process, log, within_s)
        yield server
    finally:
        _end_session_of(process)
        log.unlink(missing_ok=True)


def _wait_until_it_serves(
    server: Server, process: subprocess.Popen[bytes], log: Path, within_s: float
) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"{server.kind} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=2):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    else:
        raise AssertionError(f"{server.kind} did not serve within {within_s} s:\n{log.read_text()[-3000:]}")
    server.complete(timeout=max(60.0, end - time.monotonic()))


def _end_session_of(process: subprocess.Popen[bytes]) -> None:
    """Engines start children in their own groups; all of them are in the session."""
    members = _session_members(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(8)
    for pid in {*members, *_session_members(process.pid)}:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)


def _session_members(session: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(name))
    return found


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
