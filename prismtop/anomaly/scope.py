"""Who may be a target, and what must be agreed to first. Everything here is checked before the first act."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prismtop.anomaly.faults import burners
from prismtop.anomaly.scenario import MAX_DURATION_S, Request, Scenario
from prismtop.errors import PermissionDeniedError, UsageError
from prismtop.model import ProcessId
from prismtop.settings import PRODUCTION_VARIABLE
from prismtop.targets.procfs import read_environ, read_stat, read_status, user_name

MARKER_FILES = ("/etc/prismtop/production",)
MARKER_VARIABLE = PRODUCTION_VARIABLE
_STAGE_VARIABLES = ("ENVIRONMENT", "APP_ENV", "DEPLOY_ENV", "DEPLOYMENT_ENVIRONMENT", "STAGE", "ENV")
_PRODUCTION = ("prod", "production")
_OFF = ("", "0", "false", "no", "off")


def identify(pid: int) -> ProcessId:
    """The target's identity.

    Raises:
        UsageError: it is no process that can be a target: init, prismtop itself or an ancestor, a kernel
            thread, a zombie, stopped or traced by somebody.
    """
    stat = read_stat(pid)
    if stat is None:
        raise UsageError(f"there is no process {pid}.", fix="`prismtop list` shows what runs.")
    if pid == 1:
        raise UsageError("process 1 is init: it is never a target.")
    if pid in ancestors(os.getpid()):
        raise UsageError(f"process {pid} is prismtop itself or one of its ancestors.")
    if stat.kernel_thread:
        raise UsageError(f"process {pid} is a kernel thread.")
    if stat.dead:
        raise UsageError(f"process {pid} has ended.")
    if stat.state in "Tt":
        raise UsageError(
            f"process {pid} is stopped or traced by somebody: the rollback would wake it.",
            fix="Let it run first.",
        )
    return ProcessId(pid, stat.start_time)


def ancestors(pid: int) -> set[int]:
    """A process and everything above it."""
    found = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = read_stat(pid)
        pid = stat.ppid if stat else 0
    return found


def check_owner(pid: int, other_user: bool) -> None:
    """Refuse another user's process, root's right to it or not, unless that is agreed to.

    Raises:
        PermissionDeniedError: it is another user's.
    """
    status = read_status(pid)
    if status is not None and status.uid != os.getuid() and not other_user:
        owner = user_name(status.uid) or str(status.uid)
        raise PermissionDeniedError(
            f"process {pid} belongs to {owner}, not to you.",
            fix=f"Run it as {owner}, or add --other-user if {owner} agrees.",
        )


def production_marker(
    pid: int, env: Mapping[str, str] = os.environ, files: tuple[str, ...] = MARKER_FILES
) -> str:
    """What says that users are served here, in words; empty when nothing does."""
    for file in files:
        if Path(file).exists():
            return f"{file} exists"
    if env.get(MARKER_VARIABLE, "").lower() not in _OFF:
        return f"{MARKER_VARIABLE} is set"
    if (read_environ(pid, MARKER_VARIABLE) or "").lower() not in _OFF:
        return f"{MARKER_VARIABLE} is set in process {pid}"
    for name in _STAGE_VARIABLES:
        if (read_environ(pid, name) or "").lower() in _PRODUCTION:
            return f"{name} says production in process {pid}"
    return ""


def check_production(pid: int, agreed: bool) -> None:
    """Refuse a production machine or process. Raises UsageError."""
    marker = "" if agreed else production_marker(pid)
    if marker:
        raise UsageError(
            f"this is production: {marker}.", fix="Add --i-know-this-is-production if that is really meant."
        )


def beyond_target(scenario: Scenario, request: Request) -> str:
    """What else on this machine would suffer, in words; empty when nothing does."""
    if scenario.scope == "host":
        return "every process of this machine"
    if scenario.scope == "cpus" and burners.covers_host(request):
        return "every process of this machine (the target may run on all of its CPUs)"
    return ""


def check_scope(scenario: Scenario, request: Request) -> None:
    """Refuse what reaches beyond the target without agreement, and lengths out of range.

    Raises:
        UsageError: with the flag or the number that is missing.
    """
    if not 0 < request.duration_s <= MAX_DURATION_S:
        raise UsageError(
            f"the duration must be above 0 and at most {MAX_DURATION_S:.0f} s.",
            fix="Shorten --duration.",
        )
    if not 0 <= request.intensity <= 1:
        raise UsageError("the intensity must be from 0 to 1.")
    if not 0 <= request.ramp_s <= request.duration_s:
        raise UsageError("the ramp must be from 0 to the duration.")
    if scenario.in_target and not request.in_target:
        raise UsageError(
            f"{scenario.id} runs code of prismtop in process {request.pid}.",
            fix="Add --in-target if that is agreed.",
        )
    others = beyond_target(scenario, request)
    if others and not request.host_wide:
        raise UsageError(
            f"{scenario.id} would slow down {others}.",
            fix="Name CPUs with --cpus, or add --host-wide if that is agreed."
            if scenario.scope == "cpus"
            else "Add --host-wide if that is agreed.",
        )
