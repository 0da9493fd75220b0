"""`prismtop doctor`: what works here, what does not, and the exact fix."""

from __future__ import annotations

import locale
import os
import shutil
from collections.abc import Iterator, Sequence

from prismtop.commands.choose import Profiles, named_group, running_groups
from prismtop.commands.context import Context
from prismtop.counters.capabilities import Seen, capability_checks, counter_rows, look
from prismtop.deepdive.layers.checks import layer_checks
from prismtop.errors import EXIT_FINDING, EXIT_OK, PrismtopError
from prismtop.export import jsonl
from prismtop.model import Group
from prismtop.safe_text import safe_text
from prismtop.settings import config_dir, config_path, load_settings, unknown_variables
from prismtop.targets import doctor
from prismtop.targets.doctor import NONE, OK, PARTIAL, Check
from prismtop.targets.profiles import load_profiles


def run(context: Context, pids: Sequence[int]) -> int:
    """Print every check. Returns 1 when something that attaching needs does not work."""
    checks: list[Check] = []
    seen: list[Seen] = []
    with context.report.status("checking"):
        for check in _checks(context, pids, seen):
            context.report.update(f"checking: {check.id}")
            checks.append(check)
    failed = [check for check in checks if check.essential and check.status == NONE]
    if context.json:
        content: dict[str, object] = {"ok": not failed, "checks": [_object(check) for check in checks]}
        content["counters"] = list(counter_rows(seen[0]))
        context.write(jsonl.document("doctor", content))
        return EXIT_FINDING if failed else EXIT_OK
    width = max(len(check.id) for check in checks)
    for check in checks:
        context.write(f"{check.status:<8}{check.id:<{width}}  {check.reason}")
        if check.fix and check.status != OK:
            context.write(f"{'':<8}{'':<{width}}  -> {check.fix}")
    counts = [sum(check.status == status for check in checks) for status in (OK, PARTIAL, NONE)]
    verdict = "attaching works here"
    if any(not check.id.startswith("target.") for check in failed):
        verdict = "not everything that attaching needs works here"
    elif failed:
        verdict = "attaching works here, but not to every target"
    context.write(f"{verdict}: {counts[0]} ok, {counts[1]} partial, {counts[2]} none")
    return EXIT_FINDING if failed else EXIT_OK


def _checks(context: Context, pids: Sequence[int], seen: list[Seen]) -> Iterator[Check]:
    """All checks; what could be read of the counters is put into `seen`."""
    yield from doctor.machine_checks()
    yield _terminal(context)
    yield _config()
    yield from doctor.profile_checks(config_dir() / "engines")
    groups: list[Group] = []
    yield from _targets(context, pids, groups)
    seen.append(look(groups[0] if groups else None))
    yield from capability_checks(seen[0])
    yield from layer_checks()


def _targets(context: Context, pids: Sequence[int], groups: list[Group]) -> Iterator[Check]:
    """Checks of the targets; the groups that were found are put into `groups`."""
    profiles = _profiles_that_load()
    for pid in pids:
        try:
            groups.append(named_group([pid], profiles))
        except PrismtopError as error:
            yield Check(f"target.{pid}", NONE, error.message, error.fix, essential=True)
    if not pids:
        groups.extend(running_groups(context, profiles))
    if groups or not pids:
        yield from doctor.target_checks(groups, profiles)


def _profiles_that_load() -> Profiles:
    """All profiles; without the user's when one of those is broken, which another check reports."""
    try:
        return load_profiles(config_dir() / "engines")
    except PrismtopError:
        return load_profiles(None)


def _terminal(context: Context) -> Check:
    size = shutil.get_terminal_size()
    encoding = locale.getpreferredencoding(False)
    term = safe_text(os.environ.get("TERM", ""), 40) or "no TERM"
    if not context.interactive:
        reason = f"{term}, not a terminal: no screen, `watch` works"
        return Check("terminal", PARTIAL, reason, "Run it in a terminal.")
    colours = "no colours (NO_COLOR)" if os.environ.get("NO_COLOR") else _colours()
    found = f"{term}, {size.columns}x{size.lines}, {colours}, {safe_text(encoding, 20)}"
    if size.columns < 80 or size.lines < 24:
        return Check("terminal", PARTIAL, f"{found}: smaller than 80x24", "Make the window larger.")
    if encoding.upper().replace("-", "") != "UTF8":
        return Check("terminal", PARTIAL, f"{found}: no block characters", "Use a UTF-8 locale, or --ascii.")
    return Check("terminal", OK, found)


def _colours() -> str:
    if os.environ.get("COLORTERM", "") in ("truecolor", "24bit"):
        return "16 million colours"
    return "256 colours" if "256" in os.environ.get("TERM", "") else "16 colours"


def _config() -> Check:
    file = config_path()
    try:
        settings = load_settings({})
    except PrismtopError as error:
        return Check("config", NONE, error.message, error.fix, essential=True)
    unknown = unknown_variables()
    if unknown:
        reason = f"environment variables that name no setting: {safe_text(', '.join(unknown), 200)}"
        return Check(
            "config", PARTIAL, reason, "Correct or unset them; `prismtop config show` lists the settings."
        )
    changed = sum(not origin.startswith("default") for origin in settings.origins.values())
    state = "" if file.exists() else " (absent)"
    return Check("config", OK, f"{safe_text(str(file))}{state}, {changed} settings changed")


def _object(check: Check) -> dict[str, object]:
    made: dict[str, object] = {"id": check.id, "status": check.status, "reason": check.reason}
    if check.fix and check.status != OK:
        made["fix"] = check.fix
    made["essential"] = check.essential
    return made
