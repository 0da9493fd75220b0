"""Find the few instructions, already present in the target's C library, that remote calls return through.

Nothing executable is written or mapped into the target; these are addresses of its own code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prismtop.attach.errors import AttachError, UnsupportedTargetError
from prismtop.attach.image import openable_path
from prismtop.attach.memory import read
from prismtop.attach.process import Mapping

_LIBC = re.compile(r"/(libc\.so\.6|libc-2\.\d+\.so|libpthread[.-][^/]*)$")
_SYSCALL_RET = b"\x0f\x05\xc3"
_POP_RDI_RET = b"\x5f\xc3"
# __restore_rt: mov $15, %rax; syscall (sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c). Debuggers know it by
# these bytes, so glibc keeps them.
_SIGRETURN = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"


@dataclass(frozen=True)
class Gadgets:
    """Addresses in the target.

    Attributes:
        syscall_ret: `syscall; ret`.
        pop_rdi_ret: `pop %rdi; ret`.
        sigreturn: `mov $15, %rax; syscall`, that is rt_sigreturn(2).
    """

    syscall_ret: int
    pop_rdi_ret: int
    sigreturn: int


def find_gadgets(pid: int, maps: list[Mapping]) -> Gadgets:
    """Search the target's C library.

    Raises:
        UnsupportedTargetError: no glibc, or one without these instructions.
    """
    found: dict[bytes, int] = {}
    wanted = (_SYSCALL_RET, _POP_RDI_RET, _SIGRETURN)
    for mapping in maps:
        if "x" not in mapping.perms or not _LIBC.search(mapping.path):
            continue
        with open(openable_path(pid, mapping), "rb") as f:
            f.seek(mapping.offset)
            text = f.read(mapping.end - mapping.start)
        for code in wanted:
            if code not in found:
                address = _search(pid, mapping.start, text, code)
                if address is not None:
                    found[code] = address
    if len(found) < len(wanted):
        raise UnsupportedTargetError(
            f"The C library of process {pid} is not a glibc that prismtop knows how to use.",
            fix="Use Python 3.14 or newer in the target, which needs nothing of the C library.",
        )
    return Gadgets(found[_SYSCALL_RET], found[_POP_RDI_RET], found[_SIGRETURN])


def _search(pid: int, base: int, text: bytes, code: bytes) -> int | None:
    """First occurrence whose bytes in memory equal those in the file (a uprobe may have replaced them)."""
    at = text.find(code)
    while at >= 0:
        try:
            if read(pid, base + at, len(code)) == code:
                return base + at
        except AttachError:
            return None
        at = text.find(code, at + 1)
    return None
