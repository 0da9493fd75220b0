"""The ring is another process's memory: nothing in it is trusted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.errors import UnavailableError
from prismtop.probe import agent
from prismtop.sources.ring import ProbeStatus, Ring

CAPACITY = 256
STATUS = (
    b"{'python': (3, 12, 1), 'hooks': [], 'bad': {}, 'base_ns': 1, 'base_exit_ns': 0, 'setup_ns': 0, "
    b"'left': [], 'todo': 0, 'complete_ns': 0}"
)


class Memory:
    """A ring in a file, written by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(agent.HEADER_BYTES + CAPACITY * agent.RECORD.size))
        for word, value in (
            (agent.W_MAGIC, agent.MAGIC),
            (agent.W_VERSION, agent.VERSION),
            (agent.W_RECORD, agent.RECORD.size),
            (agent.W_CAPACITY, CAPACITY),
        ):
            self.word(word, value)

    def patch(self, at: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def word(self, index: int, value: int) -> None:
        self.patch(index * 8, value.to_bytes(8, "little"))

    def status(self, text: bytes) -> None:
        self.patch(agent.STATUS_AT, text)
        self.word(agent.W_STATUS_LEN, len(text))

    def record(self, seq: int, *, last: int | None = None) -> None:
        data = agent.RECORD.pack(seq, 1, 2, 3, 4, *range(11), seq if last is None else last)
        self.patch(agent.HEADER_BYTES + (seq - 1) % CAPACITY * agent.RECORD.size, data)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """An empty ring."""
    return Memory(tmp_path / "ring")


@pytest.fixture
def ring(memory: Memory) -> Iterator[Ring]:
    """Its reader."""
    opened = Ring(str(memory.path))
    yield opened
    opened.close()


def test_records_come_once_and_in_order(memory: Memory, ring: Ring) -> None:
    for seq in (1, 2, 3):
        memory.record(seq)
    assert [r[0] for r in ring.read()] == [1, 2, 3]
    assert list(ring.read()) == []


def test_a_half_written_record_is_not_taken(memory: Memory, ring: Ring) -> None:
    memory.record(1)
    memory.record(2, last=0)
    assert [r[0] for r in ring.read()] == [1]
    memory.record(2)
    assert [r[0] for r in ring.read()] == [2]


def test_what_was_overwritten_unread_is_counted(memory: Memory, ring: Ring) -> None:
    for seq in range(1, 2 * CAPACITY + 1):
        memory.record(seq)
    got = [r[0] for r in ring.read()]
    assert got == list(range(got[0], 2 * CAPACITY + 1))
    assert len(got) + ring.lost == 2 * CAPACITY


def test_what_is_skipped_does_not_come(memory: Memory, ring: Ring) -> None:
    for seq in (1, 2):
        memory.record(seq)
    ring.skip()
    memory.record(3)
    assert [record[0] for record in ring.read()] == [3]


def test_what_was_overwritten_before_a_skip_is_not_lost(memory: Memory, ring: Ring) -> None:
    for seq in range(1, 2 * CAPACITY + 1):
        memory.record(seq)
    ring.skip()
    assert ring.lost == 0


def test_a_ring_of_another_version_is_refused_in_one_sentence(memory: Memory) -> None:
    memory.word(agent.W_VERSION, 99)
    with pytest.raises(UnavailableError, match="ring version 99") as error:
        Ring(str(memory.path))
    assert error.value.fix


@pytest.mark.parametrize("capacity", [0, 3, CAPACITY * 2, 1 << 62])
def test_an_impossible_size_is_refused(memory: Memory, capacity: int) -> None:
    memory.word(agent.W_CAPACITY, capacity)
    with pytest.raises(UnavailableError, match="impossible size"):
        Ring(str(memory.path))


def test_a_file_that_is_no_ring_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * 100_000)
    with pytest.raises(UnavailableError, match="not a prismtop ring"):
        Ring(str(other))


@pytest.mark.parametrize(
    "text", [b"", b"{'hooks': 1}", b"__import__('os')", b"(" * 5000, b"\xff\xfe", b"{'python': (3, 11)"]
)
def test_a_hostile_status_is_an_empty_one(memory: Memory, ring: Ring, text: bytes) -> None:
    memory.status(text)
    assert ring.status() == ProbeStatus()


def test_a_status_longer_than_its_room_is_cut(memory: Memory, ring: Ring) -> None:
    memory.status(b"x" * 100)
    memory.word(agent.W_STATUS_LEN, 1 << 60)
    assert ring.status() == ProbeStatus()


