"""What a campaign found: a table for a person, an object for a script, a file for a score."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prismtop.anomaly.campaign import PATIENCE_S, Result
from prismtop.anomaly.episodes import FOREIGN_CORES, Episode
from prismtop.anomaly.labels import line
from prismtop.commands.private_file import open_private
from prismtop.export import jsonl
from prismtop.model import Frame
from prismtop.safe_text import safe_text


def table(result: Result, left_out: Sequence[tuple[str, str]], planned: int) -> list[str]:
    """The report for a person: one row per episode, then the figures with the machine.

    Args:
        planned: episodes that there were to be; fewer were done when it was interrupted.
    """
    rows: list[tuple[str, ...]] = [
        ("", "scenario", "level", "effect", "found", "delay", "causes, best first")
    ]
    rows += [_row(number, episode) for number, episode in enumerate(result.episodes, 1)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    made = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    figures = result.score
    made.append("")
    if len(result.episodes) < planned:
        made.append(f"{len(result.episodes)} of {planned} episodes were done")
    made += [
        f"recall {_percent(figures.recall)} ({figures.hits} of {figures.counted} faults with an effect of 10 "
        f"% or more; {figures.faults} injected, {figures.clouded} of them while an alert was open already)",
        *_clouded_lines(result),
        f"false alarms {figures.false_alarms} in {figures.quiet_s:.0f} s outside of episodes "
        f"({_number(figures.false_per_h, 1)} an hour), {_number(figures.false_beside_others, 0)} of them "
        f"while other processes used {FOREIGN_CORES:g} cores or more; {figures.control_alerts} in "
        f"{figures.controls} workload controls",
        *_unlabelled_lines(result),
        *_machine_lines(result),
        f"delay, median: {_number(figures.delay_batches, 1)} batches, {_number(figures.delay_ms, 0)} ms",
        f"cause: top-1 {_percent(figures.cause_top1)}, top-3 {_percent(figures.cause_top3)} of the hits",
        f"rolled back: {figures.rollbacks_ok} of {len(result.episodes)}",
        f"machine: {machine()}; other processes used {_number(figures.foreign_cores, 2)} cores on average; "
        f"{len(result.batches)} batches; "
        + ("the model was ready" if result.learnt else "the model was STILL LEARNING at the first injection"),
    ]
    made += [f"left out: {name}: {safe_text(reason)}" for name, reason in left_out]
    return made


def _clouded_lines(result: Result) -> list[str]:
    figures = result.score
    if not figures.clouded_counted:
        return []
    return [
        f"of {figures.clouded_counted} with an effect that began under an open alert, {figures.clouded_hits} "
        f"got an alert of their own, cause top-1 {_percent(figures.clouded_top1)}; not counted elsewhere"
    ]


def _unlabelled_lines(result: Result) -> list[str]:
    figures = result.score
    if not figures.unlabelled:
        return []
    return [
        f"{figures.unlabelled} alerts while an injection acted that failed afterwards or had not taken "
        "effect yet: neither hits nor false alarms"
    ]


def _machine_lines(result: Result) -> list[str]:
    """What the machine itself did: in the figures above it is counted, here it is told apart."""
    figures = result.score
    made = [
        f"{result.impatient} of {len(result.episodes)} episodes began although an alert was open or the "
        f"machine was slow: the wait of {PATIENCE_S:.0f} s ran out"
    ]
    if figures.false_of_machine is None:
        return ["machine slowdowns, not ours: n/a, the speed of the engine's core was not measured", *made]
    others = figures.false_alarms - figures.false_of_machine
    rate = 3600 * others / figures.quiet_s if figures.quiet_s > 0 else None
    fell = figures.machine_fall_pct
    return [
        f"machine slowdowns, not ours: {figures.false_of_machine} of these {figures.false_alarms} false "
        f"alarms, {figures.control_of_machine} of the {figures.control_alerts} in controls, and all alerts "
        f"that {figures.clouded_of_machine} of the {figures.clouded} faults began under"
        + ("" if fell is None else f"; core speed fell by {fell:.0f} % (median)")
        + f"; false alarms without them: {others} ({_number(rate, 1)} an hour); the core was at least 10 % "
        f"slower in {_percent(figures.machine_slow_share)} of all readings",
        *made,
    ]


def machine() -> str:
    """Processor and system in a few words."""
    name = platform.machine()
    try:
        for text in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if text.startswith("model name"):
                name = text.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} x {safe_text(name, 60)}, Linux {safe_text(platform.release(), 40)}"


def _row(number: int, episode: Episode) -> tuple[str, ...]:
    label = episode.label
    effect = label.effect
    percent = "n/a" if effect is None or effect.percent is None else f"{effect.percent:+.0f} %"
    if label.kind == "fault" and effect is not None and effect.has_one is not True:
        percent += " (none)" if effect.has_one is False else " (?)"
    found = "alert" if episode.found else "-"
    if label.kind == "control":
        found = "FALSE" if episode.found else "silent"
    elif episode.clouded:
        found = "alert before"
    elif episode.counts and not episode.found:
        found = "MISSED"
    delay = ""
    if episode.delay_ns is not None:
        delay = f"{episode.delay_ns / 1e6:.0f} ms, {episode.delay_batches} b"
    causes = " ".join(f"[{name}]" if name in label.causes else name for name in episode.causes)
    name = label.scenario + (" (control)" if label.kind == "control" else "")
    return str(number), name, f"{label.intensity:g}", percent, found, delay, causes


def as_object(
    result: Result, left_out: Sequence[tuple[str, str]], seed: int, planned: int
) -> dict[str, object]:
    """The same as JSON values."""
    return {
        "seed": seed,
        "planned": planned,
        "machine": machine(),
        "batches": len(result.batches),
        "model_ready": result.learnt,
        "waits_run_out": result.impatient,
        "score": asdict(result.score),
        "episodes": [
            {
                "scenario": e.label.scenario,
                "kind": e.label.kind,
                "intensity": e.label.intensity,
                "duration_s": (e.label.end_ns - e.label.start_ns) * 1e-9,
                "effect_pct": e.label.effect.percent if e.label.effect else None,
                "noise_pct": e.label.effect.noise_pct if e.label.effect else None,
                "effect_check": e.label.effect.verdict if e.label.effect else "not measured",
                "found": e.found,
                "alert_before": e.clouded,
                "delay_ms": None if e.delay_ns is None else e.delay_ns / 1e6,
                "delay_batches": e.delay_batches,
                "causes": e.causes,
                "expected_causes": e.label.causes,
                "rollback": "ok" if e.label.rollback_ok else "failed",
            }
            for e in result.episodes
        ],
        "failures": [safe_text(text) for text in result.failures],
        "left_out": dict(left_out),
    }


def write(path: Path, result: Result, frame: Frame) -> None:
    """Batches and ground truth, which `prismtop score` reads: JSON lines, or a trace for the viewers.

    Args:
        frame: the last of the session.

    Raises:
        UnavailableError: it cannot be written.
    """
    labels = [episode.label for episode in result.episodes]
    if path.name.removesuffix(".gz").endswith(".json"):
        from prismtop.anomaly import trace_file

        trace_file.write(path, frame, result.batches, result.alerts, labels, result.counters)
        return
    with open_private(path) as file:
        file.write(jsonl.session_line(frame) + "\n")
        for batch in result.batches:
            file.write(jsonl.batch_line(batch, frame.clock) + "\n")
        for label in labels:
            file.write(json.dumps(line(label, frame.clock)) + "\n")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"
