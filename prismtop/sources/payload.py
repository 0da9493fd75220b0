"""Builds the source text that an injection runs once in the target: the probe, its hooks and its
configuration.

Compiling the probe takes about 10 ms of pure interpreter time. That would be 10 ms on the engine's own
thread, so it is compiled outside whenever an interpreter of the target's minor version is at hand, and
travels as marshalled code.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prismtop.probe import agent
from prismtop.sources.hook_code import HookPlan, builder_names, source, spec

COMPILE_TIMEOUT_S = 5.0
CAPACITY = 16_384
_COMPILER = """
import importlib.util, marshal, sys
def compiled(text, hooks=None):
    code = compile(text, '<prismtop>', 'exec', dont_inherit=True)
    if hooks is None:
        return marshal.dumps(code)
    made = compile(hooks, '<prismtop>', 'exec', dont_inherit=True)
    parts = {c.co_name: marshal.dumps(c) for c in made.co_consts if hasattr(c, 'co_name')}
    return marshal.dumps((code, parts))
"""
"""Each hook is code of its own: the target unpacks those that it puts in, when it puts them in."""
_COMPILE_STDIN = (
    "sys.stdout.buffer.write(importlib.util.MAGIC_NUMBER + compiled(*sys.stdin.buffer.read().split(b'\\0')))"
)
_PORTABLE = 4  # marshal's format of Python 3.4 to 3.13, read by all later ones


@dataclass(frozen=True)
class Payload:
    """What is injected.

    Attributes:
        code: Python source that expects `__data__`; raises in the target only into the injection template.
        data: the probe, its hooks and its configuration: packed, or a text.
        compiled: False when the target has to compile the probe itself.
    """

    code: str
    data: bytes | str
    compiled: bool

    @property
    def body(self) -> str:
        """Both as one source."""
        return f"__data__ = {self.data!r}\n{self.code}"


def build(
    plans: Sequence[HookPlan],
    *,
    nonce: str,
    lease_s: float,
    mechanisms: Sequence[str],
    pid: int,
    python: tuple[int, ...] | None,
    compiled: bool = True,
) -> Payload:
    """Payload for one process.

    Args:
        nonce: names the probe's memory file `prismtop-<nonce>`.
        mechanisms: allowed ways of hooking, best first: `monitoring`, `setattr`, `code`.
        pid, python: the target and the version of its interpreter, to find a compiler for it.
        compiled: False forces the slow form (the interpreter found does not match the target's).
    """
    config: dict[str, object] = {
        "nonce": nonce,
        "capacity": CAPACITY,
        "lease_ns": int(lease_s * 1e9),
        "monitor": os.getpid(),
        "namespace": pid_namespace(),
        "mechanisms": list(mechanisms),
        "hooks": [spec(plan) for plan in plans],
        "order": [plan.fid for plan in sorted(plans, key=_order)],
        "first": sum(plan.boundary or plan.hook.priority <= 1 for plan in plans),
    }
    probe = Path(agent.__file__).read_text(encoding="utf-8")
    hooks = source(plans, monitoring=python is None or tuple(python[:2]) >= (3, 12))
    code = compile_for(probe, pid, python, hooks) if compiled else None
    if code is None:
        return Payload(_SLOW_STARTER % (config,), f"{probe}\n{hooks}", False)
    packed = marshal.dumps((code[1], config, builder_names(plans)), _PORTABLE)
    return Payload(_STARTER % (code[0],), packed, True)


def _order(plan: HookPlan) -> tuple[bool, int]:
    """What batches need goes in at once, the rest as time allows (`agent.SETUP_NS`)."""
    return not (plan.boundary or plan.hook.priority <= 1), plan.hook.priority


def pid_namespace() -> int:
    """Inode of this process's pid namespace, 0 when it cannot be read: pids mean something only within it."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def detach_body(nonce: str) -> str:
    """Source that takes the probe of that attach out of an idle target, where no hook would read the
    mailbox.
    """
    return (
        "import sys\n"
        f"_m = sys.modules.get({agent.MODULE!r})\n"
        f"if _m is not None and _m.AGENT.config['nonce'] == {nonce!r}:\n"
        f"    _m.AGENT.detach({agent.DETACHED})\n"
    )


_SLOW_STARTER = """_ns = {'__name__': '_prismtop_probe'}
exec(compile(__data__, '<prismtop>', 'exec'), _ns)
_ns['start'](%r, _ns['BUILDERS'])
"""
_STARTER = """import sys, marshal
if sys.modules['_frozen_importlib_external'].MAGIC_NUMBER != %r:
    raise RuntimeError('magic: compiled for another Python')
if type(__data__) is str:
    __data__ = __import__('binascii').a2b_base64(__data__)
_code, _config, _names = marshal.loads(__data__)
_code, _parts = marshal.loads(_code)
_ns = {'__name__': '_prismtop_probe'}
exec(_code, _ns)
_ns['start'](_config, {n: (_parts[b], _parts[s]) for n, (b, s) in _names.items()})
"""
"""Makes the probe from `__data__`: code for the Python of that magic number."""


@lru_cache(maxsize=16)
def compile_for(
    text: str, pid: int, python: tuple[int, ...] | None, hooks: str | None = None
) -> tuple[bytes, bytes] | None:
    """(magic number, marshalled code) of `text` for the target's interpreter, or None when none is at hand.

    With the source of `hooks` it is a pair: the code of `text`, and the functions of `hooks` by name, each
    marshalled by itself.

    Tried: this very interpreter, `pythonX.Y` on the path, and the target's own executable, the last only when
    it lives in our mount namespace, and run with no more rights than the target has.
    """
    texts = [text] if hooks is None else [text, hooks]
    if python is None or tuple(python[:2]) == sys.version_info[:2]:
        scope: dict[str, Any] = {}
        exec(_COMPILER, scope)
        return importlib.util.MAGIC_NUMBER, scope["compiled"](*texts)
    text = "\0".join(texts)
    minor = f"{python[0]}.{python[1]}"
    installed = shutil.which(f"python{minor}")
    if installed:
        made = _run_compiler([installed], text, minor, None)
        if made:
            return made
    try:
        here, there = os.stat("/"), os.stat(f"/proc/{pid}/root/.")
        owner = os.stat(f"/proc/{pid}")
        exe = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        return None
    return _run_compiler([exe], text, minor, owner)


def _run_compiler(
    command: list[str], text: str, minor: str, owner: os.stat_result | None
) -> tuple[bytes, bytes] | None:
    drop: dict[str, object] = {}
    if owner is not None and os.geteuid() == 0 and owner.st_uid != 0:
        drop = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    check = f"import sys;assert '%d.%d'%sys.version_info[:2]=={minor!r};"
    try:
        done = subprocess.run(
            [*command, "-I", "-S", "-c", check + _COMPILER + _COMPILE_STDIN],
            input=text.encode(),
            capture_output=True,
            timeout=COMPILE_TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            **drop,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode or len(done.stdout) < 16:
        return None
    return done.stdout[:4], done.stdout[4:]
