"""`prismtop diff A B`: what changed between two traces, stage by stage at equal workload."""

from __future__ import annotations

from prismtop.commands.context import Context
from prismtop.commands.replay import open_trace
from prismtop.errors import EXIT_FINDING, EXIT_OK, UsageError
from prismtop.export import jsonl


def run(context: Context, before: str, after: str) -> int:
    """Compare two traces. Returns 1 when something changed, else 0.

    Raises:
        UsageError: a file is no trace, or no workload is in both.
    """
    from prismtop.commands.diagnose import cause_object, described, evidence_of_traces
    from prismtop.diagnosis.ranking import rank
    from prismtop.trace.compare import MIN_BATCHES, Sample, compare

    traces = [open_trace(context, [path]) for path in (before, after)]
    samples = [Sample().take(trace.batches()) for trace in traces]
    for path, sample in zip((before, after), samples, strict=True):
        if sample.dropped:
            context.report.say(f"{path}: only the first {sample.batches - sample.dropped} batches were used")
    with context.report.status("comparing"):
        found = compare(samples[0], samples[1])
    if not found.strata:
        raise UsageError(
            f"these traces have no workload in common ({MIN_BATCHES} batches of one kind in each).",
            fix="Record both under the same load.",
        )
    changed = any(change.changed for change in found.changes)
    causes = rank(evidence_of_traces(traces[0], traces[1])) if changed else ()
    if context.json:
        from prismtop.export.analysis_json import comparison_object

        content = comparison_object(before, after, found)
        content["causes"] = [cause_object(cause) for cause in causes]
        context.write(jsonl.document("diff", content))
    else:
        from prismtop.export.text_report import comparison_lines

        for line in comparison_lines(before, after, found):
            context.write(line)
        for number, cause in enumerate(causes, start=1):
            for line in described(number, cause):
                context.write(line)
    return EXIT_FINDING if changed else EXIT_OK
