"""Joins the source files of what runs in the target into the one text that travels there.

In the target there is no package to import from: the parts share one namespace, and what each of them imports
from the others is left out. So no two of them may give a name two meanings.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

PARTS = {
    "agent": (
        "layout",
        "ring",
        "lookup",
        "drive",
        "loop",
        "on_demand",
        "hook",
        "monitoring",
        "calibration",
        "boundary",
        "agent",
    ),
    "deep": ("deep_python", "deep_operators", "deep_share", "deep"),
}
"""Files in the order of the text: each takes names only from those before it."""
BLOCK = 1000
"""Line 41 of the third part is line 3041 of the text: what a traceback from a target says."""
PACKAGE = "prismtop.probe."


@lru_cache(maxsize=len(PARTS))
def program(name: str) -> str:
    """The text of `agent` (the probe) or of `deep` (a deep capture).

    Raises:
        ValueError: the parts do not fit together.
    """
    imports: dict[str, None] = {}
    made: dict[str, str] = {}
    lines: list[str] = []
    for number, part in enumerate(PARTS[name], 1):
        text = Path(__file__).with_name(f"{part}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        own = text.splitlines()
        if len(own) >= BLOCK:
            raise ValueError(f"{part}.py is too long")
        for node in tree.body:
            for defined in _defined(node):
                if made.setdefault(defined, part) != part:
                    raise ValueError(f"{defined} is in {made[defined]}.py and in {part}.py")
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imports.update(dict.fromkeys(_carried(node, part)))
            elif not _is_text(node):
                continue
            assert node.end_lineno is not None
            own[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        lines += [""] * (number * BLOCK - len(lines)) + own
    head = ["from __future__ import annotations", *sorted(imports)]
    lines[: len(head)] = head
    return "\n".join(lines) + "\n"


def _carried(node: ast.Import | ast.ImportFrom, part: str) -> list[str]:
    """The imports that the target makes; typing is not loaded there, and annotations stay texts."""
    if isinstance(node, ast.Import):
        return [f"import {_plain(alias, part)}" for alias in node.names]
    module = node.module or ""
    names = [_plain(alias, part) for alias in node.names]
    if module in ("__future__", "typing") or module.startswith(PACKAGE):
        return []
    return [f"from {module} import {name}" for name in names]


def _plain(alias: ast.alias, part: str) -> str:
    if alias.asname:
        raise ValueError(f"{part}.py imports {alias.name} under another name")
    return alias.name


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a part gives a meaning in the namespace of all."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
