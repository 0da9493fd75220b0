"""Indexes and unpacked traces, kept in the user's cache directory so that a trace opens at once next time.

Named by a hash of the file's path, inode, size and time of change. Written beside and renamed, so that what
is there is whole; what cannot be read is as good as not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prismtop.errors import UnavailableError

MAX_BYTES = 8 << 30
"""Of the cache together; the least lately used go first."""
_SUFFIXES = (".json", ".story")


@dataclass(frozen=True)
class Cache:
    """A directory; made when something is first written."""

    folder: Path

    @classmethod
    def of_user(cls) -> Cache:
        """The one below the platform's cache directory."""
        import platformdirs

        return cls(Path(platformdirs.user_cache_dir("prismtop", appauthor=False)) / "traces")

    def key(self, path: Path) -> str:
        """Changes whenever the file does."""
        real = path.resolve()
        info = real.stat()
        text = f"{os.fsencode(real)!r} {info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def story(self, key: str) -> Path:
        """Where an unpacked or translated trace is kept."""
        return self.folder / f"{key}.story"

    def load(self, key: str) -> dict[str, Any] | None:
        """What was saved; None when there is nothing that can be read."""
        path = self.folder / f"{key}.json"
        try:
            made = json.loads(path.read_bytes())
            os.utime(path)
        except (OSError, ValueError, RecursionError):
            return None
        return made if isinstance(made, dict) else None

    def save(self, key: str, content: dict[str, Any]) -> bool:
        """Save; False when there is no room or no right to."""
        try:
            with self.writing(self.folder / f"{key}.json") as file:
                file.write(json.dumps(content).encode())
        except (OSError, UnavailableError):
            return False
        return True

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[BinaryIO]:
        """A new file, 0600, that takes its name when the block ends well.

        Raises:
            UnavailableError: the directory cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".writing-")
        except OSError as error:
            raise UnavailableError(
                f"the cache directory {self.folder} cannot be written: {error.strerror}.",
                fix="Make it writable, or set XDG_CACHE_HOME.",
            ) from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def shrink(self, keep: str, limit: int = MAX_BYTES) -> None:
        """Remove what was used least lately until the rest is within `limit` bytes; `keep` stays."""
        with contextlib.suppress(OSError):
            files = [
                (entry.stat().st_mtime, entry.stat().st_size, entry)
                for entry in self.folder.iterdir()
                if entry.suffix in _SUFFIXES
            ]
            total = sum(size for _, size, _ in files)
            for _, size, entry in sorted(files):
                if total <= limit:
                    return
                if entry.stem != keep:
                    entry.unlink(missing_ok=True)
                    total -= size
