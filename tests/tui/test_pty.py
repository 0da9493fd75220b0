"""The real thing on a pseudo-terminal: what goes out, and that the terminal is as before afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESTORED = ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1000l", "\x1b[?2004l", "\x1b[?7h")
OWN = re.compile(r"\x1b\]22;[a-z-]*\x07|\x1b\[[\d;]*[mHABCD]|\x1b\[[?>=<][\d;]*\$?[a-zA-Z]|\x08|\r|\n")


class Terminal:
    """A terminal with one program in it."""

    def __init__(self, what: str, **env: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8", PYTHONPATH=str(ROOT), **env)
            os.execv(sys.executable, [sys.executable, str(ROOT / "tests/tui/run_screen.py"), what])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.fd)
        self.output = ""
        self.code: int | None = None

    def read(self, seconds: float, until: str = "") -> str:
        """Read for so long, or until the text arrives."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not (until and until in self.output):
            if not select.select([self.fd], [], [], left)[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            self.output += data.decode("utf-8", "replace")
        return self.output

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def end(self, seconds: float = 20) -> int:
        """Wait for the program's end; its exit code, negative when a signal ended it."""
        deadline = time.monotonic() + seconds
        while self.code is None and time.monotonic() < deadline:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        self.read(0.2)
        assert self.code is not None, "the program did not end"
        return self.code


@contextmanager
def terminal(what: str, **env: str) -> Iterator[Terminal]:
    made = Terminal(what, **env)
    try:
        yield made
    finally:
        if made.code is None:
            os.kill(made.pid, signal.SIGKILL)
            os.waitpid(made.pid, 0)
        os.close(made.fd)


def assert_restored(term: Terminal) -> None:
    last_frame = term.output.rindex("\x1b[?1049l")
    for sequence in RESTORED:
        assert sequence in term.output[last_frame - 200 :], repr(sequence)
    after = term.output[last_frame:]
    assert "Traceback" not in after
    assert termios.tcgetattr(term.fd) == term.before


def test_q_leaves_with_0_and_the_terminal_as_it_was() -> None:
    with terminal("plain") as term:
        term.read(20, "batch/s")
        term.type(b"q")
        assert term.end() == 0
        assert_restored(term)
        assert "left with 0, ticking ended" in term.output


def test_a_crash_of_the_collector_is_one_sentence_after_the_terminal_is_back() -> None:
    with terminal("crash") as term:
        assert term.end() == 70
        assert_restored(term)
        after = term.output[term.output.rindex("\x1b[?1049l") :]
        assert "error: Collecting failed with ValueError: no such ring" in after
        assert "\x1b]0;" not in after


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_asks_to_end_restores_the_terminal(number: int) -> None:
    with terminal("plain") as term:
        term.read(20, "batch/s")
        os.kill(term.pid, number)
        term.end()
        assert_restored(term)


def test_nothing_of_the_target_reaches_the_terminal_as_a_control_sequence() -> None:
    with terminal("hostile") as term:
        term.read(20, "batch/s")
        term.type(b"p")
        term.read(1.0)
        term.type(b"q")
        term.read(0.5)
        term.type(b"q")
        term.end()
        screen = term.output[term.output.index("\x1b[?1049h") : term.output.rindex("\x1b[?1049l")]
        left = OWN.sub("", screen)
        assert "owned" in left
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]", left)
        assert "\x1b[2J" not in screen
        assert screen.count("\x1b[?1049") == 1


def test_no_color_sends_no_colour() -> None:
    with terminal("plain", NO_COLOR="1") as term:
        term.read(20, "batch/s")
        term.read(0.5)
        term.type(b"q")
        assert term.end() == 0
        assert not re.search(r"\x1b\[[\d;]*\b(3[0-7]|38;|4[0-7]|48;|9[0-7])[\d;]*m", term.output)
        assert "batch/s" in term.output


def test_without_a_terminal_the_refusal_names_the_other_command() -> None:
    import subprocess

    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/tui/run_screen.py"), "plain"]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, timeout=60
    )
    assert ended.returncode == 3
    assert "prismtop watch" in ended.stderr
