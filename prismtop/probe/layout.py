"""The memory file through which the probe and its monitor talk, and the numbers that both know.

Layout (native byte order, 64-bit words), version 1:
    0      16 words: see the `W_*` constants
    4096   status, a Python literal, `W_STATUS_LEN` bytes
    65536  ring: `capacity` slots of 128 bytes:  seq t0 t1 hook|flags<<16 thread v0..v10 seq
    behind it, `GUEST_BYTES`: what a deep capture brings in (magic number of its Python, nonce, marshalled
           code and options), and from `GUEST_STATUS_AT` on how it stands, a Python literal
A reader accepts a slot only when both sequence words are the number that it expects and a second copy is the
same.
"""

from __future__ import annotations

import struct

MAGIC = int.from_bytes(b"PRSMTOP1", "little")
VERSION = 1
RECORD = struct.Struct("<QQQII11qQ")
VALUES = 11
HEADER_BYTES = 65536
STATUS_AT = 4096
STATUS_BYTES = HEADER_BYTES - STATUS_AT
MISSING = -(1 << 63)
CAP = 512

W_MAGIC, W_VERSION, W_RECORD, W_CAPACITY, W_PID, W_MONO, W_REAL, W_STATE = range(8)
W_HEARTBEAT, W_COMMAND, W_OP, W_ARG, W_ACK, W_STATUS_SEQ, W_STATUS_LEN, W_FAULTS = range(8, 16)
W_MONITOR, W_LEASE, W_CUT, W_NAMESPACE = range(16, 20)
W_GUEST_SEQ, W_GUEST_LEN, W_GUEST_COUNT, W_GUEST_CALLED = range(20, 24)
W_COSTS = 128  # one word per hook number: median cost in ns of what it does beside the hooked call
BOUNDARY = 64  # the word after them: of looking at the mailbox at a batch boundary

RUNNING, DETACHED, LEASE_EXPIRED, FORKED, CALLED = 1, 2, 3, 4, 5  # CALLED: detached by an injected call
OP_DETACH, OP_HOOKS, OP_LOAD, OP_CANCEL = 1, 2, 3, 4
GUEST_BYTES = 1 << 18
GUEST_STATUS_AT = GUEST_BYTES - (1 << 14)
NO_MAGIC = bytes(4)  # the guest's code is source
FLAG_RAISED, FLAG_CAPPED, FLAG_EVENT = 1, 2, 4
DUMMY = 0xFFFF  # hook number of the one on which the probe measures itself
MODULE = "_prismtop_probe"
FORK_MODULE = "_prismtop_fork"
KIND_SUSPENDS = ("async_method", "async_function", "generator", "async_generator")
