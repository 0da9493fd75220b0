"""Changes single settings in `config.toml`; everything else in the file stays as it is."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from prismtop.errors import UnavailableError, UsageError
from prismtop.safe_text import safe_text
from prismtop.toml_text import TOMLDecodeError, loads

Scalar = bool | int | float | str


def changed(text: str, values: Mapping[str, Scalar]) -> str:
    """The file's text with these top-level keys set; new ones are put before the first table.

    Raises:
        UsageError: the text is no TOML, or would not be afterwards.
    """
    lines = text.splitlines()
    for key, value in values.items():
        line = f"{key} = {written(value)}"
        end = next((i for i, other in enumerate(lines) if re.match(r"\s*\[", other)), len(lines))
        at = next(
            (i for i in range(end) if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", lines[i])), None
        )
        if at is not None:
            lines[at] = line
        else:
            while end > 0 and not lines[end - 1].strip():
                end -= 1
            lines.insert(end, line)
    made = "\n".join(lines) + "\n"
    try:
        before, after = loads(text), loads(made)
    except TOMLDecodeError as error:
        raise UsageError(
            f"the config file would be no TOML: {safe_text(str(error))}.", fix="Edit it by hand."
        ) from None
    if after != {**before, **values}:
        raise UsageError(
            "the config file sets these values in a way that is not understood.", fix="Edit it by hand."
        )
    return made


def written(value: Scalar) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def save(path: Path, values: Mapping[str, Scalar]) -> None:
    """Set values in the file, which need not exist yet. Readers never see half of it.

    Raises:
        UsageError: see `changed`.
        UnavailableError: it cannot be read or written.
    """
    target = Path(os.path.realpath(path))
    try:
        text = target.read_text(encoding="utf-8") if target.exists() else ""
        made = changed(text, values)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".config-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(made)
            if target.exists():
                os.chmod(name, target.stat().st_mode & 0o777)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except UnicodeDecodeError:
        raise UsageError(f"{safe_text(str(path))} is not UTF-8 text.", fix="Edit it by hand.") from None
    except OSError as error:
        raise UnavailableError(f"{safe_text(str(path))} cannot be written: {error.strerror}.") from None