WRITER = """
import itertools, mmap, os, sys
sys.path.insert(0, {root!r})
from prismtop.probe import agent
fd = os.open({path!r}, os.O_RDWR)
mm = mmap.mmap(fd, 0)
pack, count, mask = agent.RECORD.pack_into, itertools.count(1).__next__, {capacity} - 1
while True:
    s = count()
    at = agent.HEADER_BYTES + ((s - 1) & mask) * 128
    pack(mm, at, s, s * 3, s * 5, 1, 2, s, s ^ 0x5555, s, s, s, s, s, s, s, s, s * 7, s)
"""


def test_no_torn_record_of_a_writer_at_full_speed_is_accepted(memory: Memory, ring: Ring) -> None:
    root = str(Path(__file__).resolve().parent.parent.parent)
    program = WRITER.format(root=root, path=str(memory.path), capacity=CAPACITY)
    writer = subprocess.Popen([sys.executable, "-c", program])
    try:
        bad = got = last = 0
        end = time.monotonic() + 20
        while got < 50_000 and time.monotonic() < end:
            for r in ring.read(limit=CAPACITY):
                bad += r[1] != r[0] * 3 or r[2] != r[0] * 5 or r[6] != r[0] ^ 0x5555 or r[15] != r[0] * 7
                bad += r[0] <= last
                last = r[0]
                got += 1
    finally:
        os.kill(writer.pid, 9)
        writer.wait()
    assert (bad, got + ring.lost) == (0, last)
    assert got >= 1000


@pytest.mark.parametrize(
    "text",
    [
        b"-" * 60_000 + b"1",
        b"1" + b"+1" * 30_000,
        b"[" * 199 + b"]" * 199,
        b"9" * 5000,
        STATUS.replace(b"'base_ns': 1", b"'base_ns': 1e999"),
        STATUS.replace(b"'hooks': []", b"'hooks': [(1, 2)]"),
        STATUS.replace(b"'bad': {}", b"'bad': {1: 2}"),
        STATUS.replace(b"'left': []", b"'left': 7"),
    ],
)
def test_a_status_of_another_shape_is_an_empty_one(memory: Memory, ring: Ring, text: bytes) -> None:
    memory.status(text)
    assert ring.status() == ProbeStatus()


def test_a_status_that_is_all_right_is_read(memory: Memory, ring: Ring) -> None:
    memory.status(STATUS)
    assert ring.status() == ProbeStatus(python=(3, 12, 1), base_ns=1)


def test_a_status_that_is_being_written_all_the_time_is_not_taken(memory: Memory, ring: Ring) -> None:
    memory.status(STATUS)
    memory.word(agent.W_STATUS_SEQ, 7)
    assert ring.status() == ProbeStatus()


def test_a_sequence_number_that_nobody_counted_to_is_not_believed(memory: Memory, ring: Ring) -> None:
    memory.record(1)
    memory.patch(
        agent.HEADER_BYTES + agent.RECORD.size,
        agent.RECORD.pack(*[2**64 - 1] * 3, 1, 1, *[0] * 11, 2**64 - 1),
    )
    assert ([r[0] for r in ring.read()], ring.lost) == ([1], 0)


def test_a_reader_ends_whatever_the_writer_does(memory: Memory, ring: Ring) -> None:
    """Each look finds another number in the slot: the ring is as good as empty."""
    looks = iter(range(10**9))

    def hop() -> bool:
        memory.record(ring._next + CAPACITY * (1 + next(looks)))
        return True

    ring._skip_overrun = hop  # type: ignore[method-assign]
    memory.record(CAPACITY + 1)
    assert len(list(ring.read(limit=50))) <= 50


def test_the_target_cannot_pull_the_memory_from_under_us() -> None:
    fd = agent.memfd("prismtop-sealed", 4096)
    try:
        os.ftruncate(fd, agent.HEADER_BYTES + CAPACITY * agent.RECORD.size)
        with open(f"/proc/self/fd/{fd}", "r+b") as file:
            for word, value in (
                (agent.W_MAGIC, agent.MAGIC),
                (agent.W_VERSION, agent.VERSION),
                (agent.W_RECORD, agent.RECORD.size),
                (agent.W_CAPACITY, CAPACITY),
            ):
                file.seek(word * 8)
                file.write(value.to_bytes(8, "little"))
        Ring(f"/proc/self/fd/{fd}").close()
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
