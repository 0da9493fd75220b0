"""Reads the probe's ring in another process through /proc/PID/fd. Everything in it is untrusted input.

A slot is accepted only if both of its sequence words are the number expected and a second copy of it is
identical: the writer holds the target's GIL and stores in order (x86 keeps store order; see attach.md
section 5). Slots that were overwritten before they could be read are counted as lost, never skipped in
silence.
"""

from __future__ import annotations

import ast
import fcntl
import mmap
import os
import time
from dataclasses import dataclass, field
from typing import Any

from prismtop.errors import UnavailableError
from prismtop.probe import agent

Record = tuple[int, ...]
"""seq, t0_ns, t1_ns, hook number | flags << 16, thread, v0 .. v10, seq."""

CHUNK = 64
MAX_AHEAD = 1 << 40
"""A sequence number this far ahead was not counted up to: the ring is broken."""
NOT_PARSED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What the parsing of a text that is no status can raise."""
_NOT_RINGS = ("/memfd:prismtop-err-", "/memfd:prismtop-go-")
"""The injection's own handshake and error text."""


@dataclass(frozen=True)
class ProbeStatus:
    """What the probe says of itself.

    Attributes:
        python: version of the target's interpreter.
        hooks: per hook number its mechanism and, when it is not installed, the reason.
        bad: per (hook number, value name) why it could not be read.
        base_ns: cost of one hooked call, measured at attach.
        base_exit_ns: the part of it that comes after the hooked call.
        setup_ns: time that building the probe took on the target's main thread.
        left: what could not be restored at detach.
        todo: hooks that wait for the next batch boundaries to be put in.
        complete_ns: CLOCK_MONOTONIC at which the last hook was in; 0 before.
    """

    python: tuple[int, ...] = ()
    hooks: dict[int, tuple[str, str]] = field(default_factory=dict)
    bad: dict[tuple[int, str], str] = field(default_factory=dict)
    base_ns: int = 0
    base_exit_ns: int = 0
    setup_ns: int = 0
    left: tuple[str, ...] = ()
    todo: int = 0
    complete_ns: int = 0


def find_ring(pid: int, nonce: str = "", proc: str = "/proc") -> str | None:
    """Path of the probe's memory file among the target's descriptors, or None.

    Args:
        nonce: of this attach; empty finds any prismtop probe.

    A file in /dev/shm or /tmp that has no name is the probe's where the target may not create a memfd.
    """
    folder = f"{proc}/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for name in names:
        path = f"{folder}/{name}"
        try:
            link = os.readlink(path)
        except OSError:
            continue
        if link.startswith(f"/memfd:prismtop-{nonce}") and not link.startswith(_NOT_RINGS):
            return path
        if link.startswith(("/dev/shm/#", "/tmp/#")) and link.endswith("(deleted)") and _has_magic(path):
            return path
    return None


