"""Options and paths shared by all tests."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for `tests.factories`, when pytest is not started as `python -m pytest`


# What a session learns is kept: not among what the person who runs the tests has kept.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="prismtop-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# Machines are small and busy: no example fails for its time.
settings.register_profile("prismtop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("prismtop")

MINOR = re.compile(r"\[(?:[^\]]*-)?(3\.\d+)(?=[-\].])")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--slow` runs the soak tests too, `--pythons all` every test on every CPython that is installed."""
    parser.addoption("--slow", action="store_true", default=False, help="run the soak tests too")
    parser.addoption("--engines", default="hf,vllm,sgl", help="real servers to test with, when installed")
    parser.addoption(
        "--pythons",
        choices=("some", "all"),
        default="some",
        help="targets of the integration tests: one CPython per test, or all",
    )


def without_engines(items: list[pytest.Item], kinds: str) -> list[pytest.Item]:
    """Leave out the tests of real servers that are not named in `kinds`."""
    wanted = kinds.split(",")

    def named(item: pytest.Item) -> bool:
        kind = re.search(r"\[(hf|vllm|sgl)\b", item.nodeid)
        return kind is None or item.get_closest_marker("real_engine") is None or kind.group(1) in wanted

    return [item for item in items if named(item)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave soak tests out without `--slow`, and most CPythons without `--pythons all`."""
    items[:] = without_engines(items, config.getoption("--engines"))
    if config.getoption("--pythons") == "some":
        kept = some_pythons(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="a soak test: run with --slow")
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(skip)


def some_pythons(items: list[pytest.Item]) -> set[pytest.Item]:
    """For each test and each of its other parameters one CPython of those that are installed. Which one
    depends on the test's name, so that every CPython is met by many tests.
    """
    from tests.integration.targets.harness import MINORS, find_python

    installed = {minor for minor in MINORS if find_python(minor)}
    kept: set[pytest.Item] = set()
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        found = MINOR.search(item.nodeid)
        if found is None:
            kept.add(item)
            continue
        minor = found.group(1)
        rest = item.nodeid.replace(minor, "3.x", 1)
        if minor in installed:
            groups.setdefault(rest, []).append(item)
        elif not installed:
            kept.add(item)
    for rest, several in groups.items():
        kept.add(several[zlib.crc32(rest.encode()) % len(several)])
    return kept
