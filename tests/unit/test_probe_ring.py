"""The memory file that the probe makes where memfd_create is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prismtop.probe import ring

SIZE = 1 << 20


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """memfd_create is refused, as seccomp does; the folders of the fallback are one of the test's."""

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    opened = os.open
    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(os, "open", lambda _folder, *rest: opened(tmp_path, *rest))
    return tmp_path


def test_the_unlinked_file_has_its_room_reserved(refused: Path) -> None:
    fd = ring.memfd("prismtop-test", SIZE)
    try:
        assert os.fstat(fd).st_blocks * 512 >= SIZE
    finally:
        os.close(fd)


def test_without_room_it_is_refused_and_nothing_stays_open(
    refused: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no unlinked file of 1048576 bytes"):
        ring.memfd("prismtop-test", SIZE)
    assert set(os.listdir("/proc/self/fd")) == before