def _has_magic(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return int.from_bytes(file.read(8), "little") == agent.MAGIC
    except OSError:
        return False


def _seal(fd: int) -> None:
    """A file that its owner cuts short would end us with SIGBUS. Only a memfd can be sealed against that."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError:
        pass


class Ring:
    """One mapped ring.

    Raises:
        UnavailableError: it is not a ring, or one of another version.
    """

    def __init__(self, path: str) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(f"The probe's memory cannot be opened ({error.strerror}).") from error
        try:
            size = os.fstat(fd).st_size
            if size < agent.HEADER_BYTES + agent.RECORD.size:
                raise UnavailableError("The probe's memory is too small to be a ring.", fix="Attach again.")
            _seal(fd)
            self._memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._words = memoryview(self._memory).cast("Q")
        self._check(size)
        self.capacity = int(self._words[agent.W_CAPACITY])
        self.lost = 0
        self.torn = 0
        self._next = 1
        self._commands = 0

    def _check(self, size: int) -> None:
        words = self._words
        if words[agent.W_MAGIC] != agent.MAGIC:
            raise UnavailableError("The target's memory file is not a prismtop ring.")
        capacity = words[agent.W_CAPACITY]
        if words[agent.W_VERSION] != agent.VERSION or words[agent.W_RECORD] != agent.RECORD.size:
            raise UnavailableError(
                f"The target carries a probe of ring version {words[agent.W_VERSION]}, "
                f"this prismtop reads {agent.VERSION}.",
                fix="Stop the other prismtop, or wait until its lease ends, and attach again.",
            )
        self._guest_at = agent.HEADER_BYTES + capacity * agent.RECORD.size
        if capacity & (capacity - 1) or size - self._guest_at not in (0, agent.GUEST_BYTES):
            raise UnavailableError("The probe's ring has an impossible size.", fix="Attach again.")

    @property
    def state(self) -> int:
        """`agent.RUNNING`, `DETACHED`, `LEASE_EXPIRED` or 0 while it is being built."""
        return int(self._words[agent.W_STATE])

    @property
    def monitor_pid(self) -> int:
        """Pid of the prismtop that attached, in that prismtop's pid namespace."""
        return int(self._words[agent.W_MONITOR])

    @property
    def faults(self) -> int:
        """Errors inside the probe."""
        return int(self._words[agent.W_FAULTS])

    def lease_left_ns(self) -> int:
        """Nanoseconds until the probe would remove itself; negative: the lease has run out."""
        return int(self._words[agent.W_HEARTBEAT] + self._words[agent.W_LEASE]) - time.monotonic_ns()

    def watched(self, namespace: int) -> bool:
        """Whether the monitor that attached is still there, as far as can be told within its lease.

        Args:
            namespace: inode of our pid namespace; the monitor's pid is looked for only if it is the same one.
        """
        if self.state not in (0, agent.RUNNING) or self.lease_left_ns() <= 0:
            return False
        near = namespace and int(self._words[agent.W_NAMESPACE]) == namespace
        return not near or os.path.exists(f"/proc/{self.monitor_pid}")

    def abandon(self) -> None:
        """End the lease now: the probe removes itself at its next batch boundary, or makes room for
        another.
        """
        self._words[agent.W_HEARTBEAT] = 0

    def beat(self) -> None:
        """Renew the lease."""
        self._words[agent.W_HEARTBEAT] = time.monotonic_ns()

    def command(self, op: int, argument: int = 0) -> int:
        """Post a mailbox command; returns its number, which `acknowledged` reaches when it was carried
        out.
        """
        self._commands = max(self._commands, int(self._words[agent.W_COMMAND])) + 1
        self._words[agent.W_OP] = op
        self._words[agent.W_ARG] = argument
        self._words[agent.W_COMMAND] = self._commands
        return self._commands

    def load(self, data: bytes) -> int:
        """Put a deep capture behind the ring and post the command that takes it in; returns its number.

        Raises:
            UnavailableError: there is no room for it.
        """
        if len(self._memory) == self._guest_at:
            raise UnavailableError(
                "The probe in the target is of an older prismtop.", fix="Detach and attach again."
            )
        if len(data) > agent.GUEST_STATUS_AT:
            raise UnavailableError("The deep capture's code is too large for the probe's memory.")
        self._memory[self._guest_at : self._guest_at + len(data)] = data
        self._words[agent.W_GUEST_COUNT] = 0
        return self.command(agent.OP_LOAD, len(data))

    @property
    def pending(self) -> bool:
        """Whether a command waits for a batch boundary: another one would take its place."""
        return int(self._words[agent.W_COMMAND]) > self.acknowledged

    @property
    def guest_batches(self) -> int:
        """Batch boundaries that the deep capture has seen in its window."""
        return int(self._words[agent.W_GUEST_COUNT])

    @property
    def guest_called(self) -> int:
        """How often code from outside has asked the deep capture to close its window."""
        return int(self._words[agent.W_GUEST_CALLED])

    def guest_number(self) -> int:
        """Changes when the deep capture says something new; odd while it is being written."""
        return int(self._words[agent.W_GUEST_SEQ])

    def guest_told(self) -> dict[str, Any]:
        """What the deep capture says of itself, unchecked; empty: nothing yet, or it is being written."""
        before = self.guest_number()
        length = min(int(self._words[agent.W_GUEST_LEN]), agent.GUEST_BYTES - agent.GUEST_STATUS_AT)
        at = self._guest_at + agent.GUEST_STATUS_AT
        text = self._memory[at : at + length]
        if before == 0 or before % 2 or before != self.guest_number():
            return {}
        try:
            told = ast.literal_eval(text.decode())
        except NOT_PARSED:
            return {}
        return told if isinstance(told, dict) else {}

    @property
    def acknowledged(self) -> int:
        """Number of the last mailbox command that was carried out."""
        return int(self._words[agent.W_ACK])

    def call_ns(self, fid: int, status: ProbeStatus) -> float:
        """Cost of one call of hook `fid`: the dummy's cost at attach plus what its real calls take more than
        it.
        """
        live = int(self._words[agent.W_COSTS + fid]) if 0 <= fid < agent.BOUNDARY else 0
        return status.base_ns + max(0, live - status.base_exit_ns)

    @property
    def boundary_ns(self) -> int:
        """Cost of what a batch boundary does beyond its record, median."""
        return int(self._words[agent.W_COSTS + agent.BOUNDARY])

    def status_number(self) -> int:
        """Changes when the probe publishes a new status; odd while it is being written."""
        return int(self._words[agent.W_STATUS_SEQ])

    def status(self) -> ProbeStatus:
        """Read the probe's status; an empty one when it is being written or makes no sense."""
        for _ in range(20):
            before = self.status_number()
            length = min(int(self._words[agent.W_STATUS_LEN]), agent.STATUS_BYTES)
            text = self._memory[agent.STATUS_AT : agent.STATUS_AT + length]
            if before % 2 == 0 and before == self.status_number():
                break
            time.sleep(0.0005)
        else:
            return ProbeStatus()
        try:
            raw: Any = ast.literal_eval(text.decode())
            return ProbeStatus(
                python=tuple(raw["python"]),
                hooks={int(fid): (str(how), str(why)) for fid, how, why in raw["hooks"]},
                bad={(int(fid), str(name)): str(why) for (fid, name), why in raw["bad"].items()},
                base_ns=int(raw["base_ns"]),
                base_exit_ns=int(raw["base_exit_ns"]),
                setup_ns=int(raw["setup_ns"]),
                left=tuple(str(note) for note in raw["left"]),
                todo=int(raw["todo"]),
                complete_ns=int(raw["complete_ns"]),
            )
        except NOT_PARSED:
            return ProbeStatus()

    def read(self, limit: int = 65536) -> list[Record]:
        """The records written since the last call, in the order of their sequence numbers."""
        taken: list[Record] = []
        for _ in range(limit):  # a ring that changes under our hands must not hold us for ever
            if len(taken) >= limit:
                break
            slot = (self._next - 1) & (self.capacity - 1)
            written = self._words[(agent.HEADER_BYTES + slot * agent.RECORD.size) // 8]
            if written < self._next:
                break  # the usual end: nothing is copied to find out
            accepted, more = self._chunk(slot, min(CHUNK, self.capacity - slot, limit - len(taken)))
            taken += accepted
            if not more:
                break
        return taken

    def skip(self) -> None:
        """Leave out what was written so far; it does not count as lost, nor what was lost before."""
        self.read()
        self.lost = self.torn = 0

    def _chunk(self, slot: int, count: int) -> tuple[list[Record], bool]:
        """Records of `count` slots from `slot` on, and whether there may be more."""
        size = agent.RECORD.size
        at = agent.HEADER_BYTES + slot * size
        first = self._memory[at : at + count * size]
        good: list[Record] = []
        expected = self._next
        for record in agent.RECORD.iter_unpack(first):
            if record[0] != expected or record[-1] != expected:
                break
            good.append(record)
            expected += 1
        second = self._memory[at : at + len(good) * size]
        if first[: len(second)] != second:
            same = 0
            while first[same * size : (same + 1) * size] == second[same * size : (same + 1) * size]:
                same += 1
            self.torn += 1
            del good[same:]
        self._next += len(good)
        if len(good) == count:
            return good, True
        return good, self._skip_overrun()

    def _skip_overrun(self) -> bool:
        """Look at the slot that was not accepted; True when reading may go on."""
        at = agent.HEADER_BYTES + ((self._next - 1) & (self.capacity - 1)) * agent.RECORD.size
        record = agent.RECORD.unpack_from(self._memory, at)
        newest = max(record[0], record[-1])
        if newest > self._next + MAX_AHEAD:
            return False
        if newest > self._next:
            # The writer is a lap ahead, or inside this very slot.
            self._jump(newest)
            return True
        return bool(record[0] == record[-1] == self._next)

    def _jump(self, seen: int) -> None:
        """Skip to the middle of what can still be intact when record `seen` has been written."""
        target = max(self._next + 1, seen - self.capacity // 2)
        self.lost += target - self._next
        self._next = target

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._memory.close()
