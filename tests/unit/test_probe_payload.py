"""The text that an injection runs: complete, for the right Python, and one probe at a time."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import types
from dataclasses import replace
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from prismtop.attach.payload import ADDRESS
from prismtop.probe import agent
from prismtop.sources import payload
from prismtop.sources.hook_code import HookPlan, plan_hook
from prismtop.targets.profile import Hook

HERE = sys.version_info[:3]
TARGET = """
import sys, types
engine = types.ModuleType("engine"); sys.modules["engine"] = engine
exec("class Engine:\\n    def step(self): return 1\\n    def other(self): return 2", engine.__dict__)
"""


def plan(fid: int, name: str, *, boundary: bool = False, priority: int = 5) -> HookPlan:
    hook = Hook(name, ("e",), "engine", f"Engine.{name}", stage="launch", priority=priority)
    return plan_hook(fid, hook, boundary=boundary)


def build(*plans: HookPlan, compiled: bool = True) -> payload.Payload:
    return payload.build(
        plans or (plan(0, "step", boundary=True),),
        nonce="abc",
        lease_s=5.0,
        mechanisms=("setattr",),
        pid=os.getpid(),
        python=HERE,
        compiled=compiled,
    )


def run(*bodies: str, then: str = "") -> subprocess.CompletedProcess[str]:
    """Run the bodies in a fresh process that has an engine."""
    text = TARGET + "\n".join(f"exec({body!r}, {{}})" for body in bodies) + "\n" + then
    return subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, timeout=30)


HOOKED = "print(hasattr(engine.Engine.step, '__wrapped__'))"


def body(*plans: HookPlan) -> str:
    """Source of the form that the target compiles itself; raises."""
    made = build(*plans, compiled=False)
    return f"__data__ = {made.data!r}\n{made.code}"


def test_what_the_target_compiles_itself_hooks_the_engine() -> None:
    assert (build(compiled=False).compiled, run(body(), then=HOOKED).stdout) == (False, "True\n")


def compiled(
    then: str = HOOKED,
    magic: bytes = MAGIC_NUMBER,
    first: str = "",
    plans: tuple[HookPlan, ...] = (),
    *,
    as_text: bool,
) -> subprocess.CompletedProcess[str]:
    """Run a compiled form in a fresh process: one text, or short with its data somewhere in that memory."""
    made = replace(build(*plans), magic=magic)
    direct = made.direct("abc")
    assert direct is not None
    data, template = (b"", made.as_text("abc")) if as_text else (direct.data, direct.template)
    text = (
        f"import ctypes, os, time\n_at = ctypes.create_string_buffer({data!r})\n"
        "_before = set(globals())\n"
        f"exec({template!r}.replace({ADDRESS!r}, str(ctypes.addressof(_at))))\n"
        "while len(os.listdir('/proc/self/task')) > 1: time.sleep(0.001)\n"  # the thread that builds it ends
        "_left = set(globals()) - _before - {'_before', '_left'}\n"
        "_fds = {n: f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')}\n"
        "_fds = {n: os.readlink(path) for n, path in _fds.items() if os.path.lexists(path)}\n"
    )
    whole = [sys.executable, "-"]
    return subprocess.run(
        whole, input=TARGET + first + text + then, capture_output=True, text=True, timeout=30
    )


FORMS = pytest.mark.parametrize("as_text", [False, True], ids=["from its memory", "one text"])


@FORMS
def test_a_compiled_form_hooks_the_engine_and_leaves_no_name(as_text: bool) -> None:
    done = compiled(HOOKED + "; print(sorted(_left))", as_text=as_text)
    assert (done.stdout, done.stderr) == ("True\n[]\n", "")


@FORMS
def test_a_compiled_form_leaves_no_sign_of_its_start_behind(as_text: bool) -> None:
    then = "print({link[:20] for link in _fds.values() if 'prismtop' in link})"
    assert compiled(then, as_text=as_text).stdout == "{'/memfd:prismtop-abc '}\n"


@FORMS
def test_all_hooks_are_in_and_the_probe_has_measured_itself_before_a_batch_ends(as_text: bool) -> None:
    done = compiled(
        "agent = sys.modules['_prismtop_probe'].AGENT\n"
        "print([h.mechanism for h in agent.hooks.values()], agent.todo, agent.base > 0, agent.done)",
        plans=(plan(0, "step", boundary=True), plan(1, "other")),
        as_text=as_text,
    )
    assert done.stdout == "['setattr', 'setattr'] [] True 0\n"


@FORMS
def test_the_probe_is_built_by_a_thread_of_its_own(as_text: bool) -> None:
    seen = "import _thread\n_start = _thread.start_new_thread\nstarted = []\n"
    seen += "def _noted(f, *a): started.append(f.__name__); return _start(f, *a)\n"
    done = compiled("print(started)", first=seen + "_thread.start_new_thread = _noted\n", as_text=as_text)
    assert done.stdout == "['build']\n"


@FORMS
def test_a_compiled_form_builds_the_probe_at_once_where_no_thread_can_be_started(as_text: bool) -> None:
    refuse = "import _thread\ndef _no(*a): raise RuntimeError('none')\n_thread.start_new_thread = _no\n"
    assert compiled(first=refuse, as_text=as_text).stdout == "True\n"


@FORMS
def test_a_compiled_form_refuses_another_python_and_says_so(as_text: bool) -> None:
    then = (
        "fd = next(fd for fd, link in _fds.items() if 'prismtop-err-abc' in link)\n"
        "print(open(f'/proc/self/fd/{fd}').read().splitlines()[-1])"
    )
    keep = "import _thread\n_start = _thread.start_new_thread\n"  # the thread that closes it after 5 s
    keep += "_thread.start_new_thread = lambda f, a: None if f.__name__ == 'let_go' else _start(f, a)\n"
    done = compiled(then, b"\0\0\r\n", keep, as_text=as_text)
    assert done.stdout == "RuntimeError: magic: compiled for another Python\n"


def test_a_probe_that_is_being_built_is_not_joined_by_a_second_one() -> None:
    built = "import sys, types, time\nsys.modules['_prismtop_probe'] = types.ModuleType('_prismtop_probe')\n"
    built += "sys.modules['_prismtop_probe'].SINCE = time.monotonic_ns()"
    assert "busy: being entered by another prismtop" in run(built, body()).stderr


def test_a_probe_that_was_never_finished_is_in_nobodys_way() -> None:
    built = "import sys, types\nsys.modules['_prismtop_probe'] = types.ModuleType('_prismtop_probe')\n"
    built += "sys.modules['_prismtop_probe'].SINCE = -(1 << 60)"
    assert run(built, body(), then=HOOKED).stdout == "True\n"


def test_what_travels_in_pieces_is_there() -> None:
    names = {name for name, value in vars(agent).items() if isinstance(value, (type, types.FunctionType))}
    for name in (*agent.LATER, *agent.WHOLE):
        owner, _, method = name.rpartition(".")
        assert method in (vars(getattr(agent, owner)) if owner else names), name


def test_a_second_probe_is_refused_with_the_first_ones_monitor() -> None:
    assert f"busy: watched by another prismtop, pid {os.getpid()}" in run(body(), body()).stderr


def test_detaching_needs_the_nonce_of_the_attach() -> None:
    def after(nonce: str) -> str:
        return run(body(), payload.detach_body(nonce), then=HOOKED).stdout

    assert (after("abc"), after("other")) == ("False\n", "True\n")


def test_detaching_where_no_probe_is_does_nothing() -> None:
    assert run(payload.detach_body("abc")).stderr == ""


def test_what_batches_need_goes_in_first() -> None:
    plans = (
        plan(0, "step", priority=7),
        plan(1, "other", priority=2),
        plan(2, "last", priority=9, boundary=True),
    )
    assert "'order': [2, 1, 0], 'first': 1" in body(*plans)


def test_the_targets_own_interpreter_compiles_for_it() -> None:
    installed = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    other = next((p for p in installed if f"/3.{sys.version_info[1]}." not in str(p)), None)
    if other is None:
        pytest.skip("no other Python is installed")
    minor = int(other.parts[-3].split(".")[1])
    with subprocess.Popen([other, "-c", "input()"], stdin=subprocess.PIPE) as target:
        made = payload.compile_for("x = 1", target.pid, (3, minor, 0))
        target.communicate(b"\n")
    assert made is not None
    assert made[0] != MAGIC_NUMBER


def test_without_an_interpreter_at_hand_nothing_is_compiled() -> None:
    assert payload.compile_for("x = 1", os.getpid(), (3, 99, 0)) is None


def test_compiled_code_is_what_marshal_reads() -> None:
    made = payload.compile_for("x = 1", os.getpid(), HERE)
    assert made is not None
    scope: dict[str, int] = {}
    exec(marshal.loads(made[1]), scope)
    assert (made[0], scope["x"]) == (MAGIC_NUMBER, 1)


def test_a_pid_namespace_has_a_number() -> None:
    assert payload.pid_namespace() == os.stat("/proc/self/ns/pid").st_ino


def test_the_ring_has_room_for_the_power_of_two_that_it_must_have() -> None:
    assert payload.CAPACITY & (payload.CAPACITY - 1) == 0
    assert agent.HEADER_BYTES % agent.RECORD.size == 0
