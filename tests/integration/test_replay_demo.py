"""A recording of the real demo engine, replayed: line for line what was seen live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prismtop.commands.attaching import open_session
from prismtop.commands.choose import named_group, profiles_in_use
from prismtop.commands.context import closing_session
from prismtop.commands.demo import DemoOptions, engine_under_load
from prismtop.commands.watch import JsonSink
from prismtop.trace.recorder import Recorder, RecorderSettings
from tests.unit.doubles import make_context

ROOT = Path(__file__).resolve().parent.parent.parent
BATCHES = 150

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prismtop attaches on Linux only")


def live_lines(path: Path) -> list[dict[str, Any]]:
    """Watch the demo engine and record it at once; the lines that were printed."""
    context, out, _ = make_context(json=True)
    with engine_under_load(context, DemoOptions(rate=8.0)) as pid:
        profiles = profiles_in_use()
        recorder = Recorder(RecorderSettings.of(context.settings))
        session = open_session(
            context, named_group([pid], profiles), profiles, figures=False, recorder=recorder
        )
        with closing_session(context, session):
            sink = JsonSink(context)
            sink.write(session.tick())
            session.start_recording(path, 3600.0)
            seen, end = 0, time.monotonic() + 120
            while seen < BATCHES and time.monotonic() < end:
                time.sleep(1 / context.settings.tick_hz)
                frame = session.tick()
                seen += len(frame.new_batches)
                sink.write(frame)
            session.stop_recording()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_recording_of_the_demo_engine_replays_line_for_line(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    live = live_lines(path)
    assert sum(line["type"] == "batch" for line in live) >= BATCHES
    (recorded,) = (file for file in tmp_path.iterdir() if file.name.startswith("demo"))
    done = subprocess.run(
        [sys.executable, "-m", "prismtop", "replay", str(recorded), "--headless", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == live
