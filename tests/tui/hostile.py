"""Text that a process could put into its title or model name to harm a terminal or a reader."""

from __future__ import annotations

from dataclasses import replace

from prismtop.model import Group
from tests.tui.synthetic import group

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31mRED\x1b[0m\x1b[?1049l\x1bPq\x1b\\\x9b31m\r\n\x08\x00"
    "\u202egnp.exe\u202c\u2066\u200b\ufeff\u2028[bold red]markup[/] [@click=app.quit]x[/]"
)
FORBIDDEN = tuple("\x00\x07\x08\r\n\t\x1b\x7f\x85\x9b\u202e\u202c\u2066\u200b\ufeff\u2028")


def hostile_group() -> Group:
    """An engine whose every text is hostile."""
    made = group(HOSTILE, HOSTILE)
    members = tuple(
        replace(
            m,
            role=HOSTILE,
            way_in=HOSTILE,
            refusal=HOSTILE,
            user=HOSTILE,
            ranks=((HOSTILE, 0),),
            version=HOSTILE,
        )
        for m in made.members
    )
    return Group(HOSTILE, HOSTILE, members)
