"""The engine's processes as a tree: API server, engine core, workers."""

from __future__ import annotations

from prismtop.model import Frame, ProcessId, Target
from prismtop.safe_text import safe_text
from prismtop.tui.look import Glyphs, Line, Span, cut, fit
from prismtop.tui.numbers import NA
from prismtop.tui.panels import counters
from prismtop.tui.panels.ranks import means
from prismtop.tui.view import View


def page(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    """A line per process below its parent, its title below that when there is room."""
    frame = view.frame
    if frame is None:
        return [((" Waiting for the first reading.", "muted"),)]
    members = frame.group.members
    ids = {member.id for member in members}
    children: dict[ProcessId | None, list[Target]] = {}
    for member in members:
        parent = member.parent if member.parent in ids and member.parent != member.id else None
        children.setdefault(parent, []).append(member)
    heading = (
        f" {'process':<{_name_width(width)}} {'pid':>7}  {'state':<9} {'cpu':>5}  {'measured':<10} title"
    )
    made: list[Line] = [((fit(heading, width), "column"),)]
    drawn: set[ProcessId] = set()

    def draw(member: Target, lead: str, below: str) -> None:
        if member.id in drawn:  # a circle of parents, which only a recycled pid could make
            return
        drawn.add(member.id)
        made.append(_row(member, lead, frame, width))
        under = sorted(children.get(member.id, ()), key=lambda target: target.id)
        for number, child in enumerate(under, 1):
            end = number == len(under)
            draw(
                child,
                below + (glyphs.last if end else glyphs.branch),
                below + ("   " if end else glyphs.trunk),
            )

    for root in sorted(children.get(None, ()), key=lambda target: target.id):
        draw(root, "", "")
    for member in members:
        draw(member, "", "")
    made += [(), ((" esc: back; p there: how each hook measures.", "muted"),)]
    return made


def _name_width(width: int) -> int:
    return 34 if width >= 110 else 22


def _row(member: Target, lead: str, frame: Frame, width: int) -> Line:
    role = safe_text(member.role or "process", 24)
    ranks = " ".join(f"{safe_text(kind, 6)}{rank}" for kind, rank in member.ranks)
    state = safe_text(frame.target_states.get(member.id, NA), 9)
    straggler = any(rank.pid == member.id.pid and rank.straggler for rank in means(frame))
    how = safe_text(member.way_in, 10) if member.probed else "no hooks"
    room = max(0, _name_width(width) - len(lead))
    spans: list[Span] = [
        (f" {lead}", "muted"),
        (fit(cut(f"{role} {ranks}".rstrip(), room), room), "strong"),
        (f" {member.id.pid:>7}  {state:<9} {_cpu(member, frame):>5}  {how:<10} ", "base"),
    ]
    if straggler:
        spans.append(("straggler ", "warn"))
    room = width - sum(len(text) for text, _ in spans)
    if room > 8:
        spans.append((cut(safe_text(member.title), room), "muted"))
    return tuple(spans)


def _cpu(member: Target, frame: Frame) -> str:
    """The process's own CPU counter, where one is sampled."""
    device = f"pid {member.id.pid}"
    for counter in frame.counters:
        if counter.device == device and "cpu" in counter.name and counter.unit == "ratio":
            return counters.amount(counter)
    return NA
