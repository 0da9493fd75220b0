"""`prismtop list`: the inference processes that were found, and the way into each."""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.commands.choose import describe, named_group, nothing_found, profiles_in_use, running_groups
from prismtop.commands.context import Context
from prismtop.errors import EXIT_OK, EXIT_UNAVAILABLE
from prismtop.export import jsonl
from prismtop.model import Group, Target
from prismtop.safe_text import safe_text

_HEADINGS = ("PID", "ENGINE", "ROLE", "RANK", "PYTHON", "PORTS", "USER", "WAY IN")


def run(context: Context, pids: Sequence[int]) -> int:
    """Print what runs; 3 when nothing does."""
    profiles = profiles_in_use()
    groups = (named_group(pids, profiles),) if pids else running_groups(context, profiles)
    if context.json:
        context.write(jsonl.document("list", {"groups": [_group_object(group) for group in groups]}))
        return EXIT_OK if groups else EXIT_UNAVAILABLE
    if not groups:
        raise nothing_found(profiles)
    rows: list[tuple[str, ...]] = [_HEADINGS]
    notes: list[str] = []
    for group in groups:
        for depth, member in _tree(group):
            rows.append(_row(member, depth))
            if member.probed and member.refusal:
                notes.append(f"{member.id.pid}: {safe_text(member.refusal)}")
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADINGS))]
    for row in rows:
        context.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for note in notes:
        context.write(note)
    return EXIT_OK


def _group_object(group: Group) -> dict[str, object]:
    made: dict[str, object] = {"engine": safe_text(group.engine), "name": describe(group)}
    if group.version is not None:
        made["version"] = safe_text(group.version)
    made["targets"] = [jsonl.target_object(member) for member in group.members]
    return made


def _tree(group: Group) -> list[tuple[int, Target]]:
    """Members with their depth below their topmost relative in the group, parents before children."""
    ids = {member.id for member in group.members}
    made: list[tuple[int, Target]] = []

    def add(member: Target, depth: int) -> None:
        made.append((depth, member))
        for child in group.members:
            if child.parent == member.id and child.id != member.id:
                add(child, depth + 1)

    for member in group.members:
        if member.parent not in ids:
            add(member, 0)
    return made


def _row(member: Target, depth: int) -> tuple[str, ...]:
    version = f" {safe_text(member.version, 20)}" if member.version and depth == 0 else ""
    python = "n/a" if member.python is None else ".".join(map(str, member.python))
    if member.free_threaded:
        python += "t"
    return (
        f"{'  ' * depth}{member.id.pid}",
        f"{safe_text(member.engine, 30)}{version}",
        safe_text(member.role, 20),
        " ".join(f"{safe_text(kind, 10)}{rank}" for kind, rank in member.ranks) or "-",
        python,
        ",".join(map(str, member.ports[:4])) or "-",
        safe_text(member.user, 16) or "n/a",
        member.way_in if member.probed else "not needed",
    )
