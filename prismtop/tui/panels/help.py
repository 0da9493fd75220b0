"""The help page, generated from the key table, the column table and the stage glyphs."""

from __future__ import annotations

from prismtop import __version__
from prismtop.model import STAGES
from prismtop.tui.fields import FIELDS
from prismtop.tui.keys import KEYS, PICKER, TITLES, Key
from prismtop.tui.look import Glyphs, Line
from prismtop.tui.panels.batches import COLUMNS
from prismtop.tui.panels.header import STATE_MEANINGS, STATE_WORDS
from prismtop.tui.panels.hooks import wrapped

STAGE_MEANINGS = {
    "recv": "receiving requests",
    "schedule": "choosing the requests of the batch",
    "prepare": "building the input tensors",
    "launch": "host time to start the forward pass; not device time",
    "sample": "choosing the next tokens",
    "wait": "host time blocked on the device",
    "post": "updating requests with the new tokens",
    "stream": "handing tokens out",
    "idle": "nothing to do",
    "other": "inside the batch, covered by no hook",
}
WHY_MISSING = (
    "A value that is not known is never shown as 0. In the list it is '-', elsewhere n/a.",
    "bs, tok, ctx, run, wait, kv: the engine's profile has no hook that reports it, or that hook is not "
    "installed: p says which and why.",
    "TTFT, ITL, req/s: the profile has no request events for this engine, or no request got a first token "
    "(finished) in the window.",
    "attach: not attached yet, or external only. 'no stop': the interpreter's own remote interface "
    "(Python 3.14) was used, no thread was stopped.",
    "period: the first batch after an idle gap has none. own cpu: known after the first seconds.",
    "skew: needs two or more tensor-parallel ranks.",
)


FILTERS = (
    ("dur>20 & mode==decode", "decode batches of more than 20 ms"),
    ("over>30", "30 percent above what the workload should cost"),
    ("slow | suspect", "slow for their workload, or not fully trusted"),
    ("kv>=80 & wait>0", "KV cache nearly full while requests wait"),
    ("wait_ms > 0.7*ms", "blocked on the device for most of the batch"),
    ("ctx>10k", "units: us ms s k M %"),
    ("prepare_inputs", "anything else is a text: number, mode, stage, hook, rank"),
)


def lines(width: int, glyphs: Glyphs, keys: tuple[Key, ...] = KEYS) -> list[Line]:
    """The page."""
    made: list[Line] = [
        ((f" prismtop {__version__}: every batch of a running engine, stage by stage", "strong"),)
    ]
    seen: set[str] = set()
    for where, title in TITLES.items():
        here = [key for key in keys if where in key.where and key.id not in seen and where != PICKER]
        seen.update(key.id for key in here)
        if here:
            made += [(), ((f" keys {title}".ljust(width), "column"),)]
        for key in here:
            made += _entry(key.shown or "-", key.help, width, "key")
    made += [(), ((" search and filter".ljust(width), "column"),)]
    for example, meaning in FILTERS:
        made += _entry(example, meaning, width, "strong", 24)
    made += wrapped("fields: " + ", ".join(field.name for field in FIELDS), width, "base")
    made += [(), ((" columns".ljust(width), "column"),)]
    for column in COLUMNS:
        wide = f" (from {column.since} columns)" if column.since > 80 else ""
        made += _entry(column.title, column.meaning + wide, width, "strong")
    made += [(), ((" stages, as the bar shows them".ljust(width), "column"),)]
    for name in (*STAGES, "other"):
        text = f"{name:<9} {STAGE_MEANINGS[name]}"
        made.append(((f" {glyphs.stages[name] * 4}        ", f"stage.{name}"), (text, "base")))
    made += [(), ((" states".ljust(width), "column"),)]
    for state, (word, role) in STATE_WORDS.items():
        made += _entry(word, STATE_MEANINGS[state], width, role)
    made += [(), ((" why a value is missing".ljust(width), "column"),)]
    for reason in WHY_MISSING:
        made += wrapped(reason, width, "base")
    return made + _counters(width)


def _counters(width: int) -> list[Line]:
    from prismtop.counters.catalogue import listing

    made: list[Line] = [(), ((" counters: source and usual period".ljust(width), "column"),)]
    for name, _, source, period, meaning in listing():
        made += _entry(name, f"{meaning} ({source}, {period})", width, "strong", 36)
    return made


def _entry(name: str, text: str, width: int, role: str, column: int = 13) -> list[Line]:
    body = wrapped(text, max(30, width - column), "base", 0)
    first: Line = ((f" {name:<{column - 2}} ", role), *body[0])
    return [first, *[((" " * column, "base"), *line) for line in body[1:]]]
