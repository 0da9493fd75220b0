"""The frame that puts a thread's registers back by itself."""

from __future__ import annotations

import struct

import pytest

from prismtop.attach.gadgets import Gadgets
from prismtop.attach.registers import (
    CALL_DEPTH,
    NO_SYSCALL,
    Regs,
    foreign,
    in_blocking_syscall,
    plain_xstate_size,
    restarted,
    return_frame,
)

GADGETS = Gadgets(syscall_ret=0x1000, pop_rdi_ret=0x2000, sigreturn=0x3000)
RSP = 0x7F0000012345 & ~7


def stopped(**values: int) -> Regs:
    return Regs().put(**{"rsp": RSP, "rip": 0x401000, "orig_rax": NO_SYSCALL, **values})


def xstate(size: int = 2816) -> bytes:
    data = bytearray(size)
    struct.pack_into("<Q", data, 464, 0xE7)
    return bytes(data)


@pytest.mark.parametrize(
    ("orig_rax", "rax", "blocked"),
    [
        (202, -512, True),
        (202, -516, True),
        (7, -514, True),
        (202, 0, False),
        (-1, -512, False),
        (232, -4, False),
    ],
)
def test_a_stop_in_a_call_that_restarts_unseen_is_told_apart(orig_rax: int, rax: int, blocked: bool) -> None:
    assert in_blocking_syscall(stopped(orig_rax=orig_rax, rax=rax)) is blocked


def test_foreign_registers_are_outside_any_system_call_and_leave_the_own_ones_alone() -> None:
    own = stopped(orig_rax=202, rax=-512, eflags=0x746)
    other = foreign(own, rip=0x1000, rdi=-1)
    assert other.signed("orig_rax") == -1
    assert other.get("eflags") & 0x500 == 0
    assert other.signed("rdi") == -1
    assert own.get("rip") == 0x401000
    assert own.get("orig_rax") == 202


def test_a_timed_wait_is_entered_again_through_restart_syscall() -> None:
    assert restarted(stopped(orig_rax=230, rax=-516)).get("orig_rax") == 219
    assert restarted(stopped(orig_rax=202, rax=-512)).get("orig_rax") == 202


def test_the_frame_keeps_off_the_red_zone_and_is_aligned_as_a_call_needs() -> None:
    frame = return_frame(stopped(), 0, xstate(), GADGETS)
    highest = max(address + len(data) for address, data in frame.parts)
    assert highest <= RSP - 128
    assert frame.call_sp % 16 == 8
    assert frame.syscall_sp == frame.call_sp + 24
    assert frame.lowest == frame.call_sp - CALL_DEPTH
    assert frame.parts[0][0] == frame.call_sp


def context_of(regs: Regs, sigmask: int = 0) -> tuple[int, ...]:
    """The general registers of the frame, in the order of struct sigcontext_64."""
    data = return_frame(regs, sigmask, xstate(), GADGETS).parts[0][1]
    return struct.unpack_from("<18Q", data, 32 + 40)


def test_a_thread_stopped_in_user_code_returns_to_the_very_instruction() -> None:
    context = context_of(stopped(rax=7, r8=8, rbx=9, eflags=0x246))
    assert (context[0], context[11], context[13], context[15], context[16], context[17]) == (
        8,
        9,
        7,
        RSP,
        0x401000,
        0x246,
    )


def test_an_interrupted_call_is_entered_again_by_hand() -> None:
    context = context_of(stopped(orig_rax=202, rax=-512))
    assert (context[13], context[16]) == (202, 0x401000 - 2)


def test_an_interrupted_timed_wait_ends_with_eintr_because_its_rest_is_lost() -> None:
    context = context_of(stopped(orig_rax=230, rax=-516))
    assert (context[13], context[16]) == (2**64 - 4, 0x401000)


def test_the_signal_mask_is_in_the_frame() -> None:
    data = return_frame(stopped(), 0x1234, xstate(), GADGETS).parts[0][1]
    assert struct.unpack_from("<Q", data, 32 + 296)[0] == 0x1234


def test_the_vector_state_is_aligned_and_marked_as_the_kernel_wants_it() -> None:
    regs, size = stopped(), plain_xstate_size()
    if size is None:
        pytest.skip("this machine's signal frames could not be looked at")
    frame = return_frame(regs, 0, xstate(size), GADGETS)
    base, data = frame.parts[0]
    (at,) = struct.unpack_from("<Q", data, 32 + 224)
    assert at % 64 == 0
    magic1, extended, features, xstate_size = struct.unpack_from("<IIQI", data, at - base + 464)
    assert (magic1, extended, features, xstate_size) == (0x46505853, size + 4, 0xE7, size)
    assert struct.unpack_from("<I", data, at - base + size)[0] == 0x46505845


def test_state_that_is_given_on_demand_only_is_not_written_when_it_is_not_in_use() -> None:
    size = plain_xstate_size()
    if size is None:
        pytest.skip("this machine's signal frames could not be looked at")
    big = xstate(size + 8192)
    parts = return_frame(stopped(), 0, big, GADGETS).parts
    assert len(parts) == 2
    assert parts[1][1] == struct.pack("<I", 0x46505845)
    in_use = bytearray(big)
    struct.pack_into("<Q", in_use, 512, 1 << 18)
    assert (
        len(return_frame(stopped(), 0, bytes(in_use), GADGETS).parts) == 1
        or len(return_frame(stopped(), 0, bytes(in_use), GADGETS).parts[0][1]) > size + 8192
    )
