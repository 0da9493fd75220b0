"""What the screen costs: CPU, memory, bytes to the terminal, start, key to paint. Prints; asserts nothing.

Usage: python tests/bench/bench_screen.py [--secs 30] [--brief]

The screen runs in a pseudo-terminal in a process of its own, over a synthetic source of 118 batches a second.
CPU is split by thread: the screen's (main, input, writer) and the collector's, which spends it on making the
synthetic frames 25 times a second. The other end of the terminal is read by this process, which answers the
synchronized-output query as xterm does.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import termios
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import psutil

ROOT = Path(__file__).resolve().parents[2]
BUDGET = {(120, 40, 2.0): (2.0, 6000), (80, 24, 1.0): (None, 1200)}


def serve(theme: str, ui_hz: float) -> int:
    """The measured process."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from tui.synthetic import SyntheticSession

    from prismtop.tui.app import run_app

    settings = SimpleNamespace(ui_hz=ui_hz, tick_hz=25.0, theme=theme, ascii=False, no_mouse=False)
    return run_app(SyntheticSession(), settings=settings)


class Screen:
    """The screen in a pseudo-terminal."""

    def __init__(self, columns: int, rows: int, theme: str, ui_hz: float) -> None:
        self.started = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", LC_ALL="C.UTF-8")
            os.environ.pop("NO_COLOR", None)
            time.sleep(0.1)
            os.execv(sys.executable, [sys.executable, __file__, "--serve", theme, "--hz", str(ui_hz)])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = psutil.Process(self.pid)

    def read(self, seconds: float) -> bytes:
        """What arrives within `seconds`."""
        end = time.monotonic() + seconds
        data = b""
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                break
            try:
                chunk = os.read(self.fd, 65536)
            except OSError:
                break
            if b"\x1b[?2026$p" in chunk:
                os.write(self.fd, b"\x1b[?2026;2$y")
            data += chunk
        return data

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds of the screen's threads, and of the collector's."""
        screen = collector = 0.0
        for thread in self.process.threads():
            name = Path(f"/proc/{self.pid}/task/{thread.id}/comm").read_text().strip()
            if name.startswith("asyncio") or thread.id == self._collector():
                collector += thread.user_time + thread.system_time
            else:
                screen += thread.user_time + thread.system_time
        return screen, collector

    def _collector(self) -> int:
        # Threads are not named for the kernel before Python 3.14: main, writer, input, then the worker.
        ids = sorted(thread.id for thread in self.process.threads())
        return ids[3] if len(ids) > 3 else 0

    def first_paint_s(self) -> float:
        """Seconds from the fork (0.1 s of waiting taken off) until the header's name is on the wire."""
        data = b""
        while b"prismtop" not in data and time.monotonic() - self.started < 20:
            data += self.read(0.01)
        return time.monotonic() - self.started - 0.1

    def key_ms(self, key: bytes) -> float:
        """From a key press to the first byte that answers it; the view is paused: nothing else is written."""
        while self.read(0.05):
            pass
        start = time.monotonic()
        os.write(self.fd, key)
        select.select([self.fd], [], [], 2)
        return (time.monotonic() - start) * 1000

    def end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self.read(2.0)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def measure(columns: int, rows: int, theme: str, ui_hz: float, secs: float) -> None:
    screen = Screen(columns, rows, theme, ui_hz)
    first = screen.first_paint_s()
    screen.read(4.0)
    cpu, start = screen.cpu_s(), time.monotonic()
    compressor, compressed, total = zlib.compressobj(6), 0, 0
    while time.monotonic() - start < secs:
        data = screen.read(0.2)
        total += len(data)
        compressed += len(compressor.compress(data)) + len(compressor.flush(zlib.Z_SYNC_FLUSH))
    took = time.monotonic() - start
    share, source = (100 * (now - before) / took for now, before in zip(screen.cpu_s(), cpu, strict=True))
    memory = screen.process.memory_info().rss / 2**20
    os.write(screen.fd, b" ")
    keys = [screen.key_ms(key) for key in [b"\x1b[B", b"\x1b[A"] * 10]
    screen.end()
    cpu_limit, byte_limit = BUDGET.get((columns, rows, ui_hz), (None, None))
    print(
        f"{columns}x{rows} {ui_hz:g} Hz {theme:<10} cpu {share:4.1f} %{_of(cpu_limit)} "
        f"+ source {source:.1f} %  "
        f"{total / took:6.0f} B/s{_of(byte_limit)}  zlib {compressed / took:5.0f} B/s  rss {memory:4.0f} MB  "
        f"first paint {first:.2f} s  "
        f"key p50/p95 {statistics.median(keys):.0f}/{sorted(keys)[-2]:.0f} ms",
        flush=True,
    )


def _of(limit: float | None) -> str:
    return "" if limit is None else f" (<= {limit:g})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=float, default=30.0)
    parser.add_argument("--brief", action="store_true", help="the two sizes that have a budget only")
    parser.add_argument("--serve", metavar="THEME")
    parser.add_argument("--hz", type=float, default=2.0)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.hz)
    for columns, rows, theme, hz in (
        (120, 40, "prismtop", 2.0),
        (80, 24, "prismtop", 1.0),
        (80, 24, "ansi-16", 1.0),
        (200, 60, "prismtop", 2.0),
    )[: 2 if options.brief else None]:
        measure(columns, rows, theme, hz, options.secs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
