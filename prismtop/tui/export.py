"""What `e` writes: rows as JSON lines or CSV, the screen as SVG. New files only, for their owner."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path

from prismtop.errors import UnavailableError
from prismtop.export import jsonl
from prismtop.model import STAGES, Batch, Clock, Frame
from prismtop.safe_text import safe_file_name, safe_text
from prismtop.tui.fields import FIELDS, Value

_TRIES = 100
_PLAIN = tuple(field for field in FIELDS if not field.name.endswith("_ms"))


def json_lines(frame: Frame, rows: Sequence[Batch]) -> str:
    """A session line, then the rows, oldest first: what `prismtop watch --json` would have written."""
    batches = sorted(rows, key=lambda batch: (batch.start_ns, batch.seq))
    lines = [jsonl.session_line(frame), *(jsonl.batch_line(batch, frame.clock) for batch in batches)]
    return "\n".join(lines) + "\n"


def csv_text(rows: Sequence[Batch], clock: Clock) -> str:
    """A heading and a line per row, in the list's order; a value that a batch does not have is empty."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(["t_us", "engine", *(field.name for field in _PLAIN), *(f"{name}_ms" for name in STAGES)])
    for batch in rows:
        stages = batch.stage_ns()
        writer.writerow(
            [
                f"{clock.wall_us(batch.start_ns):.0f}",
                _cell(batch.engine),
                *(_cell(field.value(batch)) for field in _PLAIN),
                *(_cell(stages[name] / 1e6 if name in stages else None) for name in STAGES),
            ]
        )
    return made.getvalue()


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = safe_text(value) if isinstance(value, str) else str(value)
    # A spreadsheet would run these as formulas.
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@") else text


def write_new(directory: Path, frame: Frame | None, kind: str, text: str) -> Path:
    """Write a file that did not exist, readable by its owner only.

    Args:
        directory: where; `~` is the home directory.
        frame: names the file by engine and wall time.
        kind: the name's ending.
        text: the content.

    Raises:
        UnavailableError: it cannot be written there.
    """
    engine = safe_file_name(frame.group.engine, 24) if frame is not None else "screen"
    stem = f"prismtop-{engine}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = directory.expanduser()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    for number in range(_TRIES):
        path = folder / f"{stem}{f'-{number + 1}' if number else ''}.{kind}"
        try:
            handle = os.open(path, flags, 0o600)
        except FileExistsError:
            continue
        except OSError as error:
            raise UnavailableError(
                f"{safe_text(str(path))} cannot be written: {error.strerror}.",
                fix="Set export_dir (F2, config.toml).",
            ) from None
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise UnavailableError(f"{safe_text(str(path))} cannot be written: {error.strerror}.") from None
        return path
    raise UnavailableError(f"{safe_text(str(folder))} has {_TRIES} files of this second already.")
