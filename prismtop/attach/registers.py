"""Register sets of an x86_64 thread, and the stack frame that puts them back by itself.

Why the frame: a thread that runs something for us has foreign registers for some 50 microseconds. If the
helper is killed (SIGKILL, OOM) just then, the kernel detaches it and the thread goes on with them. So
everything that a thread runs for us returns into an rt_sigreturn frame that holds its own registers, vector
state and signal mask: with or without us, it ends where it was. Layout:
arch/x86/include/uapi/asm/sigcontext.h and arch/x86/kernel/signal_64.c (struct rt_sigframe,
restore_sigcontext), arch/x86/kernel/fpu/signal.c.
"""

from __future__ import annotations

import ctypes
import errno
import operator
import signal
import struct
from dataclasses import dataclass
from functools import cache

from prismtop.attach.gadgets import Gadgets

MASK64 = (1 << 64) - 1
_NAMES = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip
_AT = {name: 8 * i for i, name in enumerate(_NAMES)}
_WORD, _SIGNED, _ALL = struct.Struct("<Q"), struct.Struct("<q"), struct.Struct(f"<{len(_NAMES)}Q")
NO_SYSCALL = MASK64  # orig_rax of a thread that is not inside a system call
_DIRECTION_AND_TRAP = 0x400 | 0x100
# include/linux/errno.h: what the kernel keeps in rax while it decides whether to restart a call.
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516
_SYS_RESTART_SYSCALL = 219
_RESTARTABLE = (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND)

_RED_ZONE = 128  # System V ABI: bytes below rsp that belong to the current function
_FXSAVE_SW = 464  # offset of struct _fpx_sw_bytes in the FXSAVE area
_MAGIC1, _MAGIC2 = 0x46505853, 0x46505845
_XSTATE_BV = 512  # offset of the XSAVE header's word of components in use
_MIN_XSTATE = 576
_NO_RESERVED, _NO_PADDING = (0,) * 8, (0,) * 7
_XFEATURE_XTILE_DATA = 18  # arch/x86/include/asm/fpu/types.h: the first component given on demand only
_UC_FLAGS = 0x1 | 0x2 | 0x4  # UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
# Any value that is no SS_ mode: do_sigaltstack() then answers EINVAL, which rt_sigreturn ignores, and the
# thread keeps the alternate stack that it has.
_KEEP_ALTSTACK = 7
CALL_DEPTH = 4096  # stack that the called function may use below its frame


class Regs:
    """struct user_regs_struct, arch/x86/include/asm/user_64.h; attribute `buffer` is what ptrace fills."""

    def __init__(self, content: bytes = bytes(8 * len(_AT))) -> None:
        self.buffer = ctypes.create_string_buffer(content, 8 * len(_AT))

    def copy(self) -> Regs:
        return Regs(self.buffer.raw)

    def put(self, **values: int) -> Regs:
        for name, value in values.items():
            _WORD.pack_into(self.buffer, _AT[name], value & MASK64)
        return self

    def get(self, name: str) -> int:
        return int(_WORD.unpack_from(self.buffer, _AT[name])[0])

    def signed(self, name: str) -> int:
        return int(_SIGNED.unpack_from(self.buffer, _AT[name])[0])


def restarted(regs: Regs) -> Regs:
    """The registers with which an interrupted system call is entered again, from a system call entry stop.

    What the kernel itself would do on the way back to user space (arch/x86/kernel/signal.c,
    arch_do_signal_or_restart): restart_syscall(2) for a timed wait, else the same call again.
    """
    block = -regs.signed("rax") == ERESTART_RESTARTBLOCK
    return regs.copy().put(orig_rax=_SYS_RESTART_SYSCALL) if block else regs


def in_blocking_syscall(regs: Regs) -> bool:
    """Whether the stop interrupted a system call that the kernel will restart unseen."""
    return regs.signed("orig_rax") >= 0 and -regs.signed("rax") in (*_RESTARTABLE, ERESTART_RESTARTBLOCK)


def foreign(saved: Regs, **values: int) -> Regs:
    """The thread's own registers with the given values, as of a thread that is not inside a system call."""
    regs = Regs(saved.buffer.raw)
    buffer, pack = regs.buffer, _WORD.pack_into
    pack(buffer, _AT["orig_rax"], NO_SYSCALL)
    pack(buffer, _AT["eflags"], saved.get("eflags") & ~_DIRECTION_AND_TRAP)
    for name, value in values.items():
        pack(buffer, _AT[name], value & MASK64)
    return regs


@dataclass(frozen=True)
class ReturnFrame:
    """What to write on the thread's stack.

    Attributes:
        parts: (address, bytes), lowest first.
        call_sp: stack pointer with which to enter a function. It returns through `pop %rdi` (-1) into
            `syscall`, where the tracer reads its result from orig_rax, and from there into rt_sigreturn.
        syscall_sp: stack pointer with which to enter `syscall; ret`.
        lowest: the lowest address that will be touched.
    """

    parts: tuple[tuple[int, bytes], ...]
    call_sp: int
    syscall_sp: int
    lowest: int


