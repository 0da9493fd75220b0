"""Experiments that run or were left behind: listing, stopping, undoing after a crash."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prismtop.anomaly.journal import Journal, all_journals, boot_id, read
from prismtop.anomaly.undo import undo_all
from prismtop.targets.procfs import read_stat

_PATIENCE_S = 8.0


@dataclass(frozen=True)
class Recovered:
    """What became of one journal.

    Attributes:
        experiment, scenario, pid: of its header; empty and 0 when nothing was begun.
        ok: everything is undone.
        undone, failed: in words.
    """

    path: Path
    experiment: str
    scenario: str
    pid: int
    ok: bool
    undone: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def running(directory: Path) -> list[Journal]:
    """Experiments whose watchdog lives."""
    return [journal for journal in all_journals(directory) if journal.running]


def recover(directory: Path) -> list[Recovered]:
    """Undo every experiment that has neither injector nor watchdog; those that run are left alone."""
    return [_recover(journal) for journal in all_journals(directory) if not journal.running]


def _recover(journal: Journal) -> Recovered:
    header = journal.header
    undone: list[str] = []
    failed: list[str] = []
    if header is not None:
        _end_injector(journal)
        undone, failed = undo_all(journal.acts, same_boot=header.boot in ("", boot_id()))
    if not failed:
        journal.path.unlink(missing_ok=True)
    return Recovered(
        journal.path,
        header.experiment if header else "",
        header.scenario if header else "",
        header.pid if header else 0,
        not failed,
        tuple(undone),
        tuple(failed),
    )


def stop(directory: Path, pid: int | None = None) -> list[Recovered]:
    """End running experiments (all, or that on one target), and wait until each is undone."""
    return [
        _stop(journal)
        for journal in running(directory)
        if journal.header is not None and pid in (None, journal.header.pid)
    ]


def _stop(journal: Journal) -> Recovered:
    header = journal.header
    assert header is not None
    _signal(journal, signal.SIGTERM)
    if not _wait(lambda: not journal.path.exists()):
        # It does not listen; the watchdog undoes when it dies.
        _signal(journal, signal.SIGKILL)
        _wait(lambda: not journal.path.exists())
    left = read(journal.path)
    if left is not None and not left.running:
        return _recover(left)
    return Recovered(
        journal.path,
        header.experiment,
        header.scenario,
        header.pid,
        left is None,
        ("stopped",) if left is None else (),
        () if left is None else ("its watchdog is still at it",),
    )


def _end_injector(journal: Journal) -> None:
    """An injector without its watchdog must not act any more."""
    header = journal.header
    if header is None or header.injector == os.getpid():
        return
    if _signal(journal, signal.SIGKILL):
        _wait(lambda: not _is(header.injector, header.injector_start))


def _signal(journal: Journal, number: signal.Signals) -> bool:
    header = journal.header
    if header is None or header.boot not in ("", boot_id()):
        return False
    try:
        fd = os.pidfd_open(header.injector)
    except OSError:
        return False
    try:
        if not _is(header.injector, header.injector_start):
            return False
        signal.pidfd_send_signal(fd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def _is(pid: int, start_time: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.start_time == start_time and not stat.dead


def _wait(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
