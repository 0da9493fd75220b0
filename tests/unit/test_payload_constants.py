"""What the target compiles leaves no string behind for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prismtop.sources import payload


@pytest.mark.parametrize("body", [payload.detach_body, payload.finish_body])
def test_no_constant_of_a_late_call_is_an_identifier_of_its_own(body: Callable[[str], str]) -> None:
    nonce = "a1b2c3d4e5f60718"
    code = compile(body(nonce), "<prismtop>", "exec")
    kept = [
        text for text in (*code.co_consts, *code.co_names) if isinstance(text, str) and text.isidentifier()
    ]
    assert not [text for text in kept if nonce in text]
