"""Headless commands start fast: what they must not import, seen in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

HEAVY = (
    "textual",
    "sklearn",
    "numpy",
    "prometheus_client",
    "asyncio",
    "ssl",
    "http.client",
    "psutil",
    "rich",
)

PROBE = """
import json, sys
from prismtop.cli import main
code = main({argv!r})
sys.stdout.flush()
print()
print(json.dumps([code, sorted(sys.modules)]))
"""


def modules_after(*argv: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(argv=list(argv))],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])[1]
    return set(loaded)


@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["--help"],
        ["config", "show"],
        ["list", "--json"],
        ["watch", "-n", "0"],
        ["diagnose", "x", "y"],
        ["anomaly", "list"],
    ],
)
def test_a_headless_command_imports_nothing_heavy(argv: list[str]) -> None:
    loaded = modules_after(*argv)
    assert not {name for name in HEAVY if name in loaded}


def test_the_modules_of_watch_and_record_import_nothing_heavy() -> None:
    program = (
        "import sys, json, prismtop.commands.watch, prismtop.commands.demo;"
        "import prismtop.sources.live, prismtop.session;"
        "import prismtop.commands.record, prismtop.trace.recorder, prismtop.commands.trace_files;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert not set(HEAVY) & set(json.loads(done.stdout))


def test_the_version_needs_neither_profiles_nor_settings() -> None:
    loaded = modules_after("--version")
    assert not {"prismtop.targets.profiles", "platformdirs", "tomllib"} & loaded
