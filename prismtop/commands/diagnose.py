"""`prismtop diagnose`: ranked causes for two captures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prismtop.commands.context import Context
from prismtop.diagnosis.evidence import Evidence
from prismtop.diagnosis.ranking import NAMED, rank
from prismtop.errors import EXIT_OK, UsageError
from prismtop.export import jsonl
from prismtop.model import Cause
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.trace.load import Trace


def run(context: Context, normal: str, abnormal: str) -> int:
    """Print causes, best first; 0 also when none is found.

    Raises:
        UsageError: a file is missing, damaged, or the two are of different kinds.
    """
    evidence = _evidence(Path(normal), Path(abnormal))
    causes = rank(evidence)
    if context.json:
        context.write(jsonl.document("diagnosis", {"causes": [cause_object(cause) for cause in causes]}))
        return EXIT_OK
    for number, cause in enumerate(causes, start=1):
        for line in described(number, cause):
            context.write(line)
    return EXIT_OK


def described(number: int, cause: Cause) -> list[str]:
    """A cause as lines that can be pasted: what, the numbers, what does not fit, what to check next."""
    made = [f"{number}. {cause.id} {cause.score:.2f}  {safe_text(cause.text)}"]
    made += [f"     {safe_text(line)}" for line in cause.evidence]
    made += [f"     but: {safe_text(line)}" for line in cause.against]
    if cause.next_step and (number == 1 or cause.score >= NAMED):
        made.append(f"     next: {safe_text(cause.next_step)}")
    return made


def _evidence(normal: Path, abnormal: Path) -> Evidence:
    from prismtop.diagnosis import paper_folders

    for path in (normal, abnormal):
        if not path.exists():
            raise UsageError(f"there is no {safe_text(str(path))}.", fix="Check the path.")
    if normal.is_dir() and abnormal.is_dir():
        return paper_folders.evidence_of(
            paper_folders.read_perf_data(normal), paper_folders.read_perf_data(abnormal)
        )
    if normal.is_dir() or abnormal.is_dir():
        raise UsageError(
            "one of the two is a folder and the other a file.", fix="Name two traces or two folders."
        )
    return _of_traces(normal, abnormal)


def _of_traces(normal: Path, abnormal: Path) -> Evidence:
    from prismtop.trace.load import load

    return evidence_of_traces(load([normal]), load([abnormal]))


def evidence_of_traces(normal: Trace, abnormal: Trace) -> Evidence:
    """Compare two traces. Raises UsageError when one holds nothing to compare."""
    from prismtop.diagnosis.captures import Capture, evidence_of
    from prismtop.diagnosis.kernels import read_kernels, windows_of

    captures = []
    for trace in (normal, abnormal):
        roles = {member.id.pid: member.role for member in trace.group.members}
        capture = Capture(roles).read(noun for _, noun in trace.moments())
        if capture.empty:
            raise UsageError(
                f"{safe_text(str(trace.path))} holds neither batches nor counters.",
                fix="Record one: `prismtop record`.",
            )
        captures.append(capture)
    more, texts = windows_of(read_kernels(normal), read_kernels(abnormal))
    return evidence_of(captures[0], captures[1], more, texts)


def cause_object(cause: Cause) -> dict[str, object]:
    """A cause for JSON."""
    made: dict[str, object] = {"id": cause.id, "score": cause.score, "text": safe_text(cause.text)}
    made["evidence"] = [safe_text(line) for line in cause.evidence]
    made["against"] = [safe_text(line) for line in cause.against]
    made["next_step"] = safe_text(cause.next_step)
    return made
