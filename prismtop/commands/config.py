"""`prismtop config`: every setting with its origin, and where the file is."""

from __future__ import annotations

import json

from prismtop.commands.context import Context
from prismtop.errors import EXIT_OK
from prismtop.export import jsonl
from prismtop.safe_text import safe_text
from prismtop.settings import config_dir, config_path, setting_infos


def show(context: Context) -> int:
    """Name, value and origin of each setting, with its one-line documentation."""
    settings = context.settings
    if context.json:
        content = {
            info.name: {
                "value": getattr(settings, info.name),
                "origin": settings.origins[info.name],
                "doc": info.doc,
            }
            for info in setting_infos()
        }
        own = {safe_text(action): [safe_text(key) for key in keys] for action, keys in settings.keys.items()}
        document: dict[str, object] = {"path": str(config_path()), "settings": content, "keys": own}
        context.write(jsonl.document("config", document))
        return EXIT_OK
    for info in setting_infos():
        value = getattr(settings, info.name)
        shown = (
            str(value).lower()
            if info.kind is bool
            else f'"{safe_text(value)}"'
            if info.kind is str
            else f"{value:g}"
        )
        context.write(f"{info.name} = {shown}  ({safe_text(settings.origins[info.name])})")
        context.write(f"    {info.doc}")
    if settings.keys:
        context.write("[keys]")
        for action, keys in settings.keys.items():
            context.write(f"{safe_text(action)} = {safe_text(json.dumps(list(keys)))}")
    return EXIT_OK


def path(context: Context) -> int:
    """The config file and the directory of the user's engine profiles; neither need exist."""
    file, engines = config_path(), config_dir() / "engines"
    if context.json:
        content = {"path": str(file), "exists": file.exists(), "engines": str(engines)}
        context.write(jsonl.document("config_path", content))
    else:
        context.write(str(file))
    return EXIT_OK
