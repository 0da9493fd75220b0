"""The fixed template: it cannot raise, it binds nothing, and it says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from prismtop.attach.handshake import Handshake, last_line, look
from prismtop.attach.payload import READ_HEAD, TEMPLATE_HEAD, safe_template


def run_as_main(source: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run a template the way PyRun_SimpleString does: as the text of `__main__`."""
    return subprocess.run([sys.executable, "-c", source + after], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError('x')",
        "def (",
        "raise SystemExit(3)",
        "raise KeyboardInterrupt",
        "1/0",
        "\tx",
        "import nowhere_",
    ],
)
def test_nothing_escapes_from_a_bad_body(body: str) -> None:
    done = run_as_main(safe_template(body, "n1"), "print('goes on')")
    if "KeyboardInterrupt" in body:
        assert "goes on" in done.stdout  # and a signal follows, see the integration tests
        return
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "goes on", "")


def test_no_name_is_bound_in_main() -> None:
    after = "print(sorted(n for n in vars() if not n.startswith('__')))"
    assert run_as_main(safe_template("x = 1", "n2"), after).stdout.strip() == "[]"


def test_shadowed_builtins_in_main_do_no_harm() -> None:
    source = (
        "BaseException = 5\nmemoryview = None\n"
        + safe_template("raise ValueError", "n3")
        + "print('goes on')"
    )
    done = run_as_main(source)
    assert (done.returncode, done.stdout.strip()) == (0, "goes on")


def test_the_body_runs_once_with_a_dictionary_of_its_own() -> None:
    body = "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\nbuiltins.names = sorted(globals())"
    done = run_as_main(safe_template(body, "n4"), "print(n, [x for x in names if not x.startswith('__')])")
    assert done.stdout.strip() == "1 ['builtins']"


def test_memfds_tell_begun_started_and_failed() -> None:
    handshake = Handshake.of("n5")
    code = (
        safe_template(
            "import os\nos.kept = os.memfd_create('prismtop-n5')\nimport sys\nsys.stdin.readline()\n1/0", "n5"
        )
        + "import sys\nsys.stdin.readline()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    try:
        assert child.stdin is not None
        wait_until(lambda: look(child.pid, handshake).started)
        seen = look(child.pid, handshake)
        assert seen.begun
        assert seen.error is None
        child.stdin.write("\n")
        child.stdin.flush()
        wait_until(lambda: look(child.pid, handshake).error is not None)
        error = look(child.pid, handshake).error
        assert error is not None
        assert last_line(error).startswith("ZeroDivisionError")
        assert "prismtop-go" not in " ".join(links(child.pid))
        assert not look(child.pid, Handshake.of("n6")).begun
    finally:
        child.kill()
        child.wait()


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def links(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]


def test_the_template_is_pure_ascii_and_holds_no_null() -> None:
    source = safe_template("x = 'h\u00e9llo \U0001f600'", "n7")
    assert source.isascii()
    assert "\0" not in source


@pytest.mark.parametrize("nonce", ["", "a b", "a'b", "../x", "a" * 65, "n\n"])
def test_a_nonce_that_could_break_the_text_is_refused(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        safe_template("pass", nonce)


def test_a_null_in_the_body_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        safe_template("a = '\0'", "n8")


def test_the_marks_of_a_source_are_comments_of_equal_length() -> None:
    assert safe_template("pass", "n9").startswith(TEMPLATE_HEAD)
    assert len(TEMPLATE_HEAD) == len(READ_HEAD)
    assert TEMPLATE_HEAD.startswith("#")
    assert READ_HEAD.startswith("#")


def test_the_last_line_of_a_trace_is_printable() -> None:
    assert last_line("a\nValueError: \x1b[2J\u202e\n\n") == "ValueError: ?[2J?"
    assert last_line("") == "no text"
