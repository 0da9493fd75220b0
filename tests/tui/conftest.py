"""One time zone, no colours from the environment, UTF-8."""

from __future__ import annotations

import time

import pytest


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Screens must not depend on where the tests run."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setattr("prismtop.tui.base._can_encode", lambda: True)
    for name in ("NO_COLOR", "SSH_CONNECTION", "TEXTUAL_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    time.tzset()
