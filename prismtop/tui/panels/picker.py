"""The list of engines found, when there are several."""

from __future__ import annotations

from collections.abc import Sequence

from prismtop.model import Group
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, cut, fit, selected
from prismtop.tui.numbers import NA
from prismtop.tui.panels.header import model_name, parallelism, processes


def rows(groups: Sequence[Group], cursor: int, width: int, glyphs: Glyphs) -> list[Line]:
    """Heading and one row per group, then what is known about the selected one."""
    wide = max(16, 24 + (width - 80) // 2)
    title = f"   {'engine':<18} {fit('processes', wide)} {'port':<5} {'way in':<8} model"
    made: list[Line] = [
        ((" prismtop ", "title"), (f" {len(groups)} engines are running here: which one?", "strong")),
        (),
        ((title[:width].ljust(width), "column"),),
    ]
    for index, group in enumerate(groups):
        pointer = glyphs.pointer if index == cursor else " "
        number = str(index + 1) if index < 9 else " "
        engine = f"{safe_text(group.engine, 24)} {safe_text(group.version or NA, 24)}"
        ports = str(group.ports[0]) if group.ports else "-"
        ways = ",".join(dict.fromkeys(safe_text(member.way_in, 12) for member in group.probed)) or "-"
        shards = f"{processes(group)} {parallelism(group)}".strip()
        text = (
            f"{pointer}{number} {fit(cut(engine, 18), 18)} {fit(cut(shards, wide), wide)} "
            f"{fit(cut(ports, 5), 5)} {fit(cut(ways, 8), 8)} {model_name(group) or NA}"
        )
        line: Line = ((fit(cut(text, width), width), "base"),)
        made.append(selected(line) if index == cursor else line)
    return made


def notes(group: Group, width: int) -> list[Line]:
    """The processes of the selected group, and why the best way in cannot be taken, if so."""
    made: list[Line] = [(), ((" selected".ljust(width), "column"),)]
    for member in group.members:
        text = f" {member.id.pid:>7} {safe_text(member.role, 16):<16} {safe_text(member.title)}"
        made.append(((cut(text, width), "base"),))
        if member.refusal:
            made.append(((cut(f"         {safe_text(member.refusal)}", width), "warn"),))
    return made
