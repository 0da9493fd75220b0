"""Captures that alerts begin: by a set severity, rarely, once per episode, and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prismtop.errors import PrismtopError
from prismtop.model import Alert, Capture, CaptureRequest, Frame, Group, Severity
from prismtop.safe_text import safe_text
from prismtop.session import DeepDiver
from prismtop.settings import Settings

OFF = "off"
ENGINES_KEPT = 100
_SEVERITIES = {"warning": (Severity.WARNING, Severity.CRITICAL), "critical": (Severity.CRITICAL,)}


@dataclass(frozen=True)
class Rule:
    """When an alert begins a capture.

    Attributes:
        severities: of alerts that do.
        cooldown_s: between two of them, of one engine.
        request: what is captured.
    """

    severities: tuple[Severity, ...]
    cooldown_s: float
    request: CaptureRequest


def rule_of(settings: Settings) -> Rule | None:
    """What the settings say; None when alerts begin nothing."""
    if settings.deepdive_on_alert == OFF:
        return None
    request = CaptureRequest(batches=settings.deepdive_batches, max_s=settings.deepdive_max_s)
    return Rule(_SEVERITIES[settings.deepdive_on_alert], settings.deepdive_cooldown_min * 60, request)


def refusal(settings: Settings, production: Callable[[], str]) -> str:
    """Why alerts begin nothing here, although the settings say so; empty when they do.

    Args:
        production: what says that users are served here.
    """
    if settings.deepdive_on_alert == OFF:
        return ""
    if settings.readonly:
        return "alerts begin no capture: read-only"
    origin = settings.origins.get("deepdive_on_alert", "default")
    if origin == "flag" or origin.startswith("env "):
        return ""
    marker = production()
    if marker:
        return (
            f"alerts begin no capture in production ({marker}), unless this very start says so: "
            f"--set deepdive_on_alert={settings.deepdive_on_alert}"
        )
    return ""


class Memory:
    """When an alert began a capture last, by engine; one small JSON file in the user's state directory.

    A file that cannot be read counts as none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, key: str) -> float | None:
        """Unix time of the last one."""
        return self._read().get(key)

    def remember(self, key: str, now_s: float) -> None:
        """One begins now. Raises OSError."""
        kept = {**self._read(), key: now_s}
        newest = dict(sorted(kept.items(), key=lambda item: item[1])[-ENGINES_KEPT:])
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".deepdive-", dir=self._path.parent)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(newest, file)
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self._path.read_text()[:100_000])
        except (OSError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: value for key, value in found.items() if type(value) in (int, float)}


def memory_path() -> Path:
    """Where it is."""
    import platformdirs

    return Path(platformdirs.user_state_dir("prismtop", appauthor=False)) / "deepdive.json"


def key_of(group: Group) -> str:
    """What one engine is called over restarts: its kind, release, models and ports."""
    models = sorted({member.model or "" for member in group.members})
    text = json.dumps([group.engine, group.version, models, sorted(group.ports)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class OnAlert:
    """A `DeepDiver` over another one, which alerts begin captures with too."""

    def __init__(
        self, inner: DeepDiver, rule: Rule, memory: Memory, key: str, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._inner = inner
        self._rule = rule
        self._memory = memory
        self._key = key
        self._wall_s = wall_s
        self._decided: set[int] = set()
        self._said: list[str] = []

    def preview(self, request: CaptureRequest, frame: Frame) -> Capture:
        """See `DeepDiver`."""
        return self._inner.preview(request, frame)

    def start(self, request: CaptureRequest, frame: Frame) -> Capture:
        """See `DeepDiver`."""
        return self._inner.start(request, frame)

    def cancel(self) -> Capture | None:
        """See `DeepDiver`."""
        return self._inner.cancel()

    def take(self, frame: Frame) -> Capture | None:
        """Advance; an alert may begin one."""
        capture = self._inner.take(frame)
        running = capture is not None and not capture.phase.final
        for alert in frame.changed_alerts:
            severe = alert.closed_ns is None and alert.severity in self._rule.severities
            if severe and alert.id not in self._decided:
                self._decided.add(alert.id)
                if not running:
                    capture = self._begin(alert, frame) or capture
                    running = True
        return capture

    def _begin(self, alert: Alert, frame: Frame) -> Capture | None:
        now = self._wall_s()
        last = self._memory.last(self._key)
        if last is not None and abs(now - last) < self._rule.cooldown_s:
            ago, every = abs(now - last) / 60, self._rule.cooldown_s / 60
            self._said.append(
                f"alert {alert.id} began no capture: the last one was {ago:.0f} min ago, "
                f"and there is one in {every:g} min"
            )
            return None
        request = self._rule.request
        because = CaptureRequest(batches=request.batches, max_s=request.max_s, why=f"alert {alert.id}")
        try:
            self._memory.remember(
                self._key, now
            )  # first: what cannot be remembered could come again and again
            capture = self._inner.start(because, frame)
        except (PrismtopError, OSError) as error:
            self._said.append(f"alert {alert.id} began no capture: {safe_text(str(error), 300)}")
            return None
        self._said.append(f"alert {alert.id} began a capture of {because.batches} batches")
        return capture

    @property
    def disturbs(self) -> str:
        """See `DeepDiver`."""
        return self._inner.disturbs

    def warnings(self) -> tuple[str, ...]:
        """What alerts began, or why not."""
        said, self._said = tuple(self._said), []
        return (*self._inner.warnings(), *said)

    def close(self) -> tuple[str, ...]:
        """See `DeepDiver`."""
        return self._inner.close()
