"""Read one profile file (TOML), strictly: every mistake is named with file, line and what was expected."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from prismtop.errors import UsageError
from prismtop.model.batch import STAGES
from prismtop.safe_text import safe_text
from prismtop.targets.expressions import Expression, compile_expression
from prismtop.targets.profile import (
    BELONGS,
    BINDINGS,
    CONFIDENCES,
    EVENT_KINDS,
    KINDS,
    MAX_VALUES,
    MAX_VALUES_SUSPENDING,
    METRIC_FIELDS,
    SETTLES,
    VALUES,
    BatchRule,
    Event,
    Hook,
    MetricsRule,
    ModelRule,
    Profile,
    Role,
)
from prismtop.targets.toml_table import Lines, Table, Where, one_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_SUSPENDING = ("async_method", "async_function", "generator", "async_generator")
_MODES = ("prefill", "decode", "mixed", "idle")


def load_profile_file(path: Path | str, *, trusted: bool = False) -> Profile:
    """Read and check one profile.

    Args:
        trusted: the file came with the package, whose tests check it: expressions are compiled when they are
            first used, and what needs the `packaging` library is not checked again. Listing stays fast so.

    Raises:
        UsageError: `FILE:LINE: what is wrong; what was expected`, in one sentence.
    """
    path = Path(path)
    shown = safe_text(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{shown}:1: byte {error.start} is not UTF-8; a TOML file in UTF-8 was expected."
        ) from None
    except OSError as error:
        raise UsageError(f"{shown}: cannot be read ({error.strerror}).", fix="Check the path.") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        reason = safe_text(re.sub(r" \(at .*\)$", "", str(error)))
        number = line[1] if line else str(max(1, len(text.splitlines())))
        raise UsageError(f"{shown}:{number}: {reason}; valid TOML was expected.") from None
    lines = Lines(text)

    def fail(where: Where, problem: str, expected: str) -> NoReturn:
        owner = _owner(data, where)
        raise UsageError(f"{shown}:{lines.of(where)}: {owner}{problem}; {expected}.")

    def compiled(table: Table, key: str, source: str) -> Expression:
        where = (*table.path, key)
        return compile_expression(source, where=f"{shown}:{lines.of(where)}: {_owner(data, where)}`{key}`")

    profile = _profile(Table(data, (), fail, trusted), compiled, str(path))
    if not trusted:
        _check_names(Table(data, (), fail, trusted).tables("hook"), profile.hooks)
    return profile


def _owner(data: Mapping[str, Any], where: Where) -> str:
    if len(where) > 1 and where[0] in ("hook", "role") and isinstance(where[1], int):
        name = data[str(where[0])][where[1]].get("name")
        number = where[1] + 1
        return f"{where[0]} {safe_text(name, 40) if isinstance(name, str) else f'number {number}'}: "
    return ""


_Compile = Callable[[Table, str, str], Expression]


class _Lazy(Mapping[str, Expression]):
    """Expressions by value name, compiled on first use."""

    def __init__(self, texts: Mapping[str, str], make: Callable[[str, str], Expression]) -> None:
        self._texts = texts
        self._make = make
        self._made: dict[str, Expression] = {}

    def __getitem__(self, key: str) -> Expression:
        if key not in self._made:
            self._made[key] = self._make(key, self._texts[key])
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _profile(top: Table, compiled: _Compile, path: str) -> Profile:
    if top.integer("schema", 0, 0, 1 << 31) != 1:
        top.fail("schema", f"`schema` is {top.data.get('schema', 'missing')}", "`schema = 1` was expected")
    name = top.text("name", None)
    if not re.fullmatch(r"[a-z0-9-]+", name):
        top.fail("name", f"`name` is {safe_text(name, 40)!r}", "letters a-z, digits and - were expected")
    roles = tuple(_role(table) for table in top.tables("role"))
    if not roles:
        top.fail("", "there is no [[role]]", "at least one kind of process was expected")
    role_names = {role.name for role in roles}
    for table in top.tables("role"):
        if (parent := table.text("child_of")) and parent not in role_names:
            table.fail("child_of", f"`child_of` is {parent!r}", f"one of {one_of(role_names)} was expected")
    anchors = {role.name for role in roles if role.anchor}
    if len(anchors) > 1:
        top.fail("role", f"the roles {one_of(anchors)} all say `anchor = true`", "one anchor was expected")
    anchor = next(iter(anchors), "")
    batch = _batch(top.table("batch"), role_names, anchor) if "batch" in top.data else None
    hook_tables = top.tables("hook")
    hooks = tuple(_hook(table, roles, anchor, batch, compiled) for table in hook_tables)
    if batch is not None:
        _check_batch(top.table("batch"), batch, hooks)
    metrics = top.table("metrics")
    model = top.table("model")
    profile = Profile(
        name=name,
        title=top.text("title", None),
        distribution=top.texts("distribution"),
        verified=top.texts("verified"),
        confidence=top.choice("confidence", CONFIDENCES, "medium"),
        settles=top.choice("settles", SETTLES, "same_turn"),
        order=top.integer("order", 50, 0, 1000),
        note=top.text("note"),
        roles=roles,
        batch=batch,
        hooks=hooks,
        metrics=_metrics(metrics),
        model=ModelRule(options=model.texts("options"), after=model.texts("after")),
        path=path,
    )
    model.end()
    top.table("batch")
    top.end()
    return profile


def _role(table: Table) -> Role:
    role = Role(
        name=table.text("name", None),
        title_regex=table.regex("title_regex"),
        cmdline_regex=table.regex("cmdline_regex"),
        maps_regex=table.regex("maps_regex"),
        comm_regex=table.regex("comm_regex"),
        child_of=table.text("child_of"),
        versions=table.specifier("versions"),
        probed=table.flag("probed"),
        anchor=table.flag("anchor"),
        listens=table.flag("listens"),
        default_port=table.integer("default_port", 0, 0, 65535),
        rank_regex=table.regex("rank_regex"),
        rank_env=table.text("rank_env"),
        note=table.text("note"),
    )
    if not (role.title_regex or role.cmdline_regex or role.maps_regex or role.comm_regex or role.child_of):
        table.fail("", "nothing says how to recognise it", "title_regex or cmdline_regex was expected")
    if role.rank_regex and not table.trusted and re.compile(role.rank_regex).groups < 2:
        table.fail("rank_regex", "`rank_regex` has fewer than two groups", "(KIND)(NUMBER) was expected")
    table.end()
    return role


def _batch(table: Table, roles: set[str], anchor: str) -> BatchRule:
    modes = table.table("modes")
    rule = BatchRule(
        role=table.choice("role", sorted(roles), anchor or None),
        open=table.texts("open", None),
        launch=table.texts("launch"),
        settle=table.texts("settle"),
        key=table.flag("key"),
        modes=MappingProxyType({name: modes.choice(name, _MODES, None) for name in modes.data}),
    )
    table.end()
    return rule


def _hook(
    table: Table, roles: tuple[Role, ...], anchor: str, batch: BatchRule | None, compiled: _Compile
) -> Hook:
    known = {role.name for role in roles}
    default_role = (batch.role if batch else anchor) or ""
    names = table.texts("role", (default_role,) if default_role else None)
    for name in names:
        if name not in known:
            table.fail("role", f"`role` is {safe_text(name, 40)!r}", f"one of {one_of(known)} was expected")
    name = table.text("name", None)
    kind = table.choice("kind", KINDS, "method")
    per_batch = table.choice("per_batch", ("", "order"), "")
    if per_batch and batch is not None and set(names) == {batch.role}:
        table.fail("per_batch", "`per_batch` is set in the batch's own role", "leave it out here")
    default_boundary = batch is not None and name in (batch.settle or batch.open)
    hook = Hook(
        name=name,
        roles=names,
        module=table.dotted("module"),
        qualname=table.dotted("qualname"),
        kind=kind,
        stage=table.choice("stage", ("", *STAGES), ""),
        binding=table.choice("binding", BINDINGS, "dynamic"),
        versions=table.specifier("versions"),
        priority=table.integer("priority", 5, 1, 9),
        belongs=table.choice("belongs", BELONGS, "enclosing"),
        boundary=table.flag("boundary") if "boundary" in table.data else default_boundary,
        per_batch=per_batch,
        entry=_values(table.table("entry"), compiled),
        exit=_values(table.table("exit"), compiled),
        events=tuple(_event(event, compiled) for event in table.tables("event")),
        note=table.text("note"),
    )
    values = [value for value in (*hook.entry, *hook.exit) if value != "key"]
    limit = MAX_VALUES_SUSPENDING if kind in _SUSPENDING else MAX_VALUES
    if len(values) > limit:
        table.fail("", f"it has {len(values)} values", f"at most {limit} besides `key` fit its record")
    if twice := set(hook.entry) & set(hook.exit):
        table.fail("exit", f"{one_of(twice)} is in both entry and exit", "each value once was expected")
    if len(hook.events) > 2:
        table.fail("", f"it has {len(hook.events)} events", "at most 2 were expected")
    table.end()
    return hook


def _values(table: Table, compiled: _Compile) -> Mapping[str, Expression]:
    table.end(VALUES)
    if table.trusted:
        return _Lazy(
            {key: table.text(key) for key in table.data}, lambda key, text: compiled(table, key, text)
        )
    found = {key: compiled(table, key, table.text(key)) for key in table.data}
    if table.path[-1] == "entry":
        _no_result(table, found)
    return MappingProxyType(found)


def _no_result(table: Table, found: Mapping[str, Expression]) -> None:
    for key, expression in found.items():
        if "ret" in expression.names:
            table.fail(key, f"`{key}` reads `ret` at entry", "put it under [hook.exit]")


def _event(table: Table, compiled: _Compile) -> Event:
    event = Event(
        at=table.choice("at", ("entry", "exit"), None),
        kind=table.choice("kind", EVENT_KINDS, None),
        each=compiled(table, "each", table.text("each", None)),
    )
    if event.at == "entry":
        _no_result(table, {"each": event.each})
    table.end()
    return event


def _metrics(table: Table) -> MetricsRule:
    rule = MetricsRule(
        endpoint=table.text("endpoint"),
        enabled_by=table.text("enabled_by"),
        batch_count=table.text("batch_count"),
        names=table.table("names").strings(METRIC_FIELDS),
    )
    table.end()
    return rule


def _check_names(tables: list[Table], hooks: tuple[Hook, ...]) -> None:
    by_name: dict[str, list[int]] = {}
    for index, hook in enumerate(hooks):
        by_name.setdefault(hook.name, []).append(index)
    for indices in by_name.values():
        for position, first in enumerate(indices):
            for second in indices[position + 1 :]:
                if _overlap(hooks[first].versions, hooks[second].versions):
                    tables[second].fail(
                        "name",
                        f"the name {safe_text(hooks[second].name, 40)!r} is used twice for the same versions",
                        "a unique name or disjoint `versions` were expected",
                    )


def _overlap(first: str, second: str) -> bool:
    """Whether some version satisfies both specifiers, tried at and around every bound they name."""
    if not first or not second:
        return True
    from packaging.specifiers import SpecifierSet

    sets = (SpecifierSet(first), SpecifierSet(second))
    bounds = [spec.version.removesuffix(".*") for group in sets for spec in group]
    candidates = ["0", "99999", *bounds, *(f"{bound}.1" for bound in bounds)]
    return any(all(group.contains(version, prereleases=True) for group in sets) for version in candidates)


def _check_batch(table: Table, batch: BatchRule, hooks: tuple[Hook, ...]) -> None:
    names = {hook.name for hook in hooks if batch.role in hook.roles}
    for key, used in (("open", batch.open), ("launch", batch.launch), ("settle", batch.settle)):
        for name in used:
            if name not in names:
                table.fail(
                    key, f"`{key}` names {safe_text(name, 40)!r}", f"a hook of role {batch.role} was expected"
                )
            for hook in hooks:
                if batch.key and hook.name == name and "key" not in {*hook.entry, *hook.exit}:
                    table.fail(key, f"hook {name} has no `key`", "a `key` was expected, or `key = false`")
