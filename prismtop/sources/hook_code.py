"""Writes the Python source of the hooks that the probe installs.

For each hook of a profile one builder function is generated. Called with a function it returns a wrapper
(attribute wrapping, `__code__` swap); called with None it returns the four callbacks of `sys.monitoring`
local events. The text is compiled outside the target, so that nothing is compiled on the engine's thread.

All names that the generated code adds begin with `_pt_`, so that they cannot meet a parameter of the hooked
function.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import indent

from prismtop.probe import agent
from prismtop.targets.profile import Event, Hook

EVENT_KINDS = {"arrival": 1, "first_token": 2, "finish": 3, "token": 4}
ASYNC = ("async_method", "async_function")
SLOTS = 10
SIZE_BITS = agent.RECORD.size.bit_length() - 1
FRACTION = 1_000_000
"""kv_usage travels as millionths."""


@dataclass(frozen=True)
class HookPlan:
    """A hook with its number in the ring and the slot of each of its values.

    Attributes:
        fid: hook number, 0 to 63.
        hook: the profile's hook.
        boundary: mailbox commands may run after it.
        slots: value name per slot; slot 0 is the batch key.
        per_request: values that iterate over requests, hence are estimates when a batch has more than
            `agent.CAP`.
        place: (file, line) of a function that no profile names; it is found by them and by `hook.qualname`.
        stands_in: mailbox commands run after it where no boundary comes.
    """

    fid: int
    hook: Hook
    boundary: bool
    slots: tuple[str, ...]
    per_request: frozenset[str] = field(default_factory=frozenset)
    place: tuple[str, int] | None = None
    stands_in: bool = False

    @property
    def looks(self) -> bool:
        """Whether mailbox and lease depend on it."""
        return self.boundary or self.stands_in

    @cached_property
    def values(self) -> tuple[tuple[str, int], ...]:
        """(value name, its index in a record) of what the hook reads, the key left out."""
        known = {*self.hook.entry, *self.hook.exit}
        return tuple((name, 5 + n) for n, name in enumerate(self.slots) if n and name in known)

    @cached_property
    def span_stage(self) -> str:
        """The stage whose time its calls are; empty: none, or a time that belongs to no batch."""
        return "" if self.hook.stage == "idle" else self.hook.stage

    @cached_property
    def suspends(self) -> bool:
        """Whether its calls may be suspended: for how long is in slot `SLOTS`."""
        return self.hook.kind in agent.KIND_SUSPENDS

    @cached_property
    def active_at(self) -> int | None:
        """Index in a record of what is 0 when the call had nothing to do; None when the hook does not say."""
        return dict(self.values).get("active")


def plan_hook(fid: int, hook: Hook, *, boundary: bool, stands_in: bool = False) -> HookPlan:
    """Assign the hook's values to slots: the key first, the others in the order of the profile."""
    values = {**hook.entry, **hook.exit}
    names = [name for name in values if name != "key"]
    room = SLOTS - 1 if hook.kind in agent.KIND_SUSPENDS else SLOTS
    slots = ("key", *names[:room])
    wide = frozenset(name for name in slots if name in values and values[name].per_request)
    return HookPlan(fid, hook, boundary, slots, wide, stands_in=stands_in)


def spec(plan: HookPlan) -> dict[str, object]:
    """The literal that tells the probe where the hook goes."""
    hook = plan.hook
    place = {"place": (plan.place[0], hook.qualname, plan.place[1])} if plan.place else {}
    return {
        **place,
        "fid": plan.fid,
        "module": hook.module,
        "qualname": hook.qualname,
        "kind": hook.kind,
        "binding": hook.binding,
        "names": sorted(_names(hook)),
        "values": _written(plan),
        "looks": plan.looks,
    }


def source(plans: Sequence[HookPlan], *, monitoring: bool = True) -> str:
    """Source text of all builders and of the table `BUILDERS`: {fid: (builder, trampoline code)}.

    Loops have none: their callbacks are the probe's own (`agent.Loop`).

    Args:
        monitoring: with the callbacks of `sys.monitoring`, half of the text; no Python before 3.12 has it.
    """
    written = _with_dummy(plans)
    builders = {_builder_name(plan): _builder(plan, monitoring) for plan in written}
    rows = ", ".join(
        f"{fid}: ({build}, {shape}.__code__)" for fid, (build, shape) in builder_names(plans).items()
    )
    return "\n\n".join([_TRAMPOLINES, *builders.values(), f"BUILDERS = {{{rows}}}\n"])


def builder_names(plans: Sequence[HookPlan]) -> dict[int, tuple[str, str]]:
    """Per hook number the functions of `source` that make its wrapper and the code that is swapped in."""
    shapes = {**dict.fromkeys(ASYNC, "_pt_shape_async"), "generator": "_pt_shape_generator"}
    return {
        plan.fid: (_builder_name(plan), shapes.get(plan.hook.kind, "_pt_shape"))
        for plan in _with_dummy(plans)
    }


