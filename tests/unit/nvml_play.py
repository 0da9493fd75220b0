"""Compiles the stub of NVML and plays a scene with it, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_BEGIN = """
import os, sys, time
from tests.unit.nvml_scene import *
scene = Scene({library!r}, {control!r})
c = scene.c
"""


def compiled(where: Path, *flags: str) -> Path:
    """The stub as a shared library; skips without a C compiler."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler: the stub of libnvidia-ml.so.1 cannot be built")
    library = where / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libnvidia-ml.so.1", *flags]
    subprocess.run([*command, "-o", str(library), str(HERE / "nvml_stub.c")], check=True)
    return library


def play(library: Path, tmp_path: Path, text: str, **env: str) -> Any:
    """Run the scene's text; what it `tell`s."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    control = tmp_path / "control"
    control.touch()
    program = _BEGIN.format(library=str(library), control=str(control)) + textwrap.dedent(text)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
