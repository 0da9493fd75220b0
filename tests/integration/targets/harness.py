"""Start real processes of every installed CPython to be entered, and look at them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from prismtop.attach.handshake import Handshake
from prismtop.attach.helper_process import Helper, Meanwhile
from prismtop.attach.ladder import Injection, inject
from prismtop.attach.payload import safe_template
from prismtop.attach.preflight import WayIn
from prismtop.attach.process import read_stat

HERE = Path(__file__).parent
MINORS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
WORLD_READABLE = "/usr/bin/python3"


def find_python(minor: str) -> str | None:
    """An interpreter of that minor: $PRISMTOP_TEST_PYTHONS (a search path), pyenv, the engines' folder, PATH."""
    home = Path.home()
    engines = Path(os.environ.get("ENGINES", home / ".cache/prismtop-engines"))
    named = [Path(p) / f"python{minor}" for p in os.environ.get("PRISMTOP_TEST_PYTHONS", "").split(":") if p]
    pyenv = sorted((home / ".pyenv/versions").glob(f"{minor}.*/bin/python"))
    packaged = [engines / f"pys/root/usr/bin/python{minor}"]
    for path in (*named, *pyenv, *packaged):
        if path.exists():
            return str(path)
    return shutil.which(f"python{minor}")


def python_or_skip(minor: str) -> str:
    path = find_python(minor)
    if path is None:
        pytest.skip(f"CPython {minor} is not installed (set PRISMTOP_TEST_PYTHONS to where it is)")
    return path


def newest_python(*, below: str = "3.14") -> str:
    """Any interpreter that the ptrace way is for."""
    for minor in reversed(MINORS[: MINORS.index(below)]):
        path = find_python(minor)
        if path is not None:
            return path
    pytest.skip(f"no CPython below {below} is installed")


class Target:
    """A running target and its turn counter."""

    def __init__(self, process: subprocess.Popen[str], pid: int, counter: Path, mode: str) -> None:
        self.process, self.pid, self.counter, self.mode = process, pid, counter, mode
        self.start_time = read_stat(pid).start_time

    def turns(self) -> int:
        (n,) = struct.unpack_from("<Q", self.counter.read_bytes())
        return int(n)

    def alive(self) -> bool:
        return self.process.poll() is None and read_stat(self.pid).state not in "ZX"

    def works(self, within_s: float = 10.0) -> bool:
        """Whether its main thread still takes turns (an idle one is given something to do)."""
        before, end = self.turns(), time.monotonic() + within_s
        if self.mode in ("queue", "select", "asyncio"):
            assert self.process.stdin is not None
            self.process.stdin.write("x\n")
            self.process.stdin.flush()
        while time.monotonic() < end and self.alive():
            if self.turns() > before:
                return True
            time.sleep(0.01)
        return False

    def descriptors(self) -> list[str]:
        folder, links = f"/proc/{self.pid}/fd", []
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"{folder}/{name}"))
        return sorted(links)

    def mappings(self) -> int:
        return len(Path(f"/proc/{self.pid}/maps").read_text().splitlines())


@contextlib.contextmanager
def running(
    mode: str, tmp: Path, python: str | None = None, *, prefix: Sequence[str] = (), settle_s: float = 0.15
) -> Iterator[Target]:
    """A target in `mode`; it is ended afterwards."""
    counter = tmp / f"counter-{secrets.token_hex(4)}"
    counter.write_bytes(bytes(8))
    counter.chmod(0o666)
    process = subprocess.Popen(
        [*prefix, python or newest_python(), str(HERE / "modes.py"), mode, str(counter)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("PID"):
            pytest.skip(f"the target did not start: {process.communicate()[1][-200:]}")
        pid = process.pid
        while read_stat(pid).comm in ("unshare", "setpriv", "sh"):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pid = int(children[0])
        target = Target(process, pid, counter, mode)
        time.sleep(settle_s)
        yield target
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()


PROOF = """
import json, os, threading
fd = os.memfd_create('prismtop-%(nonce)s')
main = vars(__import__('__main__'))
os.write(fd, json.dumps([threading.current_thread() is threading.main_thread(), sorted(main)]).encode())
__import__('builtins').__dict__.setdefault('_kept', []).append(fd)
"""


def enter(
    target: Target, body: str = PROOF, *, timeout_s: float = 5.0, way: WayIn | None = None, wake: bool = True,
    helper: Helper | None = None, meanwhile: Meanwhile = lambda: None,
) -> tuple[Injection, str]:  # fmt: skip
    """Inject `body` (with its nonce filled in) and return the nonce too."""
    nonce = secrets.token_hex(6)
    source = safe_template(body % {"nonce": nonce} if "%(nonce)s" in body else body, nonce)
    done = inject(
        target.pid, target.start_time, source,
        started=Handshake.of(nonce), timeout_s=timeout_s, force_way=way, wake=wake, allow_gdb=way is WayIn.GDB,
        helper=helper, meanwhile=meanwhile,
    )
    return done, nonce


def proof_of(target: Target, nonce: str, within_s: float = 2.0) -> str:
    """What the payload wrote into its memfd; it writes a moment after it made it."""
    folder, end = f"/proc/{target.pid}/fd", time.monotonic() + within_s
    while True:
        found = False
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith(f"/memfd:prismtop-{nonce}"):
                    found = True
                    text = Path(f"{folder}/{name}").read_text()
                    if text:
                        return text
        if not found or time.monotonic() > end:
            return ""
        time.sleep(0.005)


def run_injector(
    pid: int, where: str, count: int = 1, *step: str, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run targets/injector.py, which injects in a process of its own."""
    return subprocess.run(
        [sys.executable, str(HERE / "injector.py"), str(pid), where, str(count), *step],
        capture_output=True, text=True, timeout=timeout_s,
    )


def without_numbers(text: str) -> str:
    return re.sub(r"\d+", "N", text)
