"""Tells others of alerts: a command with the alert on its stdin, or a webhook. Never waits for either.

An alert is told when it opens and when it closes. What opens faster than `LEAST_GAP_S` apart waits in a short
queue; what does not fit there is counted and said at the end. The command gets no shell and ends after
`TIMEOUT_S`.
"""

from __future__ import annotations

import json
import queue
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prismtop.errors import UsageError
from prismtop.export.jsonl import SCHEMA, alert_object
from prismtop.model import Alert, Clock, Frame, Group
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.settings import Settings

LEAST_GAP_S = 1.0
TIMEOUT_S = 10.0
QUEUED = 32
CLOSING_S = 2.0

Teller = Callable[[bytes], None]


class AlertHook:
    """A `prismtop.session.Sink`: hands alerts to `tell` in a thread.

    Args:
        tell: gets one JSON document; may block and may raise OSError or ValueError with a reason.
        name: of what is told, for sentences.
        least_gap_s: time between two calls of `tell`.
    """

    def __init__(
        self, tell: Teller, name: str, group: Group | None = None, *, least_gap_s: float = LEAST_GAP_S
    ) -> None:
        self._tell = tell
        self._name = name
        self._engine = group.engine if group else ""
        self._gap_s = least_gap_s
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self._told: dict[int, bool] = {}
        self._dropped = 0
        self._failed = 0
        self._error = ""
        self._thread: threading.Thread | None = None

    def take(self, frame: Frame) -> None:
        """Queue what opened or closed."""
        for alert in frame.changed_alerts:
            closed = alert.closed_ns is not None
            if self._told.get(alert.id) in (closed, True):
                continue
            self._told[alert.id] = closed
            self._put(alert, frame.clock)

    def close(self) -> tuple[str, ...]:
        """Give what is queued a moment; sentences about what could not be told."""
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                pass
            self._thread.join(CLOSING_S)
        said = []
        left = sum(1 for one in list(self._queue.queue) if one is not None)
        if self._dropped + left:
            said.append(f"{self._dropped + left} alerts were not told to {self._name}: too many at once")
        if self._failed:
            said.append(f"{self._name} failed for {self._failed} alerts: {self._error}")
        return tuple(said)

    def _put(self, alert: Alert, clock: Clock) -> None:
        content: dict[str, object] = {"v": SCHEMA, "type": "alert", "engine": safe_text(self._engine)}
        content.update(alert_object(alert, clock))
        content["t_us"] = clock.wall_us(alert.opened_ns)
        try:
            self._queue.put_nowait(json.dumps(content).encode() + b"\n")
        except queue.Full:
            self._dropped += 1
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prismtop-alerts", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            document = self._queue.get()
            if document is None:
                return
            try:
                self._tell(document)
            except (OSError, ValueError) as error:
                self._failed += 1
                self._error = safe_text(str(error), 200)
            time.sleep(self._gap_s)


def hooks_for(settings: Settings, group: Group) -> tuple[AlertHook, ...]:
    """The hooks that the settings ask for.

    Raises:
        UsageError: a command that cannot be parsed, or a URL that is none.
    """
    made = []
    if settings.on_alert:
        made.append(AlertHook(command_teller(settings.on_alert), "the --on-alert command", group))
    if settings.alert_webhook:
        made.append(AlertHook(webhook_teller(settings.alert_webhook), "the webhook", group))
    return tuple(made)


def command_teller(line: str) -> Teller:
    """Runs a command, split as a shell would but without one, with the document on its stdin.

    Raises:
        UsageError: quotes that do not match, or no command.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"--on-alert cannot be parsed: {error}.", fix="Correct the quotes.") from None
    if not words:
        raise UsageError("--on-alert names no command.", fix="Give one, or leave the option out.")
    return lambda document: _run(words, document)


def _run(words: Sequence[str], document: bytes) -> None:
    import subprocess

    try:
        done = subprocess.run(
            words,
            input=document,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it took longer than {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise ValueError(f"exit status {done.returncode}")


def webhook_teller(url: str) -> Teller:
    """Posts the document.

    Raises:
        UsageError: not an http or https URL with a host.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(
            f"alert_webhook is no http(s) URL: {safe_text(url, 80)}.",
            fix="Such as http://127.0.0.1:9000/alerts.",
        )
    return lambda document: _post(url, document)


def _post(url: str, document: bytes) -> None:
    import http.client
    import urllib.request

    request = urllib.request.Request(url, document, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass
    except http.client.HTTPException as error:
        raise ValueError(str(error) or type(error).__name__) from None
