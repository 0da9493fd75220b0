"""The HTTP front: ``POST /generate`` streams one JSON line per token, ``GET /metrics``, ``GET /health``.

Handler threads only parse requests and wait for the client to go away; one output thread writes every stream,
as vLLM's output thread does, so that a step wakes one thread and not one per request.
"""

from __future__ import annotations

import itertools
import json
import queue
import random
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prismtop.demo.engine import EngineCore
from prismtop.demo.request import Request, RequestOutput

_MAX_BODY_BYTES = 1 << 20


class OutputRouter:
    """Sends each new token to the client that asked for it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[RequestOutput]] = queue.SimpleQueue()
        self._streams: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def put(self, outputs: list[RequestOutput]) -> None:
        """The engine's output sink: never blocks."""
        self._queue.put(outputs)

    def open(self, request_id: str, connection: socket.socket) -> None:
        """Route a request's tokens to a connected socket from now on."""
        with self._lock:
            self._streams[request_id] = connection

    def close(self, request_id: str) -> bool:
        """Stop routing; returns whether the stream was still unfinished."""
        with self._lock:
            return self._streams.pop(request_id, None) is not None

    def run(self) -> None:
        """Body of the output thread."""
        while True:
            for output in self._queue.get():
                self._send(output)

    def _send(self, output: RequestOutput) -> None:
        # The lock keeps the handler from closing the socket, and its number from being reused, in mid-write.
        with self._lock:
            connection = self._streams.get(output.request_id)
            if connection is None:
                return
            line = _token_line(output)
            try:
                # A whole response fits a socket buffer; a client that lets it fill up is not reading.
                delivered = connection.send(line, socket.MSG_DONTWAIT) == len(line)
            except OSError:
                delivered = False
            if output.finished:
                del self._streams[output.request_id]
            if output.finished or not delivered:
                # Wakes the handler, which is reading from the client.
                _shut_down(connection)


class FrontServer(ThreadingHTTPServer):
    """Listens on the loopback address; ``port`` 0 takes a free one."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, engine: EngineCore, router: OutputRouter, expose: Callable[[], bytes] | None
    ) -> None:
        self.engine = engine
        self.router = router
        self.expose = expose
        self.request_ids = itertools.count()
        self.rng = random.Random(engine.config.model.seed)
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse name lookup, which takes seconds without a resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def start_threads(self) -> None:
        """Start accepting, and writing tokens, on daemon threads."""
        threading.Thread(target=self.serve_forever, name="http-accept", daemon=True).start()
        threading.Thread(target=self.router.run, name="http-output", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go; only what is not their doing is worth a traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: FrontServer
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/health":
            self._reply(200, "text/plain", b"ok\n")
        elif self.path != "/metrics":
            self._refuse(404, "unknown path; there are /generate, /metrics and /health")
        elif self.server.expose is None:
            self._refuse(503, "no metrics: prometheus_client is not installed where this server runs")
        else:
            self._reply(200, "text/plain; version=0.0.4; charset=utf-8", self.server.expose())

    def do_POST(self) -> None:
        if self.path != "/generate":
            self._refuse(404, "unknown path; there are /generate, /metrics and /health")
            return
        arrival_ns = time.monotonic_ns()
        try:
            request = self._parse(self._read_body(), arrival_ns)
            self.server.engine.scheduler.check_request(request)
        except ValueError as error:
            self._refuse(400, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        self._stream(request)

    def _stream(self, request: Request) -> None:
        router, engine = self.server.router, self.server.engine
        router.open(request.request_id, self.connection)
        try:
            engine.add_request(request)
            # Ends when the client goes away, or when the output thread has shut a finished stream.
            while self.connection.recv(4096):
                pass
        except OSError:
            pass
        finally:
            if router.close(request.request_id):
                engine.abort_requests([request.request_id])

    def _read_body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= _MAX_BODY_BYTES:
            raise ValueError(f"a JSON body of 1 to {_MAX_BODY_BYTES} bytes with a Content-Length is needed")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise ValueError("the body must be a JSON object")
        return body

    def _parse(self, body: dict[str, Any], arrival_ns: int) -> Request:
        vocab_size = self.server.engine.config.model.vocab_size
        max_model_len = self.server.engine.config.model.max_model_len
        if "prompt_token_ids" in body:
            prompt = body["prompt_token_ids"]
            if not isinstance(prompt, list) or not all(
                type(t) is int and 0 <= t < vocab_size for t in prompt
            ):
                raise ValueError(f"prompt_token_ids must be a list of integers from 0 to {vocab_size - 1}")
        else:
            prompt_len = _integer(body, "prompt_len", None)
            if prompt_len > max_model_len:
                raise ValueError(f"prompt_len ({prompt_len}) is more than max_model_len ({max_model_len})")
            prompt = self.server.rng.choices(range(vocab_size), k=prompt_len)
        temperature = body.get("temperature", 0.0)
        if type(temperature) not in (int, float) or not 0.0 <= temperature <= 100.0:
            raise ValueError("temperature must be a number from 0 to 100")
        return Request(
            request_id=f"req-{next(self.server.request_ids)}",
            prompt_token_ids=prompt,
            max_tokens=_integer(body, "max_tokens", 16),
            arrival_time_ns=arrival_ns,
            temperature=float(temperature),
            seed=_integer(body, "seed", 0, least=0),
        )

    def _refuse(self, status: int, reason: str) -> None:
        self._reply(status, "application/json", json.dumps({"error": reason}).encode() + b"\n")

    def _reply(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: stderr is for trouble."""


def _integer(body: dict[str, Any], name: str, default: int | None, *, least: int = 1) -> int:
    value = body.get(name, default)
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}")
    return value


def _token_line(output: RequestOutput) -> bytes:
    fields: dict[str, Any] = {
        "request_id": output.request_id,
        "index": output.num_output_tokens - 1,
        "token_id": output.token_id,
    }
    if output.finished:
        fields["finish_reason"] = output.finish_reason
    return json.dumps(fields).encode() + b"\n"


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
