"""`prismtop trace check|repair|merge|convert`: files of traces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prismtop.commands.context import Context
from prismtop.errors import EXIT_FINDING, EXIT_OK, UsageError
from prismtop.export import jsonl
from prismtop.safe_text import safe_text


def check(context: Context, files: Sequence[str]) -> int:
    """Say what Perfetto and chrome://tracing would; 1 when one of them would not show everything.

    Raises:
        UsageError: a file cannot be read.
    """
    from prismtop.trace.check import check as check_file
    from prismtop.trace.check import not_a_trace

    clean = True
    for name in files:
        path = Path(name).expanduser()
        _readable(path)
        try:
            report = check_file(path)
        except UsageError as error:
            report = not_a_trace(path, error)
        clean &= report.ok
        if context.json:
            findings = [
                {
                    "rule": one.rule,
                    "viewer": one.viewer,
                    "text": safe_text(one.text),
                    "count": one.count,
                    **({"first": one.first} if one.first else {}),
                }
                for one in report.findings
            ]
            content = {
                "path": safe_text(name, 4096),
                "ok": report.ok,
                "events": report.events,
                "findings": findings,
                "notes": report.notes,
            }
            context.write(jsonl.document("check", content))
            continue
        shown = safe_text(name, 4096)
        if report.ok:
            context.write(f"{shown}: ok, {report.events} events")
        for one in report.findings:
            times = f" ({one.count} times)" if one.count > 1 else ""
            place = f", first at {one.first}" if one.first else ""
            context.write(f"{shown}: {one.viewer}: {one.text}{times}{place} [{one.rule}]")
        for note in report.notes:
            context.write(f"{shown}: note: {note}")
    if not clean:
        context.report.say("`prismtop trace repair FILE` writes a copy that both viewers open")
    return EXIT_OK if clean else EXIT_FINDING


def repair(context: Context, file: str, output: str | None) -> int:
    """Write a copy of `file` that both viewers open."""
    from prismtop.trace.output import stem
    from prismtop.trace.repair import repair as repair_file

    source = Path(file).expanduser()
    _readable(source)
    target = Path(output).expanduser() if output else source.with_name(f"{stem(source)}.repaired.json.gz")
    _json_name(target)
    with context.report.status(f"repairing {safe_text(file)}"):
        made = repair_file(source, target)
    return _conclude(context, "repair", target, made.events, made.changes)


def merge(context: Context, files: Sequence[str], output: str) -> int:
    """Write the events of several files into one, on one timeline."""
    from prismtop.trace.merge import merge as merge_files

    sources = [Path(file).expanduser() for file in files]
    for source in sources:
        _readable(source)
    target = Path(output).expanduser()
    _json_name(target)
    with context.report.status(f"merging {len(sources)} files"):
        made = merge_files(sources, target)
    return _conclude(context, "merge", target, made.events, made.notes)


def convert(context: Context, file: str, output: str) -> int:
    """Write a trace in the form that the output's name says."""
    from prismtop.trace.convert import convert as convert_file

    source, target = Path(file).expanduser(), Path(output).expanduser()
    _readable(source)
    with context.report.status(f"converting {safe_text(file)}"):
        count, notes = convert_file(source, target)
    return _conclude(context, "convert", target, count, notes)


def _conclude(context: Context, kind: str, target: Path, count: int, notes: Sequence[str]) -> int:
    shown = safe_text(str(target), 4096)
    if context.json:
        content: dict[str, object] = {"path": shown, "events": count, "notes": [safe_text(n) for n in notes]}
        context.write(jsonl.document(kind, content))
        return EXIT_OK
    for note in notes:
        context.report.say(safe_text(note))
    noun = "batches" if target.name.endswith(".csv") else "events"
    context.report.say(f"{count} {noun} in {shown}")
    return EXIT_OK


def _readable(path: Path) -> None:
    """Raise UsageError for a path that is no readable file, before anything is written."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(
            f"{safe_text(str(path))} cannot be read: {error.strerror}.", fix="Check the path."
        ) from None


def _json_name(target: Path) -> None:
    from prismtop.trace.segments import plain_name

    plain_name(target)
