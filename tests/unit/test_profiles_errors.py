"""A broken user profile: one sentence with the file, the line, and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismtop.errors import EXIT_USAGE, UsageError
from prismtop.targets.profiles import load_profile_file

GOOD = """\
schema = 1
name = "inhouse"
title = "In-house"

[[role]]
name = "engine"
title_regex = "^inhouse"
anchor = true
probed = true

[batch]
open = "schedule"
settle = "settle"
key = true

[[hook]]
name = "schedule"
module = "inhouse.scheduler"
qualname = "Scheduler.schedule"
stage = "schedule"
[hook.exit]
key = "id(ret)"
tokens = "ret.tokens"

[[hook]]
name = "settle"
module = "inhouse.scheduler"
qualname = "Scheduler.settle"
stage = "post"
[hook.entry]
key = "id(batch)"
[[hook.event]]
at = "exit"
kind = "finish"
each = "((hash(r), -1, 0) for r in batch.done)"
"""


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "inhouse.toml"
    path.write_text(text)
    load_profile_file(path)


def test_the_profile_that_the_cases_are_made_from_is_good(tmp_path: Path) -> None:
    load(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("schema = 1\n", "schema = 2\n", 1, "`schema` is 2; `schema = 1` was expected"),
        ("schema = 1\n", "\n", 1, "`schema` is missing"),
        ('name = "inhouse"', 'name = "In House"', 2, "letters a-z, digits and - were expected"),
        ('title = "In-house"', "title = 3", 3, "`title` is an integer; a string was expected"),
        ('title = "In-house"\n', "\n", 1, "`title` is missing"),
        (
            'title = "In-house"',
            'title = "x"\ncolour = "red"',
            4,
            "`colour` is not known here; one of batch, confidence",
        ),
        ('title = "In-house"', 'title = "x', 3, "valid TOML was expected"),
        ('title_regex = "^inhouse"', 'title_regex = "("', 7, "no regular expression"),
        ('title_regex = "^inhouse"\n', "\n", 5, "role engine: nothing says how to recognise it"),
        ("anchor = true", 'anchor = "yes"', 8, "`anchor` is a string; true or false was expected"),
        (
            "probed = true",
            'probed = true\nchild_of = "front"',
            10,
            "`child_of` is 'front'; one of engine was expected",
        ),
        ("probed = true", 'probed = true\nrank_regex = "TP(1)"', 10, "fewer than two groups"),
        ("probed = true", "default_port = 70000", 9, "an integer from 0 to 65535 was expected"),
        ("probed = true", 'versions = "0.9 or newer"', 9, "a PEP 440 specifier such as >=0.9,<0.11"),
        ("[batch]", '[batch]\nrole = "worker"', 12, "`role` is 'worker'; one of engine was expected"),
        ('open = "schedule"', 'open = "step"', 12, "`open` names 'step'; a hook of role engine was expected"),
        ('open = "schedule"\n', "\n", 11, "`open` is missing"),
        ('key = "id(ret)"\n', "\n", 12, "hook schedule has no `key`"),
        (
            "key = true",
            'key = true\n[batch.modes]\nEXTEND = "pre"',
            16,
            "one of prefill, decode, mixed, idle",
        ),
        ('module = "inhouse.scheduler"', 'module = "in house"', 18, "a dotted Python name was expected"),
        (
            'stage = "schedule"',
            'stage = "scheduling"',
            20,
            'one of "", recv, schedule, prepare, launch, sample',
        ),
        ('stage = "schedule"', 'kind = "coroutine"', 20, "one of method, function, async_method"),
        ('stage = "schedule"', "priority = 0", 20, "an integer from 1 to 9 was expected"),
        ('stage = "schedule"', 'belongs = "batch"', 20, "one of enclosing, key, next, settle was expected"),
        (
            'stage = "schedule"',
            'role = "gpu"',
            20,
            "hook schedule: `role` is 'gpu'; one of engine was expected",
        ),
        ('stage = "schedule"', 'per_batch = "order"', 20, "`per_batch` is set in the batch's own role"),
        ('tokens = "ret.tokens"', 'token = "ret.tokens"', 23, "hook schedule: `token` is not known here"),
        ('tokens = "ret.tokens"', "tokens = 3", 23, "`tokens` is an integer; a string was expected"),
        (
            'tokens = "ret.tokens"',
            'tokens = "ret."',
            23,
            "hook schedule: `tokens`: 'ret.' is not a Python expression",
        ),
        ('tokens = "ret.tokens"', 'tokens = "ret.item()"', 23, "calling .item() is not allowed"),
        ("[hook.exit]", "[hook.entry]", 22, "`key` reads `ret` at entry; put it under [hook.exit]"),
        (
            'name = "settle"',
            'name = "schedule"',
            27,
            "the name 'schedule' is used twice for the same versions",
        ),
        ('kind = "finish"', 'kind = "end"', 34, "one of arrival, first_token, token, finish was expected"),
        ('at = "exit"\n', "\n", 32, "hook settle: `at` is missing"),
        ("batch.done)", "batch.done(1))", 35, "calling .done() is not allowed"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_what_was_expected(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if old == 'name = "settle"':
        text = text.replace('settle = "settle"', "").replace("open = ", "\nopen = ")
    with pytest.raises(UsageError) as refusal:
        load(tmp_path, text)
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path}/inhouse.toml:{line}: "), message
    assert says in message
    assert "\n" not in message
    assert refusal.value.exit_code == EXIT_USAGE


def test_too_many_values_are_refused_because_a_record_is_128_bytes(tmp_path: Path) -> None:
    names = [
        "active", "mode", "batch_size", "prefill_tokens", "decode_tokens", "context_tokens", "max_context",
        "cached_tokens", "running", "waiting",
    ]  # fmt: skip
    values = "\n".join(f'{name} = "1"' for name in names)
    with pytest.raises(UsageError, match="has 11 values; at most 10 besides `key` fit its record"):
        load(tmp_path, GOOD.replace('tokens = "ret.tokens"', f'tokens = "ret.tokens"\n{values}'))


def test_a_coroutines_record_has_room_for_one_value_less(tmp_path: Path) -> None:
    names = [
        "active", "mode", "batch_size", "prefill_tokens", "decode_tokens", "context_tokens", "max_context",
        "cached_tokens", "running",
    ]  # fmt: skip
    values = "\n".join(f'{name} = "1"' for name in names)
    text = GOOD.replace('tokens = "ret.tokens"', f'tokens = "ret.tokens"\n{values}')
    load(tmp_path, text)
    with pytest.raises(UsageError, match="has 10 values; at most 9"):
        load(tmp_path, text.replace('stage = "schedule"', 'kind = "async_method"'))


def test_more_than_two_events_are_refused(tmp_path: Path) -> None:
    event = '[[hook.event]]\nat = "exit"\nkind = "token"\neach = "()"\n'
    with pytest.raises(UsageError, match="has 3 events; at most 2 were expected"):
        load(tmp_path, GOOD + event + event)


def test_one_name_for_disjoint_versions_is_fine(tmp_path: Path) -> None:
    variant = '[[hook]]\nname = "recv"\nmodule = "m"\nqualname = "f"\nversions = "{}"\nstage = "recv"\n'
    load(tmp_path, GOOD + variant.format("<0.9") + variant.format(">=0.9,<0.12") + variant.format(">=0.12"))
    with pytest.raises(UsageError, match="used twice for the same versions"):
        load(tmp_path, GOOD + variant.format("<0.10") + variant.format(">=0.9"))


def test_a_key_inside_a_long_string_is_not_mistaken_for_the_line(tmp_path: Path) -> None:
    text = GOOD.replace('tokens = "ret.tokens"', 'tokens = """\nmode = 1\n"""\nmode = "open(1)"')
    text = text.replace('"""\nmode = 1\n"""', "'''\nmode == 1\n'''")
    with pytest.raises(UsageError) as refusal:
        load(tmp_path, text)
    assert ":26: hook schedule: `mode`" in str(refusal.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_profile_file(tmp_path / "none.toml")


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b'title = "\xff\xfe"')
    with pytest.raises(UsageError, match="byte 9 is not UTF-8"):
        load_profile_file(tmp_path / "x.toml")


def test_control_characters_of_a_file_do_not_reach_the_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        load(tmp_path, GOOD.replace('stage = "schedule"', 'stage = "\\u001b[31m"'))
    assert "\x1b" not in str(refusal.value)
