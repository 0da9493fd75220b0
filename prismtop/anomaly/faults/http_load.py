"""``python -m prismtop.anomaly.faults.http_load URL RATE PROMPT OUTPUT SECONDS SEED RAMP``: requests.

Open loop. Speaks to the demo engine (`/generate`) and to servers with OpenAI's `/v1/completions`. At most
64 requests are in flight; what is due beyond that is not sent.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

MAX_IN_FLIGHT = 64
_TIMEOUT_S = 30.0


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


def main(argv: Sequence[str]) -> int:
    """Send until the time is over; 1 when no request was answered."""
    parts = urlsplit(argv[0])
    rate, prompt, output, seconds, seed, ramp = map(float, argv[1:7])
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    try:
        path, model = dialect(host, port)
    except OSError:
        return 1
    rng = random.Random(int(seed))
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
    while (now := time.monotonic() - start) < seconds:
        level = min(1.0, now / ramp) if ramp > 0 else 1.0
        if room.acquire(blocking=False):
            lengths = (
                max(1, round(prompt * rng.uniform(0.7, 1.3))),
                max(1, round(output * rng.uniform(0.5, 1.5))),
            )
            threading.Thread(target=one, args=lengths, daemon=True).start()
        time.sleep(min(rng.expovariate(max(0.1, rate * level)), max(0.0, seconds - now)))
    return 0 if answered.wait(_TIMEOUT_S) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
