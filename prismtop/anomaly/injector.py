"""Runs one experiment: journal, act, wait, undo. Also a program that runs them one after the other.

``python -m prismtop.anomaly.injector`` takes one JSON order a line and answers with JSON lines. A campaign
uses it: everything that costs time (starting Python, compiling) happened before the first fault.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from prismtop.anomaly.catalogue import scenario as scenario_named
from prismtop.anomaly.guard import Guard, Rollback
from prismtop.anomaly.journal import journal_dir, make_header
from prismtop.anomaly.recovery import recover
from prismtop.anomaly.scenario import PREPARE_S, START_S, TTL_GRACE_S, Request, Scenario
from prismtop.anomaly.undo import MARK, alive
from prismtop.errors import PermissionDeniedError, PrismtopError, UnavailableError
from prismtop.targets.procfs import read_stat

_SLICE_S = 0.1
_STARTING_S = 0.05
_SERVER_TTL_S = 6 * 3600.0


@dataclass(frozen=True)
class Outcome:
    """What an experiment did.

    Attributes:
        start_ns, end_ns: from when the fault took effect to the end of the undoing; CLOCK_MONOTONIC.
        planned_end_ns: when it was to end.
        rollback: how the undoing went.
        ended_by: `duration`, `target` (it ended first), `stop`.
        recovered: experiments of an earlier crash that were undone first.
    """

    start_ns: int
    end_ns: int
    planned_end_ns: int
    rollback: Rollback
    ended_by: str
    recovered: int = 0


def experiment_name() -> str:
    """A name for an experiment, safe in paths."""
    return f"{os.getpid():x}-{time.monotonic_ns():x}"


def run(
    scenario: Scenario,
    request: Request,
    *,
    directory: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    acting: Callable[[int], None] = lambda _: None,
    started: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Run one experiment to its end; whatever happens, it is undone.

    Args:
        scenario: what; availability and scope were checked by the caller.
        request: how; `experiment` and an empty `work_dir` are filled in here.
        directory: of the journals.
        stop: asked ten times a second; True ends the experiment. It may raise.
        acting: called with CLOCK_MONOTONIC before the first act.
        started: called with CLOCK_MONOTONIC when the fault has taken effect.

    Raises:
        PrismtopError: it could not be done; everything is undone then.
    """
    where = directory or journal_dir()
    recovered = recover(where)
    name = experiment_name()
    guard = Guard(
        make_header(name, scenario.id, request.pid, request.start_time),
        PREPARE_S,
        where,
        scenario.exclusive(request),
    )
    rollback: Rollback | None = None
    try:
        order = replace(request, experiment=name)
        if not order.work_dir:
            order = replace(order, work_dir=str(make_work_dir(guard, name)))
        scenario.prepare(order)
        guard.arm(START_S + request.duration_s + TTL_GRACE_S)
        acting(time.monotonic_ns())
        begun_ns, ended_by = _drive(scenario.inject(order, guard), order, guard, started, stop)
    except PermissionError as error:
        raise PermissionDeniedError(f"the kernel refused: {error}.", fix="Run it as root.") from error
    except OSError as error:
        raise UnavailableError(f"{scenario.id} could not go on: {error}.") from error
    finally:
        rollback = guard.close()
    end_ns = time.monotonic_ns()
    start_ns = end_ns if begun_ns is None else begun_ns
    planned = start_ns + round(request.duration_s * 1e9)
    return Outcome(start_ns, end_ns, planned, rollback, ended_by, len(recovered))


def make_work_dir(guard: Guard, name: str) -> Path:
    """A private directory that the rollback removes."""
    path = Path(tempfile.gettempdir()) / f"{MARK}{name}"
    guard.record("directory", path=str(path))
    path.mkdir(mode=0o700)
    return path


def _drive(
    turns: Iterator[float | None],
    order: Request,
    guard: Guard,
    started: Callable[[int], None],
    stop: Callable[[], bool],
) -> tuple[int | None, str]:
    """Resume the fault whenever it wants to be, until the time is over. Says when it took effect, if it did,
    and why it ended.
    """
    start_ns = None
    end = time.monotonic() + START_S
    try:
        for pause in turns:
            if start_ns is None and pause is not None:
                start_ns = time.monotonic_ns()
                guard.arm(order.duration_s + TTL_GRACE_S)
                started(start_ns)
                end = start_ns * 1e-9 + order.duration_s
            wake = min(end, time.monotonic() + (_STARTING_S if pause is None else pause))
            while (left := wake - time.monotonic()) > 0:
                time.sleep(min(left, _SLICE_S))
                if stop():
                    return start_ns, "stop"
                if wake - time.monotonic() > _SLICE_S:
                    guard.check()
            if not alive(order.pid, order.start_time):
                return start_ns, "target"
            if time.monotonic() >= end:
                if start_ns is None:
                    raise UnavailableError(f"it had not taken effect after {START_S:g} s.")
                return start_ns, "duration"
            if stop():
                return start_ns, "stop"
        return start_ns, "target"
    finally:
        close = getattr(turns, "close", None)
        if close is not None:
            close()


def serve() -> int:
    """Body of the program: orders on stdin, answers on stdout, until stdin ends or SIGTERM comes."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    directory = journal_dir()
    with _served(directory) as work_dir:
        _say({"event": "ready", "work_dir": work_dir})
        for line in _lines(lambda: bool(asked)):
            try:
                fields = json.loads(line)
                scenario = scenario_named(fields.pop("scenario"))
                fields["cpus"] = tuple(fields.get("cpus", ()))
                order = Request(**{**fields, "work_dir": work_dir})
                if fields.get("duration_s") == 0:
                    scenario.prepare(order)
                    _say({"event": "prepared"})
                    continue
                made = run(
                    scenario,
                    order,
                    directory=directory,
                    stop=lambda: bool(asked),
                    acting=lambda at: _say({"event": "acting", "at_ns": at}),
                    started=lambda at: _say({"event": "started", "start_ns": at}),
                )
            except PrismtopError as error:
                _say({"event": "failed", "reason": str(error)})
                continue
            _say(
                {
                    "event": "ended",
                    "start_ns": made.start_ns,
                    "end_ns": made.end_ns,
                    "planned_end_ns": made.planned_end_ns,
                    "ended_by": made.ended_by,
                    "rollback_ok": made.rollback.ok,
                    "failed": list(made.rollback.failed),
                }
            )
    return 0


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    """A work directory for all orders, removed also when this program is killed."""
    me = os.getpid()
    stat = read_stat(me)
    header = make_header(experiment_name(), "campaign", me, stat.start_time if stat else 0)
    guard = Guard(header, _SERVER_TTL_S, directory)
    try:
        yield str(make_work_dir(guard, header.experiment))
    finally:
        guard.close()


def _lines(over: Callable[[], bool]) -> Iterator[str]:
    waiting = b""
    while not over():
        if not select.select([0], [], [], _SLICE_S)[0]:
            continue
        got = os.read(0, 65536)
        if not got:
            return
        *lines, waiting = (waiting + got).split(b"\n")
        yield from (line.decode() for line in lines)


def _say(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(serve())
