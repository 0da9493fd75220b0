"""Trace files on disk: the live segment, its rotation into one-member gzip files, and their number.

While it is written a segment is a plain JSON array of whole events without its closing bracket, which
Perfetto and chrome://tracing both open; so every flush leaves a readable file, also after kill -9.
Multi-member gzip would be smaller, but chrome://tracing shows the first member only.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prismtop.errors import PermissionDeniedError, PrismtopError, UnavailableError, UsageError
from prismtop.safe_text import safe_text

WRITE_BYTES = 256 << 10
"""The most that is written at once."""
PAGE_BYTES = 4096
"""The smallest page of any machine; larger ones are multiples of it."""
GZIP_LEVEL = 3
"""20 bytes an event; level 6 makes 17 of them and takes 2.4 times the CPU."""
_COPY_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def create(path: Path) -> int:
    """A descriptor of a new file that only its owner can read; symbolic links are never followed.

    Raises:
        OSError: above all FileExistsError.
    """
    return os.open(path, _CREATE, 0o600)


def plain_name(path: Path) -> Path:
    """The name of the segment that is being written for a trace that will be called `path`.

    Raises:
        UsageError: `path` ends neither in .json nor in .json.gz.
    """
    name = path.name
    if name.endswith(".json.gz") and name != ".json.gz":
        return path.with_name(name[:-3])
    if name.endswith(".json") and name != ".json":
        return path
    raise UsageError(
        f"a trace's name ends in .json or .json.gz, not as in {safe_text(str(path))}.",
        fix=f"Call it {safe_text(str(path))}.json.gz.",
    )


def refusal(path: Path, error: OSError) -> PrismtopError:
    """One sentence for a trace that cannot be created at `path`."""
    shown = safe_text(str(path))
    if isinstance(error, FileExistsError):
        return UsageError(f"{shown} exists already.", fix="Choose another name, or move it away.")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        parent = safe_text(str(path.parent))
        return UsageError(f"there is no directory {parent}.", fix=f"Create it: `mkdir -p {parent}`.")
    if isinstance(error, PermissionError):
        return PermissionDeniedError(
            f"{shown} cannot be created: {error.strerror}.", fix="Choose a directory that you may write to."
        )
    return UnavailableError(f"{shown} cannot be created: {error.strerror}.", fix="Choose another place.")


def check_free(path: Path) -> None:
    """Whether a trace of this name may be begun.

    Raises:
        PrismtopError: one of the names that it would use is taken, or the directory is not writable.
    """
    plain = plain_name(path)
    try:
        segment = re.compile(re.escape(plain.name[:-5]) + r"\.\d{4,}\.json(\.gz)?")
        taken = [name for name in os.listdir(path.parent) if segment.fullmatch(name)]
    except OSError as error:
        raise refusal(path, error) from None
    taken += [each.name for each in (plain, path) if os.path.lexists(each)]
    if taken:
        raise refusal(path.with_name(min(taken)), FileExistsError())
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise refusal(path, PermissionError(13, "Permission denied"))


def free_name(directory: Path, stem: str, what: str) -> Path:
    """A name that no trace has yet: `stem`, numbered where it is taken. The directory is made if need be.

    Args:
        what: the directory holds, for a person.

    Raises:
        PrismtopError: the directory is not ours, or full.
    """
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        taken = set(os.listdir(directory))
    except OSError as error:
        raise refusal(directory, error) from None
    for number in range(1, 1000):
        numbered = stem if number == 1 else f"{stem}-{number}"
        if not {f"{numbered}.json", f"{numbered}.json.gz"} & taken:
            return directory / f"{numbered}.json.gz"
    raise UnavailableError(f"{safe_text(str(directory))} is full of {what}.", fix="Remove some.")


def compress(source: Path, target: Path) -> int:
    """Write `source` as a gzip file of one member, then remove `source`; bytes of the new file.

    The new file has its name only when it is complete and on the disk.

    Raises:
        OSError: nothing was changed.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    fd = create(part)
    try:
        with open(source, "rb") as plain, os.fdopen(fd, "wb") as packed:
            packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
            while piece := plain.read(_COPY_BYTES):
                packed.write(packer.compress(piece))
            packed.write(packer.flush())
            packed.flush()
            os.fsync(packed.fileno())
            size = packed.tell()
        publish(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    source.unlink(missing_ok=True)
    return size


def publish(part: Path, target: Path) -> None:
    """Give a complete file its name.

    Raises:
        FileExistsError: something else has that name; it stays as it is.
    """
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links
        if os.path.lexists(target):
            raise FileExistsError(17, "File exists", str(target)) from None
        os.rename(part, target)
    else:
        part.unlink()


class Segment:
    """The file that is being written."""

    def __init__(self, path: Path, head: Sequence[str]) -> None:
        """Create it with its metadata.

        Raises:
            OSError: it cannot be created or written.
        """
        self.path = path
        self.size = 0
        self._fd = create(path)
        try:
            self._write(b"[\n" + ",\n".join(head).encode())
        except OSError:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise

    def append(self, text: bytes) -> None:
        """Add events, separated by a comma and a line feed, with one write(2).

        Kill -9 can end that where one page ends and the next begins, and chrome://tracing rejects a file that
        ends inside an event. So no event crosses a page: what is left of one is spaces. Only an event longer
        than a page is not safe.

        Raises:
            OSError: the file is as it was before.
        """
        self._write(b"".join(_pages(b",\n" + text, self.size)))

    def close(self, last: str = "") -> None:
        """Close the array, after one last event, and bring the file to the disk."""
        try:
            self._write((f",\n{last}\n]\n" if last else "\n]\n").encode())
            os.fsync(self._fd)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the descriptor; the array stays open, which viewers accept."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, self.size)  # never half an event
            raise
        self.size += len(data)


def _pages(data: bytes, offset: int) -> Iterator[bytes]:
    """`data`, whose events begin with `,\\n`, cut into pieces of whole events that cross no page of a file
    that is `offset` long.
    """
    at = 0
    while at < len(data):
        room = PAGE_BYTES - offset % PAGE_BYTES
        if len(data) - at <= room:
            piece = data[at:]
            at = len(data)
        elif (cut := data.rfind(b",\n", at + 1, at + room + 2)) > at:
            piece = data[at:cut].ljust(room)
            at = cut
        elif room < PAGE_BYTES:
            piece = b" " * room
        else:
            cut = data.find(b",\n", at + 1)
            cut = len(data) if cut < 0 else cut
            piece = data[at:cut]
            at = cut
        offset += len(piece)
        yield piece


@dataclass
class _Finished:
    path: Path
    size: int


class Archive:
    """The finished segments of one recording: compresses them in a thread of its own, keeps their sum under
    `total_bytes` by removing the oldest.

    Attributes:
        removed: segments that were removed to keep the limit.
        problems: sentences about segments that could not be compressed; they stay plain.
    """

    def __init__(self, total_bytes: int) -> None:
        self.removed = 0
        self.problems: list[str] = []
        self._total = total_bytes
        self._finished: list[_Finished] = []
        self._work: queue.SimpleQueue[_Finished | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._finished)

    def add(self, path: Path, size: int) -> None:
        """Take over a complete plain segment."""
        segment = _Finished(path, size)
        self._finished.append(segment)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prismtop-gzip", daemon=True)
            self._thread.start()
        self._work.put(segment)

    def trim(self, live_bytes: int) -> None:
        """Remove the oldest compressed segments while everything together is over the limit."""
        while len(self._finished) > 1 and self.size + live_bytes > self._total:
            oldest = self._finished[0]
            if not oldest.path.name.endswith(".gz"):
                return
            self._finished.pop(0)
            oldest.path.unlink(missing_ok=True)
            self.removed += 1

    def close(self, timeout_s: float) -> bool:
        """Wait for the compression; False when it takes longer."""
        if self._thread is None:
            return True
        self._work.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (segment := self._work.get()) is not None:
            target = segment.path.with_name(segment.path.name + ".gz")
            try:
                segment.size = compress(segment.path, target)
                segment.path = target
            except OSError as error:
                name = safe_text(segment.path.name)
                self.problems.append(f"{name} could not be compressed ({error.strerror}): it stays as it is")
