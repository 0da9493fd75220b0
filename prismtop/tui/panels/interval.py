"""The counters of the time in which a batch ran: whether the device, the host or the wire moved with it."""

from __future__ import annotations

from prismtop.counters.align import counters_during
from prismtop.model import Batch, Frame
from prismtop.safe_text import safe_text
from prismtop.tui.look import Line, flowed
from prismtop.tui.panels.counters import amount, importance, label

MOST = 12
ROWS, ROWS_NARROW = 4, 2
NOT_YET = "no reading covers this batch: the next one comes within a second, older ones have left the history"


def lines(batch: Batch, frame: Frame, width: int) -> list[Line]:
    """The most telling counters of the batch's interval; nothing when nothing is sampled."""
    if not frame.counters:
        return []
    during = counters_during(frame.counters, frame.counter_history, batch.start_ns, batch.end_ns)
    known = [counter for counter in during if counter.value is not None]
    title: Line = ((" counters while it ran (each over its own period)".ljust(width), "column"),)
    if not known:
        return [title, ((f" {NOT_YET}", "muted"),)]
    known.sort(key=lambda counter: importance(counter.name))
    parts: list[Line] = []
    for counter in known[:MOST]:
        words = f" ({safe_text(counter.text, 40)})" if counter.text else ""
        parts.append(
            ((f"{label(counter.name, counter.device)} ", "muted"), (f"{amount(counter)}{words}", "base"))
        )
    rows = ROWS if width >= 100 else ROWS_NARROW
    return [title, *[((" ", "base"), *line) for line in flowed(parts, width - 1, "   ")[:rows]]]
