"""A payload that goes wrong, and signals that arrive meanwhile: the target goes on as before."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from prismtop.attach.errors import InjectionError
from tests.integration.targets.harness import MINORS, enter, python_or_skip, running

BAD = {
    "raises": "raise ValueError('wrong')",
    "is no Python": "def (",
    "exits": "raise SystemExit(3)",
    "has a null import": "import there_is_no_such_module_",
    "recurses": "f = lambda: f()\nf()",
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("minor", MINORS)
def test_the_target_outlives_a_payload_that(minor: str, kind: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        with pytest.raises(InjectionError, match="failed"):
            enter(target, BAD[kind])
        assert target.works()
        enter(target)
        assert target.works()


@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.13"])
def test_a_failed_payload_leaves_no_descriptor_behind(minor: str, tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip(minor)) as target:
        before = target.descriptors()
        with pytest.raises(InjectionError):
            enter(target, "raise ValueError('wrong')")
        assert target.descriptors() == before


def test_a_failed_payload_closes_its_error_where_the_helper_cannot(tmp_path: Path) -> None:
    with running("loop", tmp_path, python_or_skip("3.14")) as target:
        before = target.descriptors()
        with pytest.raises(InjectionError):
            enter(target, "raise ValueError('wrong')")
        end = time.monotonic() + 15
        while target.descriptors() != before:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert target.works()


def test_the_error_names_what_went_wrong(tmp_path: Path) -> None:
    with running("loop", tmp_path) as target:
        with pytest.raises(InjectionError) as caught:
            enter(target, "raise ValueError('\\x1b[2Jthis one')")
        assert "ValueError" in caught.value.message
        assert "this one" in caught.value.message
        assert "\x1b" not in caught.value.message


SIGNAL_INSIDE = """
import os, time
fd = os.memfd_create('prismtop-%%(nonce)s')
os.kill(os.getpid(), %d)
end = time.monotonic() + 2
while time.monotonic() < end:
    pass
"""


@pytest.mark.parametrize("minor", MINORS)
def test_a_ctrl_c_that_arrives_while_the_payload_runs_is_not_lost(minor: str, tmp_path: Path) -> None:
    with running("interrupt", tmp_path, python_or_skip(minor)) as target:
        try:
            enter(target, SIGNAL_INSIDE % signal.SIGINT, timeout_s=0.5)
        except InjectionError:
            pass  # the payload was cut short, which is right
        assert target.process.wait(timeout=5) == 0
        assert target.process.stdout is not None
        assert "interrupted" in target.process.stdout.read()


@pytest.mark.parametrize("minor", MINORS)
def test_a_sigterm_that_arrives_while_the_payload_runs_is_not_lost(minor: str, tmp_path: Path) -> None:
    with running("terminate", tmp_path, python_or_skip(minor)) as target:
        try:
            enter(target, SIGNAL_INSIDE % signal.SIGTERM, timeout_s=0.5)
        except InjectionError:
            pass
        assert target.process.wait(timeout=5) == 42


@pytest.mark.parametrize("minor", ["3.9", "3.12"])
def test_a_ctrl_c_during_an_attach_ends_the_target_as_ever(minor: str, tmp_path: Path) -> None:
    with running("interrupt", tmp_path, python_or_skip(minor)) as target:
        enter(target)
        target.process.send_signal(signal.SIGINT)
        assert target.process.wait(timeout=5) == 0


def test_a_payload_that_takes_long_to_compile_is_not_nudged_while_it_runs(tmp_path: Path) -> None:
    slow = "import os, time\ntime.sleep(0.4)\nos._kept = os.memfd_create('prismtop-%(nonce)s')"
    with running("spin_threads", tmp_path, python_or_skip("3.11")) as target:
        began = time.monotonic()
        done, _ = enter(target, slow)
        assert done.started
        assert time.monotonic() - began > 0.4
        assert target.works()
