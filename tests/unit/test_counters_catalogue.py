"""The one list of counters, and what is done with its names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import prismtop.counters
from prismtop.counters.catalogue import CATALOGUE, UNITS, labels_of, listing
from prismtop.counters.clock_limits import CLOCK_LIMITS, clock_limit_words

SOURCES = sorted(Path(prismtop.counters.__file__).parent.glob("*.py"))


def strings_of(path: Path) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_name_ends_in_a_unit_and_has_one_line_of_meaning() -> None:
    for spec in CATALOGUE.values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", spec.name)
        assert spec.unit in UNITS or spec.unit == "count"
        assert spec.meaning
        assert "\n" not in spec.meaning
        assert spec.period_s > 0
        assert spec.labels[0] == "device"


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("net_receive_bytes_per_s", "bytes_per_s"),
        ("host_context_switches_per_s", "per_s"),
        ("process_rss_bytes", "bytes"),
        ("gpu_xid_errors_total", "count"),
        ("gpu_clock_limits_bitmask", "bitmask"),
    ],
)
def test_the_unit_is_the_longest_ending(name: str, unit: str) -> None:
    assert CATALOGUE[name].unit == unit


def test_every_counter_of_the_list_is_read_by_some_reader() -> None:
    used = set().union(*(strings_of(path) for path in SOURCES if path.name != "catalogue.py"))
    built = {name for name in CATALOGUE if "pressure" in name}  # their names are put together
    assert set(CATALOGUE) - used - built == set()


def test_readers_use_no_name_that_is_not_in_the_list() -> None:
    pattern = re.compile(rf"(host|core|net|disk|process|thread|cgroup|rdma|gpu)_\w+_({'|'.join(UNITS)})")
    used = set().union(*(strings_of(path) for path in SOURCES))
    assert {name for name in used if pattern.fullmatch(name)} - set(CATALOGUE) == set()


def test_labels_are_taken_from_the_device() -> None:
    assert labels_of("gpu_busy_ratio", "gpu 0") == {"device": "gpu 0"}
    assert labels_of("gpu_process_busy_ratio", "gpu 0 pid 77") == {"device": "gpu 0 pid 77", "pid": "77"}
    thread = "pid 42 tid 43 name"
    assert labels_of("thread_cpu_ratio", thread) == {"device": thread, "pid": "42", "tid": "43"}
    assert labels_of("of_another_program", "x") == {"device": "x"}


def test_the_listing_has_a_row_for_every_counter() -> None:
    rows = list(listing())
    assert [row[0] for row in rows] == list(CATALOGUE)
    assert all(all(row) for row in rows)


def test_clock_limits_are_told_in_words() -> None:
    assert clock_limit_words(0) == "none"
    assert clock_limit_words(0x4 | 0x40) == "software power cap, hardware thermal slowdown"
    assert clock_limit_words(1 << 20) == "unknown reason 0x100000"
    for bit, word in CLOCK_LIMITS.items():
        assert clock_limit_words(bit) == word


def test_the_help_page_lists_every_counter_with_its_source_and_period() -> None:
    from prismtop.tui.look import ASCII
    from prismtop.tui.panels import help as help_page

    for width in (80, 200):
        shown = ["".join(text for text, _ in line) for line in help_page.lines(width, ASCII)]
        assert max(map(len, shown)) <= width
        page = " ".join(" ".join(shown).split())
        for name, _, source, period, _ in listing():
            assert f" {name} " in page
            assert f"({source}, {period})" in page
