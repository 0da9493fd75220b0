"""One GET from a server on the loopback address."""

from __future__ import annotations

import time
from typing import NamedTuple

HOST = "127.0.0.1"
MAX_BYTES = 8 * 1024 * 1024


class Unreadable(Exception):
    """Why one read gave nothing: half a sentence."""


class Answer(NamedTuple):
    """Status, body, and when it was made: CLOCK_MONOTONIC ns midway between question and first bytes."""

    status: int
    body: bytes
    time_ns: int


def get(port: int, path: str, timeout_s: float) -> Answer:
    """Ask the server at `port` for `path`.

    Not urllib.request: no proxy of the environment and no redirect can lead away from the loopback address.

    Args:
        timeout_s: for each wait.

    Raises:
        Unreadable: no answer, none of HTTP, or one of more than `MAX_BYTES`.
    """
    import http.client  # 15 ms, which a process without /metrics need not spend

    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.connect()
        asked_ns = time.monotonic_ns()
        connection.request("GET", path, headers={"Accept": "text/plain", "Connection": "close"})
        answer = connection.getresponse()
        at_ns = (asked_ns + time.monotonic_ns()) // 2
        body = answer.read(MAX_BYTES + 1)
    except ConnectionRefusedError:
        raise Unreadable("refuses the connection") from None
    except TimeoutError:
        raise Unreadable(f"did not answer within {timeout_s:g} s") from None
    except (http.client.HTTPException, ValueError) as error:
        raise Unreadable(f"does not answer as HTTP/1 does ({type(error).__name__})") from None
    except OSError as error:
        raise Unreadable(f"failed: {type(error).__name__}") from None
    finally:
        connection.close()
    if len(body) > MAX_BYTES:
        raise Unreadable(f"answers with more than {MAX_BYTES // 2**20} MiB")
    if answer.length:  # http.client says nothing of a body that ends before its length
        raise Unreadable("does not answer as HTTP/1 does (cut short)")
    return Answer(answer.status, body, at_ns)
