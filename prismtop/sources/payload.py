"""Builds the source text that an injection runs once in the target: the probe, its hooks and its
configuration.

Compiling the probe takes about 10 ms of pure interpreter time. That would be 10 ms on the engine's own
thread, so it is compiled outside whenever an interpreter of the target's minor version is at hand, and
travels as marshalled code.
"""

from __future__ import annotations

import base64
import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from prismtop.probe import agent
from prismtop.sources.hook_code import HookPlan, source, spec

COMPILE_TIMEOUT_S = 5.0
CAPACITY = 16_384
_COMPILER = (
    "import sys,marshal,importlib.util as u;"
    "c=compile(sys.stdin.buffer.read(),'<prismtop>','exec');"
    "sys.stdout.buffer.write(u.MAGIC_NUMBER+marshal.dumps(c))"
)


@dataclass(frozen=True)
class Payload:
    """What is injected.

    Attributes:
        code: Python source that expects `__data__`; raises in the target only into the injection template.
        data: the probe, as packed code or as source.
        compiled: False when the target has to compile the probe itself.
    """

    code: str
    data: str
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
    hooks = source(plans, monitoring=python is None or tuple(python[:2]) >= (3, 12))
    text = Path(agent.__file__).read_text(encoding="utf-8") + "\n" + hooks
    code = compile_for(text, pid, python) if compiled else None
    packed = text if code is None else base64.b64encode(code[1]).decode()
    return Payload(_starter(code[0] if code else None, config), packed, code is not None)


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


def _starter(magic: bytes | None, config: Mapping[str, object]) -> str:
    """Source that makes the probe from `__data__`: code for the Python of that magic, or source."""
    start = f"_ns['start']({config!r}, _ns['BUILDERS'])\n"
    names = "_ns = {'__name__': '_prismtop_probe'}\n"
    if magic is None:
        return f"{names}exec(compile(__data__, '<prismtop>', 'exec'), _ns)\n{start}"
    return (
        "import sys, marshal, binascii\n"
        f"if sys.modules['_frozen_importlib_external'].MAGIC_NUMBER != {magic!r}:\n"
        "    raise RuntimeError('magic: compiled for another Python')\n"
        f"{names}exec(marshal.loads(binascii.a2b_base64(__data__)), _ns)\n{start}"
    )


@lru_cache(maxsize=16)
def compile_for(text: str, pid: int, python: tuple[int, ...] | None) -> tuple[bytes, bytes] | None:
    """(magic number, marshalled code) of `text` for the target's interpreter, or None when none is at hand.

    Tried: this very interpreter, `pythonX.Y` on the path, and the target's own executable, the last only when
    it lives in our mount namespace, and run with no more rights than the target has.
    """
    if python is None or tuple(python[:2]) == sys.version_info[:2]:
        return importlib.util.MAGIC_NUMBER, marshal.dumps(compile(text, "<prismtop>", "exec"))
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
            [*command, "-I", "-S", "-c", check + _COMPILER],
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
