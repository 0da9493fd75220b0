"""`prismtop serve`: what the prismtop behind a page is started with, and what is refused."""

from __future__ import annotations

import sys

import pytest

from prismtop.cli import _settings, build_parser
from prismtop.command_line.shared import pids
from prismtop.command_line.web import child_arguments
from prismtop.errors import UnavailableError, UsageError
from prismtop.tui.serve import free_port, is_loopback, serve


@pytest.mark.parametrize(
    ("argv", "child"),
    [
        (["serve"], []),
        (["serve", "--demo", "--ascii"], ["demo", "--ascii"]),
        (["serve", "--pid", "7", "--pid", "8", "--readonly"], ["--pid", "7", "--pid", "8", "--readonly"]),
        (["serve", "--theme", "nord", "--set", "tick-hz=5"], ["--theme", "nord", "--set", "tick_hz=5"]),
        (["--pid", "7", "serve", "--pid", "8"], ["--pid", "7", "--pid", "8"]),
        (
            ["--slo-ttft-ms", "300", "--sensitivity", "quiet", "serve"],
            ["--slo-ttft-ms", "300", "--sensitivity", "quiet"],
        ),
        (
            ["--set", "tick-hz=5", "serve", "--set", "window-s=4"],
            ["--set", "tick-hz=5", "--set", "window-s=4"],
        ),
    ],
)
def test_options_reach_the_prismtop_behind_a_page(argv: list[str], child: list[str]) -> None:
    parsed = build_parser().parse_args(argv)
    settings = _settings(parsed)
    behind = build_parser().parse_args(child_arguments(parsed, settings))
    wanted = build_parser().parse_args(child)
    assert (behind.run, pids(behind), _settings(behind)) == (wanted.run, pids(wanted), settings)
    assert settings == _settings(wanted)


def test_it_listens_on_the_loopback_address_unless_told_otherwise() -> None:
    assert is_loopback(build_parser().parse_args(["serve"]).host)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_only_loopback_addresses_are_private(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UsageError):
        free_port("192.0.2.1")


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    with pytest.raises(UsageError):
        build_parser().parse_args(["serve", "--port", port])


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(UnavailableError) as caught:
        serve([], "127.0.0.1", 0, print)
    assert 'pip install "prismtop[web]"' in str(caught.value)
