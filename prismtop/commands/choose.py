"""Which engine a command works on: the one that is running, or the one that `--pid` names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prismtop.commands.context import Context
from prismtop.errors import UnavailableError, UsageError
from prismtop.model import Group
from prismtop.safe_text import safe_text
from prismtop.settings import config_dir

if TYPE_CHECKING:
    from prismtop.targets.profiles import Profile

Profiles = Mapping[str, "Profile"]


def profiles_in_use() -> Profiles:
    """The profiles of the package, with those of the user's config directory over them."""
    from prismtop.targets.profiles import load_profiles

    return load_profiles(config_dir() / "engines")


def running_groups(context: Context, profiles: Profiles) -> tuple[Group, ...]:
    """Every engine instance on this machine, as far as procfs shows it."""
    from prismtop.targets.discovery import discover

    with context.report.status("looking for inference processes"):
        return discover(profiles)


def named_group(pids: Sequence[int], profiles: Profiles) -> Group:
    """The one group that contains all of `pids`.

    Raises:
        UsageError: a pid is no process, or the pids belong to different engines or releases.
        UnavailableError: a pid is a kernel thread.
    """
    from prismtop.targets.discovery import group_of

    first, *others = (group_of(pid, profiles) for pid in dict.fromkeys(pids))
    members = {member.id: member for member in first.members}
    for pid, other in zip(list(dict.fromkeys(pids))[1:], others, strict=True):
        if (other.engine, other.version) != (first.engine, first.version):
            raise UsageError(
                f"process {pid} runs {describe(other)}, process {pids[0]} {describe(first)}: "
                "one prismtop watches one engine.",
                fix="Start a second prismtop for the other one.",
            )
        members.update({member.id: member for member in other.members})
    return Group(first.engine, first.version, tuple(members.values()))


def only_group(context: Context, pids: Sequence[int], profiles: Profiles) -> Group:
    """The group that `pids` name, or the only one that runs.

    Raises:
        UsageError: several run; the sentence lists them.
        UnavailableError: none runs; the sentence says what was looked for.
    """
    if pids:
        return named_group(pids, profiles)
    groups = running_groups(context, profiles)
    if not groups:
        raise nothing_found(profiles)
    if len(groups) > 1:
        raise several_found(groups)
    return groups[0]


def nothing_found(profiles: Profiles) -> UnavailableError:
    """No engine runs here, as far as can be seen."""
    titles = sorted({safe_text(p.title, 40) for p in profiles.values() if p.name != "demo"}, key=str.lower)
    return UnavailableError(
        f"no inference process found: looked at {_process_count()} processes for {', '.join(titles)}.",
        fix="Try `prismtop demo` for an engine to look at, `--pid N` for a process that you know, "
        "or `prismtop doctor`.",
    )


def several_found(groups: Sequence[Group]) -> UsageError:
    """More than one engine runs, and nobody can be asked which one is meant."""
    listed = ", ".join(f"{anchor_pid(group)} ({describe(group)})" for group in groups)
    return UsageError(
        f"{len(groups)} engines are running: {listed}.", fix=f"Choose one: `--pid {anchor_pid(groups[0])}`."
    )


def anchor_pid(group: Group) -> int:
    """A pid that names the group: of its first probed member, or of its first."""
    return (group.probed or group.members)[0].id.pid


def describe(group: Group) -> str:
    """Engine, version and model for a sentence, safe to print."""
    models = dict.fromkeys(member.model for member in group.members if member.model)
    words = [group.engine, group.version or "", *models]
    return " ".join(safe_text(word, 60) for word in words if word)


def _process_count() -> int:
    try:
        return sum(name.isdigit() for name in os.listdir("/proc"))
    except OSError:
        return 0
