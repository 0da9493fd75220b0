"""Put a script where a target can read it: in its own temporary folder, as it sees it.

The folder is reached through /proc/PID/root component by component and no symbolic link is followed: an
absolute link would lead out of the target's root and into ours.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from prismtop.attach.errors import AttachPermissionError
from prismtop.attach.process import Status

_FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")
_LONGEST = 400


class ScriptFile:
    """A file in a target's file system, with its folder kept open: the way there leads through /proc/PID,
    and ends with the process.

    Args:
        path: there, in the target's file system.
        folder: descriptor of its folder; closed by `close`, and with this object.
    """

    def __init__(self, path: str, folder: int) -> None:
        self.path = path
        self._folder = folder

    def __del__(self) -> None:
        self.close()

    @classmethod
    def of(cls, pid: int, path: str) -> ScriptFile:
        """One that is there. Raises OSError: its folder cannot be opened."""
        return cls(path, _open_folder(pid, os.path.dirname(path)))

    def remove(self) -> None:
        """Remove it, if the script has not done so itself, and close; idempotent."""
        if self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(os.path.basename(self.path), dir_fd=self._folder)
            self.close()

    def close(self) -> None:
        """Let go of the folder; the file stays."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


def candidate_folders(pid: int) -> list[str]:
    """Folders for temporary files, best first: the target's TMPDIR, then the usual ones."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            variables = dict(v.split(b"=", 1) for v in f.read().split(b"\0") if b"=" in v)
    except OSError:
        variables = {}
    chosen = [os.fsdecode(variables[k]) for k in (b"TMPDIR", b"TEMP", b"TMP") if variables.get(k)]
    return [d for d in dict.fromkeys((*chosen, *_FALLBACKS)) if d.startswith("/") and len(d) < _LONGEST]


def _open_folder(pid: int, folder: str) -> int:
    fd = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in folder.split("/"):
        if part in ("", "."):
            continue
        try:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _safe_for(folder: os.stat_result, uid: int) -> bool:
    """Whether nobody but root and the target's user can replace a file in this folder."""
    if folder.st_mode & stat.S_ISVTX:
        return True
    return folder.st_uid in (0, uid, os.geteuid()) and not folder.st_mode & 0o022


def usable_folder(pid: int, status: Status) -> str | None:
    """The folder that `write_script` would use; looks only."""
    for folder in candidate_folders(pid):
        try:
            fd = _open_folder(pid, folder)
        except OSError:
            continue
        try:
            writable = os.access(f"/proc/self/fd/{fd}", os.W_OK | os.X_OK)
            if writable and _safe_for(os.fstat(fd), status.uids[1]):
                return folder
        finally:
            os.close(fd)
    return None


def write_script(pid: int, status: Status, head: str, body: str) -> ScriptFile:
    """Write a script, mode 0600, owned by the target's user.

    Args:
        head: text put before `body`, with `{path}` replaced by the file's path as a Python literal.

    Raises:
        AttachPermissionError: no folder is writable.
    """
    uid, gid = status.uids[1], status.gids[1]
    for folder in candidate_folders(pid):
        name = f"prismtop-{secrets.token_hex(8)}.py"
        path = f"{folder.rstrip('/')}/{name}"
        try:
            fd = _open_folder(pid, folder)
        except OSError:
            continue
        made, text = ScriptFile(path, fd), head.replace("{path}", ascii(path)) + body
        if _safe_for(os.fstat(fd), uid) and _written(fd, name, (uid, gid), text):
            return made
        made.close()
    raise AttachPermissionError(
        f"No temporary folder of process {pid} can be written.",
        fix="Give it a writable /tmp (or TMPDIR), or run prismtop as root or as that user.",
    )


def _written(folder: int, name: str, owner: tuple[int, int], text: str) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        out = os.open(name, flags, 0o600, dir_fd=folder)
    except OSError:
        return False
    try:
        with os.fdopen(out, "w", encoding="ascii") as f:
            if owner != (os.geteuid(), os.getegid()):
                os.fchown(f.fileno(), *owner)
            f.write(text)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        return False
    return True
