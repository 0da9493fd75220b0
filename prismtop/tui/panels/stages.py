"""Where the time of a batch goes: percentiles per stage, prefill and decode apart."""

from __future__ import annotations

from prismtop.model import STAGES, Frame, Mode
from prismtop.tui.look import Glyphs, Line, Span
from prismtop.tui.numbers import DASH, NA, milliseconds
from prismtop.tui.view import View

_MODES = (Mode.DECODE, Mode.PREFILL, Mode.MIXED, Mode.UNKNOWN)
_NAME_WIDTH = 9
_NUMBER_WIDTH = 7
_GAP = 6
# The roomiest that fits is taken: (medians too, letters of each name, what is between glyph and name).
_LEGENDS = ((True, 9, " "), (True, 9, ""), (True, 5, ""), (False, 9, ""), (False, 4, ""), (False, 2, ""))


def stages_seen(frame: Frame) -> tuple[str, ...]:
    """Stages with a measurement in the window or in the latest batches, in their order."""
    seen = {stage for _, stage in frame.throughput.stage_ms} if frame.throughput else set()
    for batch in frame.batches[-8:]:
        seen.update([stage.name for stage in batch.stages])
    return tuple(name for name in STAGES if name in seen)


def modes_seen(frame: Frame) -> tuple[str, ...]:
    """Modes with stage percentiles; decode and prefill first."""
    seen = {mode for mode, _ in frame.throughput.stage_ms} if frame.throughput else set()
    return tuple(mode.value for mode in _MODES if mode.value in seen)


def legend(view: View, width: int, glyphs: Glyphs) -> Line:
    """One line: each stage's glyph, name, and median in the mode seen most often."""
    frame = view.frame
    if frame is None:
        return ()
    names = stages_seen(frame)
    if not names:
        return (("  stages: none measured yet", "muted"),)
    rates = frame.throughput
    step = rates.step_ms if rates else {}
    mode = max((m for m in modes_seen(frame)), key=lambda m: step[m].count if m in step else 0, default="")
    for with_numbers, cut_name, gap in _LEGENDS:
        spans: list[Span] = [(f" {mode[:3]} p50 ms" if with_numbers else "", "muted")]
        for name in names:
            spans += [(f" {glyphs.stages[name]}", f"stage.{name}"), (gap + name[:cut_name], "muted")]
            if with_numbers and rates is not None:
                value = rates.stage_ms.get((mode, name))
                spans.append((f" {milliseconds(value.p50 if value else None)}", "base"))
        if sum([len(text) for text, _ in spans]) <= width:
            break
    return tuple(spans)


def table_height(view: View) -> int:
    """Lines of the whole table; 0 without a stage."""
    names = stages_seen(view.frame) if view.frame is not None else ()
    return 2 + len(names) if names else 0


def lines(view: View, width: int, height: int, glyphs: Glyphs, *, focused: bool = False) -> list[Line]:
    """The legend on one line, the table on more."""
    if height <= 0:
        return []
    if height == 1:
        made = legend(view, width, glyphs)
        return [((made[0][0], "title"), *made[1:]) if focused and made else made]
    return table(view, width, glyphs, focused=focused)[:height]


def table(view: View, width: int, glyphs: Glyphs, *, focused: bool = False) -> list[Line]:
    """p50, p95 and p99 per stage and mode in ms, as many modes as the width holds."""
    frame = view.frame
    names = stages_seen(frame) if frame else ()
    if frame is None or not names:
        return []
    rates = frame.throughput
    block = _GAP + 3 * _NUMBER_WIDTH
    modes = modes_seen(frame)[: max(1, (width - _NAME_WIDTH - 4) // block)]
    window = f"{rates.window_s:.0f} s" if rates else NA
    title = f" {glyphs.rule * 2} stages, ms, last {window} ".ljust(width, glyphs.rule)
    heads = "".join(f"{mode + ' p50':>{_GAP + _NUMBER_WIDTH}}{'p95':>7}{'p99':>7}" for mode in modes)
    second = " " * (_NAME_WIDTH + 4) + heads
    made: list[Line] = [
        ((title[:width], "title" if focused else "muted"),),
        ((second[:width].ljust(width), "column"),),
    ]
    for name in names:
        numbers = ""
        for mode in modes:
            value = rates.stage_ms.get((mode, name)) if rates else None
            three = (value.p50, value.p95, value.p99) if value else (None, None, None)
            numbers += " " * _GAP + "".join(milliseconds(n, DASH).rjust(_NUMBER_WIDTH) for n in three)
        made.append(
            (
                (f" {glyphs.stages[name] * 2} ", f"stage.{name}"),
                (name.ljust(_NAME_WIDTH), "base"),
                (numbers, "base"),
            )
        )
    return made
