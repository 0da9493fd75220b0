"""``python -m prismtop.demo.load``: drive the demo engine with requests and say what a client saw.

Open loop: requests go out when they are due, whether or not earlier ones have been answered. One thread
serves all connections through a selector and looks only for line ends, so that the load costs the machine
little.
"""

from __future__ import annotations

import argparse
import json
import math
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from urllib.parse import urlsplit

from prismtop.demo.workload import PATTERNS, Arrival, arrivals

MAX_IN_FLIGHT = 128
DRAIN_S = 15.0
_TICK_S = 0.1
_CONNECT_TIMEOUT_S = 5.0
_KEPT_SAMPLES = 65_536


@dataclass(frozen=True)
class LoadReport:
    """What a client saw.

    Latencies are milliseconds, over the last 65,536 samples; ``None`` when there were none. ``skipped``
    requests were due while 128 were in flight and were not sent; ``unfinished`` ones had no full answer
    when the run ended.
    """

    elapsed_s: float
    sent: int
    completed: int
    failed: int
    skipped: int
    unfinished: int
    prompt_tokens: int
    output_tokens: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    itl_p50_ms: float | None
    itl_p95_ms: float | None
    first_error: str | None

    def summary(self) -> str:
        """One line for a person."""
        parts = [
            f"{self.completed}/{self.sent} requests in {self.elapsed_s:.1f} s",
            f"TTFT p50 {_ms(self.ttft_p50_ms)} p95 {_ms(self.ttft_p95_ms)}",
            f"ITL p50 {_ms(self.itl_p50_ms)} p95 {_ms(self.itl_p95_ms)}",
            f"{self.prompt_tokens} prompt + {self.output_tokens} output tokens",
            f"failed {self.failed}, unfinished {self.unfinished}, skipped {self.skipped}",
        ]
        if self.first_error is not None:
            parts.append(f"first error: {self.first_error}")
        return " | ".join(parts)


@dataclass(eq=False)
class _Stream:
    """One request in flight."""

    connection: socket.socket
    arrival: Arrival
    sent_ns: int
    header: bytearray | None = field(default_factory=bytearray)
    tokens: int = 0
    last_token_ns: int = 0


@dataclass(eq=False)
class _Tally:
    """What has been seen so far."""

    sent: int = 0
    completed: int = 0
    failed: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT_SAMPLES))
    itl_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT_SAMPLES))
    first_error: str | None = None

    def fail(self, reason: str) -> None:
        self.failed += 1
        if self.first_error is None:
            self.first_error = reason


def run_load(
    url: str, *, rate: float, duration_s: float, seed: int, pattern: str, stop: threading.Event
) -> LoadReport:
    """Send requests to ``url`` (``http://host:port``) for ``duration_s`` seconds, ``math.inf`` for until
    ``stop`` is set.

    ``rate`` is the mean in requests per second, ``pattern`` one of ``PATTERNS`` (see
    :func:`prismtop.demo.workload.arrivals`). After the duration the requests in flight get up to 15 s to
    finish; after ``stop`` they are dropped within 0.1 s. Failed requests are counted, never raised. Raises
    ValueError for a bad argument.
    """
    address = _address(url)
    upcoming = arrivals(rate, seed, pattern)
    due = next(upcoming)
    tally = _Tally()
    start_ns = time.monotonic_ns()
    with selectors.DefaultSelector() as selector:
        while not stop.is_set():
            elapsed_s = (time.monotonic_ns() - start_ns) * 1e-9
            while due.at_s <= min(elapsed_s, duration_s):
                _send(selector, address, due, tally)
                due = next(upcoming)
            in_flight = bool(selector.get_map())
            if elapsed_s >= duration_s and (not in_flight or elapsed_s >= duration_s + DRAIN_S):
                break
            if due.at_s <= duration_s:
                _receive(selector, tally, min(_TICK_S, max(0.0, due.at_s - elapsed_s)))
            else:
                _receive(selector, tally, _TICK_S)
        unfinished = [key.data for key in selector.get_map().values()]
        for stream in unfinished:
            stream.connection.close()
    return LoadReport(
        elapsed_s=(time.monotonic_ns() - start_ns) * 1e-9,
        sent=tally.sent,
        completed=tally.completed,
        failed=tally.failed,
        skipped=tally.skipped,
        unfinished=len(unfinished),
        prompt_tokens=tally.prompt_tokens,
        output_tokens=tally.output_tokens,
        ttft_p50_ms=_percentile_ms(tally.ttft_ns, 0.50),
        ttft_p95_ms=_percentile_ms(tally.ttft_ns, 0.95),
        itl_p50_ms=_percentile_ms(tally.itl_ns, 0.50),
        itl_p95_ms=_percentile_ms(tally.itl_ns, 0.95),
        first_error=tally.first_error,
    )


