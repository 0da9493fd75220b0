"""Workload shifts through the engine's own HTTP front: no faults, and not to be mistaken for one."""

from __future__ import annotations

from collections.abc import Iterator

from prismtop.anomaly.guard import Guard
from prismtop.anomaly.scenario import AVAILABLE, Availability, Request
from prismtop.errors import UnavailableError
from prismtop.targets.procfs import listening_ports

FLOOD_RATE = 12.0
LONG_RATE = 2.0
LONG_TOKENS = 480


def check(pid: int | None) -> Availability:
    """Whether the target listens."""
    if pid is not None and not listening_ports(pid):
        return Availability(
            False, "the process listens on no port", "Name its front with --url http://127.0.0.1:PORT."
        )
    return AVAILABLE


def endpoint(request: Request) -> str:
    """The URL asked for, else that of the target's first port."""
    if request.url:
        return request.url.rstrip("/")
    ports = listening_ports(request.pid)
    if not ports:
        raise UnavailableError(
            f"process {request.pid} listens on no port.",
            fix="Name its front with --url http://127.0.0.1:PORT.",
        )
    return f"http://127.0.0.1:{ports[0]}"


def flood_steps(request: Request) -> tuple[str, ...]:
    """More requests."""
    rate = FLOOD_RATE * request.intensity
    return (f"send {rate:.1f} requests a second of usual length to {_shown(request)}",)


def long_steps(request: Request) -> tuple[str, ...]:
    """Longer prompts."""
    length = round(LONG_TOKENS * request.intensity)
    return (
        f"send {LONG_RATE:.0f} requests a second with prompts of about {length} tokens to {_shown(request)}",
    )


def flood(request: Request, guard: Guard) -> Iterator[float]:
    """A flood of requests of usual length."""
    yield from _send(request, guard, FLOOD_RATE * request.intensity, 64, 40)


def long_prompts(request: Request, guard: Guard) -> Iterator[float]:
    """Few requests with long prompts."""
    yield from _send(request, guard, LONG_RATE, max(8, round(LONG_TOKENS * request.intensity)), 16)


def prepare(request: Request) -> None:
    """Load the HTTP client before the requests begin."""
    import prismtop.anomaly.faults.http_load  # noqa: F401


def _shown(request: Request) -> str:
    try:
        return endpoint(request)
    except UnavailableError:
        return "the target's port"


def _send(request: Request, guard: Guard, rate: float, prompt: int, output: int) -> Iterator[float]:
    from prismtop.anomaly.faults.http_load import Load, send

    load = Load(endpoint(request), rate, prompt, output, request.duration_s, request.seed, request.ramp_s)
    # A fork: starting Python afresh would disturb the engine more than the requests do.
    pid = guard.spawn(lambda: send(load))
    while True:
        status = guard.ended(pid)
        if status:
            raise UnavailableError(f"the requests could not be sent (status {status}).")
        yield 0.1