def _resumed(regs: Regs) -> tuple[int, int]:
    """(rip, rax) with which the thread goes on as if it had never been stopped, without the kernel's help.

    rt_sigreturn forgets the restart block, so a timed wait that was interrupted ends with EINTR: the one
    trace that a killed helper leaves.
    """
    rip, rax = regs.get("rip"), regs.get("rax")
    if in_blocking_syscall(regs):
        if -regs.signed("rax") in _RESTARTABLE:
            return rip - 2, regs.get("orig_rax")  # `syscall` is two bytes long: enter it again
        return rip, (-errno.EINTR) & MASK64
    return rip, rax


_CONTEXT = struct.Struct("<4Q 5Q 18Q 4H 4Q Q 8Q Q")
_IN_FRAME = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx")
_in_frame = operator.itemgetter(*(_NAMES.index(name) for name in _IN_FRAME))
_RSP, _RCX, _EFLAGS, _CS, _SS = (_NAMES.index(n) for n in ("rsp", "rcx", "eflags", "cs", "ss"))
_SOFTWARE = struct.Struct("<IIQI7I")


def return_frame(regs: Regs, sigmask: int, xstate: bytes, gadgets: Gadgets) -> ReturnFrame:
    """Build the frame for a stopped thread.

    Args:
        regs: its registers at the stop.
        sigmask: its blocked signals.
        xstate: NT_X86_XSTATE register set, standard (non-compacted) XSAVE format.
    """
    length = len(xstate)
    plain = min(plain_xstate_size() or length, length)
    if _WORD.unpack_from(xstate, _XSTATE_BV)[0] >> _XFEATURE_XTILE_DATA:
        plain = length
    own = _ALL.unpack(regs.buffer)
    rsp = own[_RSP]
    fpu_at = (rsp - _RED_ZONE - length - 4) & ~63
    frame_at = (fpu_at - _CONTEXT.size) & ~15
    call_sp = frame_at - 24
    rip, rax = _resumed(regs)
    data = bytearray(fpu_at - call_sp + plain + 4)
    _CONTEXT.pack_into(
        data, 0,
        gadgets.pop_rdi_ret, MASK64, gadgets.syscall_ret, gadgets.sigreturn,
        _UC_FLAGS, 0, 0, _KEEP_ALTSTACK, 0,
        *_in_frame(own), rax, own[_RCX], rsp, rip, own[_EFLAGS],
        own[_CS], 0, 0, own[_SS],
        0, 0, sigmask, 0,
        fpu_at, *_NO_RESERVED,
        sigmask,
    )  # fmt: skip
    fpu = fpu_at - call_sp
    data[fpu : fpu + plain] = xstate[:plain]
    # In the ptrace format the software bytes begin with the features that the machine has (XCR0).
    features = _WORD.unpack_from(xstate, _FXSAVE_SW)[0]
    _SOFTWARE.pack_into(data, fpu + _FXSAVE_SW, _MAGIC1, plain + 4, features, plain, *_NO_PADDING)
    # The kernel looks for the second magic at the size of the task's own signal frames: `plain`, or all of
    # it in a task that has used AMX. What lies between is tile data, which is not in use (see above).
    struct.pack_into("<I", data, fpu + plain, _MAGIC2)
    parts = [(call_sp, bytes(data))]
    if plain < length:
        parts.append((fpu_at + length, struct.pack("<I", _MAGIC2)))
    return ReturnFrame(tuple(parts), call_sp, frame_at, call_sp - CALL_DEPTH)


@cache
def plain_xstate_size() -> int | None:
    """Size in bytes of the vector state in this machine's ordinary signal frames, by looking at one.

    It cannot be had otherwise without CPUID, and differs from the size that ptrace gives on machines with AMX
    (Documentation/arch/x86/xstate.rst). None when it cannot be told.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    seen: list[int] = []
    handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def handler(_signum: int, _info: int, context: int) -> None:
        fpstate = ctypes.c_uint64.from_address(context + 224).value
        if fpstate:
            magic1, _, _, size = struct.unpack("<IIQI", ctypes.string_at(fpstate + _FXSAVE_SW, 20))
            if magic1 == _MAGIC1 and size >= _MIN_XSTATE:
                seen.append(size)

    class Action(ctypes.Structure):
        """struct sigaction of glibc on x86_64, bits/sigaction.h."""

        _fields_ = (
            ("handler", handler_type),
            ("mask", ctypes.c_uint64 * 16),
            ("flags", ctypes.c_int),
            ("restorer", ctypes.c_void_p),
        )

    number = int(signal.SIGURG)  # ignored by default, and nobody's business in the helper process
    action, old = Action(handler=handler_type(handler), flags=4), Action()  # SA_SIGINFO
    if libc.sigaction(number, ctypes.byref(action), ctypes.byref(old)) != 0:
        return None
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    try:
        libc["raise"](number)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        libc.sigaction(number, ctypes.byref(old), None)
    return seen[0] if seen else None