def _send(
    selector: selectors.BaseSelector, address: tuple[str, int], arrival: Arrival, tally: _Tally
) -> None:
    if len(selector.get_map()) >= MAX_IN_FLIGHT:
        tally.skipped += 1
        return
    body = json.dumps({"prompt_len": arrival.prompt_tokens, "max_tokens": arrival.output_tokens}).encode()
    head = (
        f"POST /generate HTTP/1.0\r\nHost: {address[0]}:{address[1]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sent_ns = time.monotonic_ns()
    tally.sent += 1
    try:
        connection = socket.create_connection(address, timeout=_CONNECT_TIMEOUT_S)
    except OSError as error:
        tally.fail(f"cannot connect to {address[0]}:{address[1]}: {error}")
        return
    try:
        connection.sendall(head.encode() + body)
    except OSError as error:
        connection.close()
        tally.fail(f"cannot send: {error}")
        return
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, _Stream(connection, arrival, sent_ns))


def _receive(selector: selectors.BaseSelector, tally: _Tally, timeout_s: float) -> None:
    """Take in whatever arrives within ``timeout_s`` seconds."""
    for key, _ in selector.select(timeout_s):
        stream: _Stream = key.data
        try:
            data = stream.connection.recv(65_536)
        except BlockingIOError:
            continue
        except OSError as error:
            _finish(selector, stream, tally, str(error))
            continue
        if not data:
            _finish(selector, stream, tally, "the server closed the connection early")
        else:
            _take(selector, stream, data, tally)


def _take(selector: selectors.BaseSelector, stream: _Stream, data: bytes, tally: _Tally) -> None:
    if stream.header is not None:
        stream.header += data
        head, separator, rest = bytes(stream.header).partition(b"\r\n\r\n")
        if not separator:
            return
        stream.header = None
        status_line = head.split(b"\r\n", 1)[0].decode("latin-1")
        if status_line.split(" ")[1:2] != ["200"]:
            _finish(selector, stream, tally, f"the server answered {status_line!r}")
            return
        data = rest
    now_ns = time.monotonic_ns()
    for _ in range(data.count(b"\n")):
        if stream.tokens == 0:
            tally.ttft_ns.append(now_ns - stream.sent_ns)
        else:
            tally.itl_ns.append(now_ns - stream.last_token_ns)
        stream.tokens += 1
        stream.last_token_ns = now_ns
        tally.output_tokens += 1
    if stream.tokens >= stream.arrival.output_tokens:
        _finish(selector, stream, tally, None)


def _finish(selector: selectors.BaseSelector, stream: _Stream, tally: _Tally, error: str | None) -> None:
    selector.unregister(stream.connection)
    stream.connection.close()
    if error is None:
        tally.completed += 1
        tally.prompt_tokens += stream.arrival.prompt_tokens
    else:
        tally.fail(error)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8200, got {url!r}")
    return parts.hostname, parts.port or 80


def _percentile_ms(samples_ns: deque[int], share: float) -> float | None:
    """Nearest-rank percentile."""
    if not samples_ns:
        return None
    ordered = sorted(samples_ns)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1e-6


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 1 when a request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m prismtop.demo.load",
        description="Send generation requests to the demo engine and report what a client saw.",
        epilog="example: python -m prismtop.demo.load --url http://127.0.0.1:8200 --rate 3 --duration 60",
    )
    parser.add_argument("--url", required=True, help="the server, http://127.0.0.1:PORT")
    parser.add_argument("--rate", type=float, default=3.0, help="mean requests per second (default 3)")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds; 0 until stopped (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of arrivals and lengths (default 0)")
    parser.add_argument(
        "--pattern", choices=PATTERNS, default="mixed", help="how the rate moves (default mixed)"
    )
    args = parser.parse_args(argv)
    stop = threading.Event()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    try:
        report = run_load(
            args.url,
            rate=args.rate,
            duration_s=args.duration if args.duration > 0.0 else math.inf,
            seed=args.seed,
            pattern=args.pattern,
            stop=stop,
        )
    except ValueError as error:
        parser.error(str(error))
    print(report.summary(), flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
