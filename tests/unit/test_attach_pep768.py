"""The words of the debug offsets that the PEP 768 way uses, against CPython's own header."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from prismtop.attach import pep768

ENGINES = Path(os.environ.get("ENGINES", Path.home() / ".cache/prismtop-engines"))


def header(minor: str) -> str:
    for root in (ENGINES / "pys/root/usr/include", Path("/usr/include"), Path("/usr/local/include")):
        path = root / f"python{minor}/internal/pycore_debug_offsets.h"
        if path.exists():
            return path.read_text()
    pytest.skip(f"the header of CPython {minor} is not installed")


def words(text: str) -> dict[str, int]:
    """Field name by struct -> index of its 8-byte word."""
    body = text[text.index("typedef struct _Py_DebugOffsets") : text.index("} _Py_DebugOffsets")]
    found, group, index = {}, "", 1  # word 0 is the cookie
    for line in body.splitlines():
        start, one = re.match(r"\s*struct (\w*)\s*\{", line), re.match(r"\s*uint64_t (\w+);", line)
        if start:
            group = start[1]
        if one:
            found[f"{group}.{one[1]}"] = index
            index += 1
    return found


@pytest.mark.parametrize("minor", ["3.14", "3.15"])
def test_the_layout_is_that_of_the_header(minor: str) -> None:
    found = words(header(minor))
    layout = pep768.LAYOUTS[(3, int(minor[2:]))]
    assert found["_runtime_state.finalizing"] == pep768._FINALIZING
    assert found["_runtime_state.interpreters_head"] == pep768._INTERPRETERS_HEAD
    assert found["_interpreter_state.size"] == pep768._INTERP_SIZE
    assert found["_interpreter_state.id"] == pep768._INTERP_ID
    assert found["_interpreter_state.next"] == pep768._INTERP_NEXT
    assert found["_interpreter_state.threads_main"] == pep768._THREADS_MAIN
    assert found["_thread_state.size"] == pep768._TSTATE_SIZE
    assert found["_thread_state.interp"] == pep768._TSTATE_INTERP
    assert found["_thread_state.native_thread_id"] == layout.native_thread_id
    fields = ("eval_breaker", "remote_debugger_support", "remote_debugging_enabled", "debugger_pending_call",
              "debugger_script_path", "debugger_script_path_size")  # fmt: skip
    for i, field in enumerate(fields):
        assert found[f"_debugger_support.{field}"] == layout.debugger_support + i


@pytest.mark.parametrize("minor", ["3.14", "3.15"])
def test_the_bits_of_the_eval_breaker_are_those_of_the_header(minor: str) -> None:
    for root in (ENGINES / "pys/root/usr/include", Path("/usr/include")):
        path = root / f"python{minor}/internal/pycore_ceval.h"
        if path.exists():
            break
    else:
        pytest.skip(f"the header of CPython {minor} is not installed")
    bits = dict(re.findall(r"#define (_PY_\w+_BIT) \(1U << (\d)\)", path.read_text()))
    assert 1 << int(bits["_PY_EVAL_PLEASE_STOP_BIT"]) == pep768._PLEASE_STOP
    harmless = ("_PY_SIGNALS_PENDING_BIT", "_PY_CALLS_TO_DO_BIT", "_PY_ASYNC_EXCEPTION_BIT")
    assert sum(1 << int(bits[name]) for name in harmless) == pep768._LOOK_AGAIN
