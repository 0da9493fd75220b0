"""The one door for text that prismtop did not write: process titles, model names, engine strings.

Control and escape characters, bidirectional overrides, zero-width characters and lone surrogates become
U+FFFD, so that nothing read from a process can move a cursor, reorder a line or hide itself. Rich and Textual
markup is not interpreted here: callers in the screen must pass the result as `Content` or `Text`, never as
markup.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def safe_text(text: object, limit: int = 512) -> str:
    """Return `text` as one printable line of at most `limit` characters.

    Line feeds show as U+23CE, tabs as a space. Anything that is not a `str` is shown by its `repr`.
    """
    string = text if isinstance(text, str) else repr(text)
    cut = string[:limit].replace("\n", "\u23ce").replace("\t", " ")
    return _UNSAFE.sub("\ufffd", cut)


def safe_file_name(text: object, limit: int = 80) -> str:
    """Return `text` as a name that is safe in a path: ASCII letters, digits, `-`, `_` and inner dots."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", safe_text(text, limit)).strip("._-")
    return name or "unnamed"
