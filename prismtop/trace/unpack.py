"""The bytes of a file that somebody says is a trace: unpacked piece by piece, whatever it turns out to be.

What a file is is read from its first bytes, never from its name. Nothing here keeps more than one piece.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text

PIECE = 256 * 1024
MAX_RATIO = 500
"""Unpacked to packed, beyond `RATIO_FROM` bytes: real traces reach 60, deflate's limit is 1032 (RFC 1951)."""
RATIO_FROM = 64 << 20
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_OTHERS = (
    (b"\x28\xb5\x2f\xfd", "is packed with zstd", "Unpack it first: `zstd -d FILE`."),
    (b"\xfd7zXZ\0", "is packed with xz", "Unpack it first: `xz -dk FILE`."),
    (b"BZh", "is packed with bzip2", "Unpack it first: `bzip2 -dk FILE`."),
    (b"PK\x03\x04", "is a zip archive", "Unpack it first: `unzip FILE`."),
    (b"SQLite format 3\0", "is an SQLite database", "Export it to Chrome trace JSON first."),
    (b"\x7fELF", "is a program", ""),
    (b"\xff\xfe", "is UTF-16 text", "Save it as UTF-8."),
    (b"\xfe\xff", "is UTF-16 text", "Save it as UTF-8."),
)


class Unpacked:
    """One file's bytes.

    Attributes:
        path: the file.
        packed: whether it is gzip.
        notes: sentences about damage met while reading.

    Raises:
        UsageError: it does not exist, cannot be read, is no regular file, is empty, or is of a kind that
        holds
            no JSON or CSV text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        with self._open() as file:
            head = file.read(32)
        if not head:
            raise UsageError(f"{self.name} is empty.", fix="Record it again.")
        for magic, what, fix in _OTHERS:
            if head.startswith(magic):
                raise UsageError(f"{self.name} {what}, not a trace.", fix=fix)
        self.packed = head.startswith(_GZIP)

    @property
    def name(self) -> str:
        """The path as it may be printed."""
        return safe_text(str(self.path), 200)

    def pieces(self, size: int = PIECE) -> Iterator[bytes]:
        """The unpacked bytes in pieces of at most `size`, a leading byte order mark left out.

        Raises:
            UsageError: it is a gzip bomb, or cannot be read on.
        """
        first = True
        try:
            for piece in self._gzip(size) if self.packed else self._plain(size):
                if first:
                    piece, first = piece.removeprefix(_BOM), False
                if piece:
                    yield piece
        except OSError as error:
            raise UsageError(f"{self.name} cannot be read: {error.strerror}.") from None

    def _open(self) -> BinaryIO:
        try:
            # Without O_NONBLOCK a named pipe would block here for ever.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise UsageError(f"{self.name} cannot be read: {reason}.", fix="Check the path.") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UsageError(f"{self.name} is not a regular file.", fix="Name a trace file.")
        return os.fdopen(descriptor, "rb", buffering=0)

    def _plain(self, size: int) -> Iterator[bytes]:
        with self._open() as file:
            while piece := file.read(size):
                yield piece

    def _gzip(self, size: int) -> Iterator[bytes]:
        """Every member one after the other; what stands before damage is kept."""
        taken = made = 0
        buffer = b""
        whole = True  # between two members
        unpacker = zlib.decompressobj(31)
        with self._open() as file:
            while True:
                if not buffer:
                    buffer = file.read(64 * 1024)
                    taken += len(buffer)
                    if not buffer:
                        break
                if whole and not (buffer := buffer.lstrip(b"\0")):  # padding after a member
                    continue
                try:
                    piece = unpacker.decompress(buffer, size)
                except zlib.error:
                    self.notes.append(
                        f"{self.name} is damaged after {made} unpacked bytes: read up to there."
                    )
                    return
                whole = False
                buffer = unpacker.unconsumed_tail
                made += len(piece)
                if made > RATIO_FROM and made > MAX_RATIO * taken:
                    raise UsageError(
                        f"{self.name} unpacks to more than {MAX_RATIO} times its size: no trace does that.",
                        fix="Do not open files from whom you do not trust.",
                    )
                if piece:
                    yield piece
                if unpacker.eof:
                    buffer = unpacker.unused_data
                    unpacker = zlib.decompressobj(31)
                    whole = True
        if not whole:
            tail = unpacker.flush()
            if tail:
                yield tail
            self.notes.append(f"{self.name} is cut short inside a gzip member: read up to there.")
