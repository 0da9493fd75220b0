"""Profile expressions: what is allowed, what is refused, and what they compute."""

from __future__ import annotations

import builtins
from types import SimpleNamespace
from typing import Any

import pytest

from prismtop.errors import UsageError
from prismtop.targets.expressions import FUNCTIONS, compile_expression


def compute(text: str, **names: Any) -> Any:
    expression = compile_expression(text, where="test")
    allowed = {name: getattr(builtins, name) for name in FUNCTIONS}
    scope = {"__builtins__": {}, **allowed, "_cap": lambda items: list(items)[:512], **names}
    return eval(compile(expression.source, "profile", "eval"), scope)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("len(ret.tokens)", 3),
        ("sum(n for n in ret.tokens)", 6),
        ("sum(n * 2 for n in ret.tokens if n > 1)", 10),
        ("max([n for n in ret.tokens], default=0)", 3),
        ("ret.tokens[-1] if ret.tokens else None", 3),
        ("tuple_of[0][1]", "b"),
        ("getattr(ret, 'missing', 7)", 7),
        ("ret.table.get('a', 0) + len(ret.table.keys())", 2),
        ("sum(len(v) for k, v in ret.lists.items() if k.startswith('x'))", 2),
        ("not (1 < 2 <= 3) or ret.flag is None", False),
        ("hash('r') & 4611686018427387903 == hash('r') % 4611686018427387904", True),
        ("(len(ret.tokens), -1)", (3, -1)),
        ("ret.tokens[1:]", [2, 3]),
        ("~1 & 0xff >> 1 | 1 ^ 0", 127),
    ],
)
def test_an_allowed_expression_computes_what_python_computes(text: str, expected: object) -> None:
    ret = SimpleNamespace(tokens=[1, 2, 3], table={"a": 1}, lists={"x": [1, 2], "y": [3]}, flag=True)
    assert compute(text, ret=ret, tuple_of=(("a", "b"),)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "ret.__class__",
        "ret.__dict__",
        "getattr(ret, '__class__', 0)",
        "getattr(ret, name, 0)",
        "getattr(ret, 'x')",
        "open('/etc/passwd')",
        "ret.tensor.item()",
        "ret.tolist()",
        "ret.pop()",
        "lambda: 1",
        "(x := 1)",
        "f'{ret}'",
        "[*ret]",
        "len(*ret)",
        "{1: 2}",
        "{n for n in ret}",
        "{n: 1 for n in ret}",
        "2 ** 1000000000",
        "1 << 1000000000",
        "9223372036854775808",
        "b'x'",
        "1j",
        "...",
        "await ret",
        "[x async for x in ret]",
        "sum(n for n in ret, start=1)",
        "sum(ret, start=1)",
        "max(ret, key=len)",
        "ret()",
        "ret.x()()",
        "_cap(ret)",
        "__builtins__",
        "sum(len for len in ret)",
        "sum(self for self in ret)",
        "sum(x.y for x.y in ret)",
        "sum(x for x[0] in ret)",
        "x = 1",
        "import os",
        "1; 2",
        "",
        "ret.",
        "(" * 300 + ")" * 300,
        "ret" + ".a" * 600,
    ],
)
def test_anything_else_is_refused_with_the_place_in_the_message(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        compile_expression(text, where="mine.toml:7: hook step: `tokens`")
    assert refusal.value.message.startswith("mine.toml:7: hook step: `tokens`: ")
    assert "\n" not in str(refusal.value)


def test_free_names_are_what_the_hooked_function_must_provide() -> None:
    expression = compile_expression("sum(r.n for r in self.running) + len(batch.reqs) + min(1, 2)", where="t")
    assert expression.names == {"self", "batch"}


@pytest.mark.parametrize(
    ("text", "loops"), [("len(ret)", False), ("sum(r for r in ret)", True), ("[1, 2]", False)]
)
def test_only_a_comprehension_costs_more_with_a_larger_batch(text: str, loops: bool) -> None:
    assert compile_expression(text, where="t").per_request is loops


def test_every_iterable_of_a_comprehension_is_capped() -> None:
    assert compute("sum(1 for r in ret)", ret=range(10_000)) == 512
    assert compute("sum(1 for r in ret for q in r)", ret=[range(1000)] * 3) == 3 * 512


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("sum(r for r in ret)", True),
        ("max(r for r in ret if r)", True),
        ("max((r for r in ret), default=0)", True),
        ("sum(q for r in ret for q in r)", False),
        ("((r, 0, 0) for r in ret)", False),
    ],
)
def test_what_is_counted_over_one_loop_is_listed_first(text: str, listed: bool) -> None:
    assert ("[" in compile_expression(text, where="t").source) is listed


def test_lines_of_a_long_expression_are_joined() -> None:
    assert compute("\n len(ret)\n   + 1\n", ret=[1]) == 2