def _with_dummy(plans: Sequence[HookPlan]) -> list[HookPlan]:
    """Those that have code of their own, and the one on which the probe measures itself."""
    nothing = Hook(name="dummy", roles=(), module="", qualname="", kind="function")
    return [
        *(plan for plan in plans if plan.hook.kind != "loop"),
        HookPlan(agent.DUMMY, nothing, False, ("key",)),
    ]


def _builder_name(plan: HookPlan) -> str:
    """Hooks that only time a call have one builder, hence one code object: what it takes to fetch that from
    memory after a forward pass is paid once a batch."""
    hook = plan.hook
    if hook.entry or hook.exit or hook.events or hook.kind in agent.KIND_SUSPENDS:
        return f"_pt_build_{plan.fid}"
    return "_pt_build_end" if plan.boundary else "_pt_build_open" if plan.stands_in else "_pt_build_plain"


_TRAMPOLINES = """
def _pt_shape(*_pt_a, **_pt_k):
    _pt_w = "\\0prismtop"
    return _pt_w(*_pt_a, **_pt_k)

async def _pt_shape_async(*_pt_a, **_pt_k):
    _pt_w = "\\0prismtop"
    return await _pt_w(*_pt_a, **_pt_k)

def _pt_shape_generator(*_pt_a, **_pt_k):
    _pt_w = "\\0prismtop"
    return (yield from _pt_w(*_pt_a, **_pt_k))
"""


def _names(hook: Hook) -> set[str]:
    """Parameters of the hooked function that its expressions use."""
    texts = [*hook.entry.values(), *hook.exit.values(), *(event.each for event in hook.events)]
    return {name for text in texts for name in text.names} - {"ret"}


def _written(plan: HookPlan) -> int:
    """Leading slots that the hook itself writes; the others are missing, as bytes made beforehand."""
    if plan.hook.kind in agent.KIND_SUSPENDS:
        return SLOTS + 1
    known = [n for n, name in enumerate(plan.slots) if name in plan.hook.entry or name in plan.hook.exit]
    return known[-1] + 1 if known else 0


def _converted(name: str) -> str:
    """From `_pt_x` to what fits into a slot."""
    if name == "mode":
        return 'int.from_bytes(_pt_x[:8].encode("ascii", "replace"), "little")'
    return f"int(_pt_x * {FRACTION})" if name == "kv_usage" else "int(_pt_x)"


def _careful(plan: HookPlan, slot: int, text: str, name: str) -> str:
    return (
        "try:\n"
        f"    _pt_x = {text}\n"
        f"    _pt_v{slot} = _pt_m if _pt_x is None else {_converted(name)}\n"
        "except Exception as _pt_e:\n"
        f"    _pt_v{slot} = _pt_ag.missing({plan.fid}, {name!r}, _pt_e)\n"
    )


def _direct(slot: int, text: str, name: str) -> str:
    if name not in ("mode", "kv_usage") and _makes_integer(ast.parse(text, mode="eval").body):
        return f"_pt_v{slot} = {text}\n"
    return f"_pt_x = {text}\n_pt_v{slot} = _pt_m if _pt_x is None else {_converted(name)}\n"


