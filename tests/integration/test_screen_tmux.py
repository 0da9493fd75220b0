"""`prismtop demo` in a real terminal (tmux): keys pressed, the screen read back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only"),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
WAIT_S = 60.0


class Tmux:
    """A tmux server of our own with a shell in it."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PS1": "sh> "}
        env.pop("TMUX", None)
        env.pop("NO_COLOR", None)
        self._env = env
        self("new-session", "-d", "-x", "100", "-y", "30", "-s", "t", "bash --norc --noprofile -i")
        self.type(f"cd {ROOT}; export PRISMTOP_EXPORT_DIR={folder} XDG_CONFIG_HOME={folder} PS1='sh> '")

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, "-f", "/dev/null", *command],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def type(self, text: str) -> None:
        self("send-keys", "-t", "t", "-l", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self("send-keys", "-t", "t", *keys)

    def screen(self) -> str:
        return self("capture-pane", "-p", "-t", "t")

    def wait(self, pattern: str, *, gone: bool = False) -> str:
        """The screen once the pattern is on it (or no longer)."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            shown = self.screen()
            if bool(re.search(pattern, shown, re.MULTILINE)) is not gone:
                return shown
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} {'stayed' if gone else 'did not come'}:\n{self.screen()}")


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    made = Tmux(tmp_path)
    try:
        yield made
    finally:
        made("kill-server")


def test_the_demo_on_a_real_terminal(tmux: Tmux, tmp_path: Path) -> None:
    tmux.type(f"{sys.executable} -m prismtop demo")
    tmux.wait(r"[1-9]\d* batches")
    tmux.wait(r"^ +\d+ (dec|pre|mix) ")

    tmux.press("Space")
    tmux.wait("PAUSED")
    tmux.press("Space")
    tmux.wait("PAUSED", gone=True)

    tmux.press("/")
    tmux.wait(r"^ filter: _")
    tmux("send-keys", "-t", "t", "-l", "mode==decode & dur>0")
    shown = tmux.wait(r"filter \d+ rows")
    assert not re.search(r"^.? +\d+ (pre|mix) ", shown, re.MULTILINE)
    tmux.press("Enter")
    tmux.wait("enter take", gone=True)
    tmux.press("Escape")
    tmux.wait(r"filter \d+ rows", gone=True)

    tmux.press("F6")
    tmux.wait("sort by")
    tmux.press("Escape")
    tmux.wait("sort by", gone=True)
    for key, says in (
        ("A", "Alerts: |critical|warning"),
        ("t", "measured"),
        ("?", "every batch of a running"),
    ):
        tmux.press(key)
        tmux.wait("esc back")
        tmux.wait(says)
        tmux.press("q")
        tmux.wait("esc back", gone=True)

    tmux.press("e")
    tmux.wait("JSON lines: the rows")
    tmux.press("Enter")
    tmux.wait("written: ")
    assert [path.suffix for path in tmp_path.glob("prismtop-demo-*")] == [".json"]

    tmux("resize-window", "-t", "t", "-x", "80", "-y", "24")
    tmux.wait(r"^ prismtop  SENTINEL · demo \S+ · engine \d+")
    tmux.press("q")
    tmux.wait(r"^sh> ?$")
    tmux.type("echo left with $?")
    tmux.wait("left with 0")


def test_ctrl_z_gives_the_shell_back_and_fg_the_screen(tmux: Tmux) -> None:
    tmux.type(f"{sys.executable} -m prismtop demo")
    tmux.wait(r"[1-9]\d* batches")
    tmux.press("C-z")
    tmux.wait(r"Stopped")
    tmux.type("echo here $((6 * 7))")
    tmux.wait("here 42")
    tmux.type("fg")
    before = tmux.wait(r"[1-9]\d* batches · ")
    count = re.search(r"([\d,]+) batches", before)
    assert count is not None
    tmux.wait(rf"^(?!.*\b{count[1]} batches).*\d batches · ")
    tmux.press("F10")
    tmux.wait(r"^sh> ?$")
