"""A deep capture: the question before it, the badge while it runs, the page afterwards."""

from __future__ import annotations

from prismtop.deepdive import report
from prismtop.model import Capture, CapturePhase
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line
from prismtop.tui.panels.alerts import clock
from prismtop.tui.panels.hooks import wrapped
from prismtop.tui.view import View

_ROLES = {"on": "ok", "partial": "warn", "off": "muted"}
NONE = "No DeepDive in this session yet."
ABOUT = (
    "A DeepDive captures everything for some batches: operators, Python, the GPU, the scheduler, counters, "
    "on one timeline. It costs the engine something, so it asks first; then it takes everything out again."
)


def question(capture: Capture) -> tuple[str, list[str]]:
    """Sentences, and a line per layer."""
    text = report.expected(capture)
    lines = [f"{state:<8}{name:<10} {reason}" for name, state, reason in report.layer_lines(capture.layers)]
    return f"{text[0].upper()}{text[1:]}.", lines


def page(view: View, width: int, glyphs: Glyphs, key: str) -> list[Line]:
    """The latest capture: where it is, what it cost, every layer with its reason, and what comes next."""
    frame = view.latest
    capture = frame.capture if frame is not None else None
    if frame is None or capture is None:
        return [*wrapped(NONE, width, "strong"), (), *wrapped(f"{ABOUT} {key} begins one.", width, "base")]
    title = f" DeepDive {capture.number}, {clock(frame, capture.started_ns)}"
    why = "" if capture.request.why in ("key", "command") else f", begun by {safe_text(capture.request.why)}"
    failed = capture.phase is CapturePhase.FAILED
    made: list[Line] = [((f"{title}{why}", "strong"),)]
    if not capture.phase.final:
        made += wrapped(f"{report.progress(capture)}; {key} cancels it", width, "warn")
        made += wrapped(report.expected(capture), width, "muted")
    for line in report.result_lines(capture) if capture.phase.final else ():
        stays = "HAS STAYED" in line
        made += wrapped(line, width, "error" if failed or stays else "base")
    if capture.path:
        made += wrapped(f"look at it: prismtop replay {safe_text(capture.path, 4096)}", width, "key")
        made += wrapped("or in Perfetto or chrome://tracing; `prismtop analyze` counts", width, "muted")
    made += [(), ((" layers: state, events in the trace, how or why not".ljust(width), "column"),)]
    for name, state, reason in report.layer_lines(capture.layers):
        role = _ROLES[state.split()[0]]
        body = wrapped(reason, max(20, width - 29), "base", 0)
        made.append(((f" {name:<11}", "strong"), (f"{state:<16} ", role), *body[0]))
        made += [((" " * 29, "base"), *line) for line in body[1:]]
    return made
