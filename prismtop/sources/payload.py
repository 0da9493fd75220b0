"""Builds the source text that an injection runs once in the target: the probe, its hooks and its
configuration.

Compiling the probe takes about 10 ms of pure interpreter time. That would be 10 ms on the engine's own
thread, so it is compiled outside whenever an interpreter of the target's minor version is at hand, and
travels as marshalled code.
"""

from __future__ import annotations

import importlib.util
import json
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

from prismtop.attach.ladder import Direct
from prismtop.attach.payload import FIRST, direct_template, safe_template, text_template
from prismtop.probe import agent, pieces
from prismtop.probe.program import program
from prismtop.sources.hook_code import HookPlan, builder_names, source, spec

COMPILE_TIMEOUT_S = 5.0
CAPACITY = 16_384


@dataclass(frozen=True)
class Payload:
    """What is injected.

    Attributes:
        data: the probe, its hooks and its configuration: packed; or a source.
        code: Python source that makes the probe of such a source, which it finds as `__data__`; empty when
            they are packed.
        first: packed code that starts from the packed data.
        magic: of the Python that it was compiled for; empty when the target has to compile it itself.
    """

    data: bytes | str
    code: str = ""
    first: bytes = b""
    magic: bytes = b""

    @property
    def compiled(self) -> bool:
        """Whether the target need not compile it."""
        return bool(self.magic)

    def as_text(self, nonce: str) -> str:
        """All of it as a template of text."""
        if isinstance(self.data, str):
            return safe_template(self.code, nonce, self.data)
        return text_template(nonce, self.magic, self.first, self.data)

    def direct(self, nonce: str) -> Direct | None:
        """It as a short template and bytes; None when there is only text. A text is scanned by the target,
        which takes 4 us per kilobyte on the engine's own thread.
        """
        if isinstance(self.data, str):
            return None
        template = direct_template(nonce, self.magic, len(self.first), len(self.data))
        return Direct(template, self.first + self.data)


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
        "first": sum(plan.looks or plan.hook.priority <= 1 for plan in plans),
    }
    probe = program("agent")
    hooks = source(plans, monitoring=python is None or tuple(python[:2]) >= (3, 12))
    code = compile_for(probe, pid, python, hooks) if compiled else None
    if code is None:
        return Payload(f"{probe}\n{hooks}", _STARTER % (config,))
    first, core, parts = marshal.loads(code[1])
    index, packed = {}, b""
    for name, part in parts.items():
        index[name] = (len(packed), len(part))
        packed += part
    # Places are counted from the end: what comes before them has a length that depends on them.
    index = {name: (at - len(packed), size) for name, (at, size) in index.items()}
    head = marshal.dumps((core, config, index, builder_names(plans)), pieces.PORTABLE)
    return Payload(head + packed, first=first, magic=code[0])


def _order(plan: HookPlan) -> tuple[bool, int]:
    """What batches need goes in at once, the rest as time allows (`agent.SETUP_NS`)."""
    return not (plan.looks or plan.hook.priority <= 1), plan.hook.priority


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
        f"if hasattr(_m, 'AGENT') and {_is_of(nonce)}:\n"
        f"    _m.AGENT.detach({agent.CALLED})\n"
    )


def _is_of(nonce: str) -> str:
    """Expression: whether the probe is of that attach.

    The text compared with is no identifier: CPython 3.12 keeps every constant that is one for ever.
    """
    return f"_m.AGENT.config['nonce'].join('<>') == '<{nonce}>'"


def finish_body(nonce: str) -> str:
    """Source that ends the window of the deep capture of that attach, when its time is over."""
    return (
        "import sys\n"
        f"_m = sys.modules.get({agent.MODULE!r})\n"
        f"if hasattr(_m, 'AGENT') and {_is_of(nonce)} and _m.AGENT.guest is not None:\n"
        f"    _m.AGENT.q[{agent.W_GUEST_CALLED}] += 1\n"
        "    _m.AGENT.guest.close_window()\n"
    )


_STARTER = """_ns = {'__name__': '_prismtop_probe'}
exec(compile(__data__, '<prismtop>', 'exec'), _ns)
_ns['start'](%r, _ns['BUILDERS'])
"""
"""Makes the probe from `__data__`, a source."""


@lru_cache(maxsize=16)
def compile_for(
    text: str, pid: int, python: tuple[int, ...] | None, hooks: str | None = None
) -> tuple[bytes, bytes] | None:
    """(magic number, marshalled code) of `text` for the target's interpreter, or None when none is at hand.

    With the source of `hooks`, `text` is the probe, and it is (the code that starts it, its core, the rest by
    name), each marshalled by itself.

    Tried: this very interpreter, `pythonX.Y` on the path, and the target's own executable, the last only when
    it lives in our mount namespace, and run with no more rights than the target has.
    """
    request = [text] if hooks is None else [FIRST, text, hooks, agent.LATER, agent.WHOLE]
    if python is None or tuple(python[:2]) == sys.version_info[:2]:
        return importlib.util.MAGIC_NUMBER, (pieces.compiled if hooks is None else pieces.in_pieces)(*request)
    minor = f"{python[0]}.{python[1]}"
    installed = shutil.which(f"python{minor}")
    if installed:
        made = _run_compiler([installed], request, minor, None)
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
    return _run_compiler([exe], request, minor, owner)


def _run_compiler(
    command: list[str], request: list[Any], minor: str, owner: os.stat_result | None
) -> tuple[bytes, bytes] | None:
    drop: dict[str, object] = {}
    if owner is not None and os.geteuid() == 0 and owner.st_uid != 0:
        drop = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [*command, "-I", "-S", "-c", Path(pieces.__file__).read_text(encoding="utf-8")],
            input=json.dumps([minor, *request]).encode(),
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
