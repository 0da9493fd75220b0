"""Writes the Python source of the hooks that the probe installs.

For each hook of a profile one builder function is generated. Called with a function it returns a wrapper
(attribute wrapping, `__code__` swap); called with None it returns the four callbacks of `sys.monitoring`
local events. The text is compiled outside the target, so that nothing is compiled on the engine's thread.

All names that the generated code adds begin with `_pt_`, so that they cannot meet a parameter of the hooked
function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import indent

from prismtop.probe import agent
from prismtop.targets.profile import Event, Hook

EVENT_KINDS = {"arrival": 1, "first_token": 2, "finish": 3, "token": 4}
ASYNC = ("async_method", "async_function")
SLOTS = 10
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
    """

    fid: int
    hook: Hook
    boundary: bool
    slots: tuple[str, ...]
    per_request: frozenset[str] = field(default_factory=frozenset)
    place: tuple[str, int] | None = None

    @cached_property
    def values(self) -> tuple[tuple[str, int], ...]:
        """(value name, its index in a record) of what the hook reads, the key left out."""
        known = {*self.hook.entry, *self.hook.exit}
        return tuple((name, 5 + n) for n, name in enumerate(self.slots) if n and name in known)


def plan_hook(fid: int, hook: Hook, *, boundary: bool) -> HookPlan:
    """Assign the hook's values to slots: the key first, the others in the order of the profile."""
    values = {**hook.entry, **hook.exit}
    names = [name for name in values if name != "key"]
    room = SLOTS - 1 if hook.kind in agent.KIND_SUSPENDS else SLOTS
    slots = ("key", *names[:room])
    wide = frozenset(name for name in slots if name in values and values[name].per_request)
    return HookPlan(fid, hook, boundary, slots, wide)


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
    }


def source(plans: Sequence[HookPlan], *, monitoring: bool = True) -> str:
    """Source text of all builders and of the table `BUILDERS`: {fid: (builder, trampoline code)}.

    Loops have none: their callbacks are the probe's own (`agent.Loop`).

    Args:
        monitoring: with the callbacks of `sys.monitoring`, half of the text; no Python before 3.12 has it.
    """
    plans = [plan for plan in plans if plan.hook.kind != "loop"]
    nothing = Hook(name="dummy", roles=(), module="", qualname="", kind="function")
    dummy = HookPlan(agent.DUMMY, nothing, False, ("key",))
    parts = [_builder(plan, monitoring) for plan in (*plans, dummy)]
    shapes = {**dict.fromkeys(ASYNC, "_pt_shape_async"), "generator": "_pt_shape_generator"}
    rows = ", ".join(
        f"{plan.fid}: (_pt_build_{plan.fid}, {shapes.get(plan.hook.kind, '_pt_shape')}.__code__)"
        for plan in (*plans, dummy)
    )
    return "\n\n".join([_TRAMPOLINES, *parts, f"BUILDERS = {{{rows}}}\n"])


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


def _value(plan: HookPlan, slot: int, text: str, name: str) -> str:
    convert = "int(_pt_x)"
    if name == "mode":
        convert = 'int.from_bytes(_pt_x[:8].encode("ascii", "replace"), "little")'
    elif name == "kv_usage":
        convert = f"int(_pt_x * {FRACTION})"
    return (
        "try:\n"
        f"    _pt_x = {text}\n"
        f"    _pt_v{slot} = _pt_m if _pt_x is None else {convert}\n"
        "except Exception as _pt_e:\n"
        f"    _pt_v{slot} = _pt_ag.missing({plan.fid}, {name!r}, _pt_e)\n"
    )


def _values(plan: HookPlan, at: str) -> str:
    expressions = plan.hook.entry if at == "entry" else plan.hook.exit
    lines = [
        _value(plan, slot, expressions[name].source, name)
        for slot, name in enumerate(plan.slots)
        if name in expressions
    ]
    lines += [_event(plan, event, at) for event in plan.hook.events if event.at == at]
    return "".join(lines)


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
    """Everything after the hooked call: exit values, the record, mailbox and lease, sampled own cost."""
    hook = plan.hook
    known = {name for name in plan.slots if name in hook.entry or name in hook.exit}
    slots = [f"_pt_v{i}" if name in known else "_pt_m" for i, name in enumerate(plan.slots)]
    slots += ["_pt_m"] * (SLOTS + 1 - len(slots))
    if hook.kind in agent.KIND_SUSPENDS:
        slots[SLOTS] = "_pt_suspended"
    word = str(plan.fid)
    head = ""
    if plan.per_request:
        head = "_pt_cut = _pt_ag.cut\n"
        word = f"{plan.fid} if _pt_ag.cut == _pt_cut else {plan.fid | agent.FLAG_CAPPED << 16}"
    put = f"_pt_put((_pt_t0, _pt_t1, {word}, _pt_ident() & 0xFFFFFFFF, {', '.join(slots)}))\n"
    sampled = "_pt_clk() - _pt_t1 + _pt_before" if _names(hook) or hook.entry else "_pt_clk() - _pt_t1"
    every = 1 if plan.fid == agent.DUMMY else agent.SAMPLE
    put += f"if not _pt_count() % {every}:\n    _pt_ag.spent({plan.fid}, {sampled})\n"
    if not plan.boundary:
        put += f"if len(_pt_waiting) > {agent.BACKLOG}:\n    _pt_ag.flush()\n"
    if "active" in plan.slots:
        put = f"if _pt_v{plan.slots.index('active')} != 0:\n" + indent(put, "    ")
    text = head + _values(plan, "exit") + put
    if plan.boundary:
        text += (
            "if _pt_waiting:\n    _pt_ag.flush()\n"
            f"if _pt_q[{agent.W_COMMAND}] != _pt_ag.done or "
            f"_pt_t1 - _pt_q[{agent.W_HEARTBEAT}] > _pt_lease:\n"
            "    _pt_ag.service(_pt_t1)\n"
        )
    return text


def _guarded(text: str) -> str:
    return (
        f"if _pt_ag.state == {agent.RUNNING}:\n"
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
        f"def _pt_build_{plan.fid}"
        "(_pt_f, _pt_at, _pt_ag, _pt_count, _pt_put, _pt_waiting, _pt_q, _pt_clk, _pt_ident):\n"
        "    _pt_m = MISSING\n"
        "    _pt_lease = _pt_ag.lease\n"
        "    _cap = _pt_ag.capped\n"
        "    _pt_empty = ()\n" + (callbacks if monitoring else "") + indent(body, "    ")
    )


_NO_ASYNC_GENERATOR = 'raise TypeError("async generators need sys.monitoring (Python 3.12)")\n'


def _entry(plan: HookPlan, binds: str) -> str:
    """Bind parameters and evaluate the entry values, before the clock starts; nothing of it can raise."""
    values = _values(plan, "entry")
    if not binds and not values:
        return ""
    preset = "".join(f"_pt_v{i} = _pt_m\n" for i, name in enumerate(plan.slots) if name in plan.hook.entry)
    if values:
        values = f"if _pt_ag.state == {agent.RUNNING}:\n" + indent(values, "    ")
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
        + f"        _pt_ag.raised({plan.fid}, _pt_t0, _pt_clk())\n"
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
