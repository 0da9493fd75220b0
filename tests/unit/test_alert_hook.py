"""Who is told of an alert: a command, a webhook; and that nobody waits for either."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prismtop.errors import UsageError
from prismtop.export.alert_hook import AlertHook, command_teller, hooks_for, webhook_teller
from prismtop.model import Alert, Frame, Severity
from prismtop.settings import Settings
from tests.factories import make_frame, make_group


def make_alert(number: int = 1, **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": number,
        "kind": "shift",
        "severity": Severity.WARNING,
        "opened_ns": 10**12,
        "started_ns": 10**12 - 5,
        "pid": 4242,
        "first_seq": 3,
        "last_seq": 9,
        "batches": 7,
        "excess_ns": 12_000_000,
        "text": "decode +38 % for 7 batches",
    }
    return Alert(**{**fields, **changes})


def frame_with(*alerts: Alert) -> Frame:
    return make_frame(0, changed_alerts=alerts)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def test_the_command_gets_the_alert_on_its_stdin(tmp_path: Path) -> None:
    out = tmp_path / "a file"
    script = f"import sys; open({str(out)!r}, 'wb').write(sys.stdin.buffer.read())"
    hook = AlertHook(command_teller(f'{sys.executable} -c "{script}"'), "it", make_group(), least_gap_s=0.0)
    hook.take(frame_with(make_alert()))
    wait_for(lambda: out.exists() and out.read_bytes().endswith(b"\n"))
    told = json.loads(out.read_text())
    assert hook.close() == ()
    assert (told["type"], told["kind"], told["state"], told["batches"], told["engine"]) == (
        *("alert", "shift", "open", 7, "vllm"),
    )
    assert told["t_us"] == 1_764_238_000 * 10**6 + 10**9


def test_the_command_gets_no_shell(tmp_path: Path) -> None:
    hook = AlertHook(
        command_teller(f"{sys.executable} -c pass ; touch {tmp_path}/shell"), "it", least_gap_s=0.0
    )
    hook.take(frame_with(make_alert()))
    hook.close()
    assert not (tmp_path / "shell").exists()


def test_opening_and_closing_are_told_and_updates_are_not() -> None:
    told: list[dict[str, Any]] = []
    hook = AlertHook(lambda document: told.append(json.loads(document)), "it", least_gap_s=0.0)
    alert = make_alert()
    for one in (
        alert,
        replace(alert, batches=9),
        replace(alert, batches=12),
        replace(alert, closed_ns=10**12 + 9),
    ):
        hook.take(frame_with(one))
    hook.close()
    assert [(one["state"], one["batches"]) for one in told] == [("open", 7), ("closed", 7)]


def test_a_command_that_hangs_does_not_hold_up_the_session() -> None:
    release = threading.Event()
    hook = AlertHook(lambda document: release.wait(30) and None, "it", least_gap_s=0.0)
    started = time.monotonic()
    for n in range(100):
        hook.take(frame_with(make_alert(n)))
    assert time.monotonic() - started < 5
    release.set()
    sentences = hook.close()
    assert any("not told" in sentence for sentence in sentences)


def test_alerts_are_told_no_faster_than_the_rate() -> None:
    times: list[float] = []
    hook = AlertHook(lambda document: times.append(time.monotonic()), "it", least_gap_s=0.2)
    hook.take(frame_with(*(make_alert(n) for n in range(4))))
    wait_for(lambda: len(times) == 4)
    assert min(b - a for a, b in pairwise(times)) >= 0.19


@pytest.mark.parametrize(
    "line",
    [f"{sys.executable} -c 'raise SystemExit(3)'", "/does/not/exist", f"{sys.executable} /does/not/exist"],
)
def test_a_command_that_fails_is_said_at_the_end(line: str) -> None:
    hook = AlertHook(command_teller(line), "the --on-alert command", least_gap_s=0.0)
    hook.take(frame_with(make_alert()))
    wait_for(lambda: hook._failed)
    assert hook.close()[0].startswith("the --on-alert command failed for 1 alerts")


@pytest.mark.parametrize("line", ["echo 'unbalanced", "   "])
def test_a_command_that_cannot_be_parsed_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        command_teller(line)


@pytest.mark.parametrize("url", ["ftp://host/x", "nonsense", "http://", "http://[::1", "file:///etc/passwd"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        webhook_teller(url)


def test_the_webhook_gets_the_alert_as_json() -> None:
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Type"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/alerts"
        (hook,) = hooks_for(replace(Settings(), alert_webhook=url), make_group())
        hook.take(frame_with(make_alert()))
        wait_for(lambda: got)
        hook.close()
    finally:
        server.shutdown()
        server.server_close()
    assert got[0][0] == "application/json"
    assert json.loads(got[0][1])["text"] == "decode +38 % for 7 batches"


def test_a_webhook_that_nobody_serves_is_said_at_the_end() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_port
    server.server_close()
    hook = AlertHook(webhook_teller(f"http://127.0.0.1:{port}/"), "the webhook", least_gap_s=0.0)
    hook.take(frame_with(make_alert()))
    wait_for(lambda: hook._failed)
    assert "the webhook failed" in hook.close()[0]


def test_without_settings_nobody_is_told() -> None:
    assert hooks_for(Settings(), make_group()) == ()


def test_control_characters_of_an_engine_do_not_travel() -> None:
    told: list[bytes] = []
    hook = AlertHook(told.append, "it", make_group(engine="x\x1b[31m"), least_gap_s=0.0)
    hook.take(frame_with(make_alert(text="a\x1bb")))
    hook.close()
    assert "\\u001b" not in told[0].decode()
