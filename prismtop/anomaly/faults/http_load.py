"""Requests to an engine's HTTP front, open loop: sent when they are due, answered or not.

Speaks to the demo engine (`/generate`) and to servers with OpenAI's `/v1/completions`. At most
64 requests are in flight; what is due beyond that is not sent.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_IN_FLIGHT = 64
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Load:
    """What to send: requests a second, mean lengths in tokens, for how many seconds."""

    url: str
    rate: float
    prompt: int
    output: int
    seconds: float
    seed: int
    ramp_s: float


def body_for(path: str, model: str, prompt: int, output: int) -> bytes:
    """One request's body in the words of the server."""
    if path == "/generate":
        return json.dumps({"prompt_len": prompt, "max_tokens": output}).encode()
    text = "word " * prompt
    return json.dumps({"model": model, "prompt": text, "max_tokens": output, "stream": True}).encode()


def dialect(host: str, port: int) -> tuple[str, str]:
    """Path and model name: OpenAI's when the server lists models, the demo engine's otherwise.

    Raises:
        OSError: nobody answers.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        content = answer.read(1 << 20)
        if answer.status == 200:
            return "/v1/completions", str(json.loads(content)["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    finally:
        connection.close()
    return "/generate", ""


def send(load: Load) -> int:
    """Send until the time is over; 1 when no request was answered."""
    parts = urlsplit(load.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    try:
        path, model = dialect(host, port)
    except OSError:
        return 1
    rng = random.Random(load.seed)
    room = threading.Semaphore(MAX_IN_FLIGHT)
    answered = threading.Event()

    def one(prompt_tokens: int, output_tokens: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, body_for(path, model, prompt_tokens, output_tokens), headers)
            answer = connection.getresponse()
            while answer.read(65536):
                pass
            if answer.status == 200:
                answered.set()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
            room.release()

    start = time.monotonic()
    while (now := time.monotonic() - start) < load.seconds:
        level = min(1.0, now / load.ramp_s) if load.ramp_s > 0 else 1.0
        if room.acquire(blocking=False):
            lengths = (
                max(1, round(load.prompt * rng.uniform(0.7, 1.3))),
                max(1, round(load.output * rng.uniform(0.5, 1.5))),
            )
            threading.Thread(target=one, args=lengths, daemon=True).start()
        time.sleep(min(rng.expovariate(max(0.1, load.rate * level)), max(0.0, load.seconds - now)))
    return 0 if answered.wait(_TIMEOUT_S) else 1