def _makes_integer(node: ast.expr) -> bool:
    """Whether a value needs no conversion: it is a new number, as a rule a whole one. Where it is not, the
    probe repairs the record (`agent.Agent.repair`)."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("len", "id", "hash", "int", "bool", "sum")
    if isinstance(node, ast.BinOp):
        return not isinstance(node.op, ast.Div)
    if isinstance(node, ast.IfExp):
        return _makes_integer(node.body) and _makes_integer(node.orelse)
    return isinstance(node, ast.Compare) or (isinstance(node, ast.Constant) and type(node.value) is int)


def _values(plan: HookPlan, at: str) -> str:
    """All values at once; each by itself only when one of them cannot be read: the less code runs, the less
    of it is fetched from memory."""
    expressions = plan.hook.entry if at == "entry" else plan.hook.exit
    wanted = [
        (slot, expressions[name].source, name) for slot, name in enumerate(plan.slots) if name in expressions
    ]
    text = ""
    if wanted:
        direct = "".join(_direct(*one) for one in wanted)
        careful = "".join(_careful(plan, *one) for one in wanted)
        text = f"try:\n{indent(direct, '    ')}except Exception:\n{indent(careful, '    ')}"
    if any(name in plan.per_request for _, _, name in wanted):
        text += f"if _pt_cuts:\n    _pt_cuts.clear()\n    _pt_word = {plan.fid | agent.FLAG_CAPPED << 16}\n"
    return text + "".join(_event(plan, event, at) for event in plan.hook.events if event.at == at)


def _event(plan: HookPlan, event: Event, at: str) -> str:
    now = "_pt_t1" if at == "exit" else "_pt_clk()"
    return (
        "try:\n"
        f"    _pt_x = {event.each.source}\n"
        "    if _pt_x is not _pt_empty:\n"
        f"        _pt_ag.event({plan.fid}, {EVENT_KINDS[event.kind]}, {now}, _pt_x)\n"
        "except Exception as _pt_e:\n"
        f"    _pt_ag.missing({plan.fid}, 'event {event.kind}', _pt_e)\n"
    )


def _record(plan: HookPlan) -> str:
    """Everything after the hooked call: exit values, the record, own cost, mailbox and lease."""
    hook = plan.hook
    known = {name for name in plan.slots if name in hook.entry or name in hook.exit}
    count = _written(plan)
    slots = [f"_pt_v{i}" if name in known else "_pt_m" for i, name in enumerate(plan.slots[:count])]
    slots += ["_pt_m"] * (count - len(slots))
    if hook.kind in agent.KIND_SUSPENDS:
        slots[SLOTS] = "_pt_suspended"
    elif count <= SLOTS:
        slots.append("_pt_missing")
    word = "_pt_word" if plan.per_request else "_pt_fid"
    record = f"_pt_t0, _pt_t1, {word}, _pt_ident() & 0xFFFFFFFF, {', '.join(slots)}"
    place = f"((_pt_n << {SIZE_BITS}) - {agent.RECORD.size} & _pt_mask) + {agent.HEADER_BYTES}"
    pack = f"_pt_pack(_pt_mm, {place}, _pt_n, {record}, _pt_n)\n"
    if known:
        pack = f"try:\n    {pack}except Exception:\n    _pt_ag.repair(_pt_n, ({record}))\n"
    before = " + _pt_before" if _names(hook) or hook.entry else ""
    put = f"_pt_n = _pt_count()\n{pack}if _pt_odd:\n    _pt_ag.spent(_pt_fid, _pt_clk() - _pt_t1{before})\n"
    if plan.stands_in:  # an idle loop opens batches all the time that are none
        put += "_pt_look(_pt_t1)\n"
    if "active" in plan.slots:
        put = f"if _pt_v{plan.slots.index('active')} != 0:\n" + indent(put, "    ")
    text = _values(plan, "exit") + put
    if plan.per_request and not any(name in plan.per_request for name in hook.entry):
        text = "_pt_word = _pt_fid\n" + text
    return text + ("_pt_look(_pt_t1)\n" if plan.boundary else "")


def _guarded(text: str) -> str:
    return (
        f"if not _pt_odd or _pt_ag.state == {agent.RUNNING}:\n"
        "    try:\n" + indent(text, "        ") + "    except Exception as _pt_e:\n"
        "        _pt_ag.fault(_pt_e)\n"
    )


def _builder(plan: HookPlan, monitoring: bool) -> str:
    hook = plan.hook
    names = sorted(_names(hook))
    suspends = hook.kind in agent.KIND_SUSPENDS
    body = _wrapper(plan, names, suspends) if hook.kind != "async_generator" else _NO_ASYNC_GENERATOR
    callbacks = "    if _pt_f is None:\n" + indent(_callbacks(plan, names, suspends), "        ")
    return (
        f"def {_builder_name(plan)}"
        "(_pt_f, _pt_at, _pt_fid, _pt_ag, _pt_pack, _pt_mm, _pt_count, _pt_mask, _pt_missing, "
        "_pt_odd, _pt_clk, _pt_ident):\n"
        "    _pt_m = MISSING\n"
        f"    _pt_look = _pt_ag.{'stand_in' if plan.stands_in else 'look'}\n"
        "    _pt_cuts = _pt_ag.cuts\n"
        "    _cap = _pt_ag.capped\n"
        "    _pt_empty = ()\n" + (callbacks if monitoring else "") + indent(body, "    ")
    )


_NO_ASYNC_GENERATOR = 'raise TypeError("async generators need sys.monitoring (Python 3.12)")\n'


def _entry(plan: HookPlan, binds: str) -> str:
    """Bind parameters and evaluate the entry values, before the clock starts; nothing of it can raise."""
    values = _values(plan, "entry")
    if not binds and not values:
        return ""
    preset = "".join(f"_pt_v{i} = " for i, name in enumerate(plan.slots) if name in plan.hook.entry)
    preset = preset and preset + "_pt_m\n"
    if any(name in plan.per_request for name in plan.hook.entry):
        preset += "_pt_word = _pt_fid\n"
    if values:
        values = f"if not _pt_odd or _pt_ag.state == {agent.RUNNING}:\n" + indent(values, "    ")
    return binds + preset + values


def _wrapper(plan: HookPlan, names: list[str], suspends: bool) -> str:
    binds = "".join(
        f"{name} = _pt_a[_pt_at[{i}]] if len(_pt_a) > _pt_at[{i}] else _pt_k.get({name!r})\n"
        for i, name in enumerate(names)
    )
    hook = plan.hook
    entry = _entry(plan, binds)
    before = "_pt_before = _pt_t0 - _pt_ta\n" if entry else ""
    if entry:
        entry = "_pt_ta = _pt_clk()\n" + entry
    call = "ret = _pt_f(*_pt_a, **_pt_k)\n"
    after = ""
    head = "def _pt_w(*_pt_a, **_pt_k):\n"
    if suspends:
        after = "_pt_suspended = _pt_t1 - _pt_t0 - _pt_d.busy\n"
        if hook.kind in ASYNC:
            head = "async " + head
            call = "_pt_d = Drive(_pt_f(*_pt_a, **_pt_k).__await__())\nret = await _pt_d\n"
        else:
            call = "_pt_d = Drive(_pt_f(*_pt_a, **_pt_k))\nret = yield from _pt_d\n"
    text = (
        entry
        + "_pt_t0 = _pt_clk()\n"
        + "try:\n"
        + indent(call, "    ")
        + "except BaseException:\n"
        + f"    if _pt_ag.state == {agent.RUNNING}:\n"
        + "        _pt_ag.raised(_pt_fid, _pt_t0, _pt_clk())\n"
        + "    raise\n"
        + "_pt_t1 = _pt_clk()\n"
        + after
        + before
        + _guarded(_record(plan))
        + "return ret\n"
    )
    return head + indent(text, "    ") + "return _pt_w\n"


def _callbacks(plan: HookPlan, names: list[str], suspends: bool) -> str:
    """The sys.monitoring callbacks. Frame 2 is the hooked one: 0 is this function, 1 the dispatcher in the
    probe.
    """
    needs_frame = bool(names) or suspends
    binds = ("_pt_l = _pt_fr.f_locals\n" if names else "") + "".join(f"{n} = _pt_l[{n!r}]\n" for n in names)
    entry = _entry(plan, binds)
    kept = [f"_pt_v{i}" for i, n in enumerate(plan.slots) if n in plan.hook.entry] + names
    kept += ["_pt_word"] if any(name in plan.per_request for name in plan.hook.entry) else []
    frame = "_pt_fr = _pt_getframe(2)\n" if needs_frame else ""
    at = "id(_pt_fr)" if suspends else "_pt_ident()"
    state = ", ".join(["_pt_t0", *(["_pt_t0 - _pt_ta"] if entry else []), *kept])
    names_back = ", ".join(["_pt_t0", *(["_pt_before"] if entry else []), *kept])
    clock = "[0, 0]" if suspends else ""
    careful = ""
    if entry:
        careful = "_pt_ta = _pt_clk()\ntry:\n" + indent(entry, "    ")
        careful += "except Exception as _pt_e:\n    _pt_ag.fault(_pt_e)\n    return\n"
    start = "def _pt_start():\n" + indent(
        frame
        + careful
        + ("if len(_pt_st) > 1024:\n    _pt_st.clear()\n" if suspends else "")
        + "_pt_t0 = _pt_clk()\n"
        + f"_pt_st[{at}] = (({state},), {clock or 'None'})\n",
        "    ",
    )
    end = "def _pt_return(ret):\n" + indent(
        "_pt_t1 = _pt_clk()\n"
        + ("_pt_fr = _pt_getframe(2)\n" if suspends else "")
        + f"_pt_x = _pt_st.pop({at}, None)\n"
        + "if _pt_x is None:\n    return\n"
        + f"({names_back},), _pt_z = _pt_x\n"
        + ("_pt_suspended = _pt_z[0]\n" if suspends else "")
        + _guarded(_record(plan)),
        "    ",
    )
    text = "_pt_st = {}\n_pt_getframe = sys._getframe\n" + start + end
    if not suspends:
        return text + "return _pt_start, _pt_return, None, None\n"
    return text + (
        "def _pt_pause():\n"
        "    _pt_x = _pt_st.get(id(_pt_getframe(2)))\n"
        "    if _pt_x is not None:\n"
        "        _pt_x[1][1] = _pt_clk()\n"
        "def _pt_resume():\n"
        "    _pt_x = _pt_st.get(id(_pt_getframe(2)))\n"
        "    if _pt_x is not None and _pt_x[1][1]:\n"
        "        _pt_x[1][0] += _pt_clk() - _pt_x[1][1]\n"
        "        _pt_x[1][1] = 0\n"
        "return _pt_start, _pt_return, _pt_pause, _pt_resume\n"
    )
