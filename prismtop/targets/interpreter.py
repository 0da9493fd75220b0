"""Which Python a process runs and which distribution it has installed: from path names and small files only.

Nothing is executed and no memory is read. Files are opened through /proc/PID/root: a container's are found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prismtop.targets import procfs

# Plain strings: compiling them on import would cost every command that only lists.
_EXE = r"^python(?:(\d)(?:\.(\d+))?(t)?)?(?:-dbg|d)?$"
_LIBPYTHON = r"/libpython(\d)\.(\d+)(t?)d?\.so"
_EXTENSION = r"\.cpython-(\d)(\d+)(t?)d?-[^/]*\.so$"
_LIBRARY = r"/lib(?:64)?/python(\d)\.(\d+)(t?)/"
_PACKAGES = r"^(.*?/(?:site|dist)-packages)/"
_NORMAL = r"[-_.]+"


@dataclass(frozen=True)
class Python:
    """An interpreter.

    Attributes:
        version: (major, minor) or (major, minor, micro).
        free_threaded: whether it has no GIL; None when not known.
    """

    version: tuple[int, ...]
    free_threaded: bool | None


def looks_like_python(argv: tuple[str, ...], exe: str | None) -> bool:
    """Whether the program is a Python interpreter, by its file name, or its first argument's if hidden."""
    name = exe if exe is not None else (argv[0] if argv else "")
    return bool(re.match(_EXE, os.path.basename(name)))


@dataclass(frozen=True)
class Paths:
    """The path names that a process shows. `maps` are read once: the kernel locks the memory map for it."""

    root: str
    argv: tuple[str, ...]
    exe: str | None
    maps: tuple[str, ...] | None


def read_paths(pid: int, argv: tuple[str, ...], proc: str = procfs.PROC) -> Paths:
    """Everything that `find_python` and `Installed` look at."""
    root = f"{proc}/{pid}/root"
    if not os.access(root, os.X_OK):
        status = procfs.read_status(pid, proc)
        if status is not None and status.namespaces == 1:
            # Another user's process outside any container: its root is ours, in all likelihood.
            root = ""
    return Paths(root, argv, procfs.read_exe(pid, proc), procfs.mapped_files(pid, proc))


def find_python(paths: Paths) -> Python | None:
    """The interpreter of a process; None when it is not Python or cannot be told."""
    found = _from_paths(paths.exe, paths.maps or (), paths.argv)
    if found is None:
        return None
    (major, minor), threaded = found
    micro = _micro(paths.root, paths.exe, paths.argv, (major, minor))
    if threaded is None and (major, minor) < (3, 13):
        threaded = False
    return Python((major, minor) if micro is None else (major, minor, micro), threaded)


def _from_paths(
    exe: str | None, maps: tuple[str, ...], argv: tuple[str, ...]
) -> tuple[tuple[int, int], bool | None] | None:
    # An extension module names the interpreter that loaded it exactly, free threading included.
    for pattern in (_LIBPYTHON, _EXTENSION):
        for path in maps:
            if match := re.search(pattern, path):
                return (int(match[1]), int(match[2])), match[3] == "t"
    # Only what is interpreter-like may name it from here on: other programs map files below lib/python, too.
    for name in (exe, argv[0] if argv else None):
        match = re.match(_EXE, os.path.basename(name)) if name else None
        if match and match[2]:
            return (int(match[1]), int(match[2])), match[3] == "t" if name is exe else None
    if looks_like_python(argv, exe):
        for path in (*maps, *argv):
            if match := re.search(_LIBRARY, path):
                return (int(match[1]), int(match[2])), match[3] == "t"
    return None


def _micro(root: str, exe: str | None, argv: tuple[str, ...], minor: tuple[int, int]) -> int | None:
    """The micro version from the headers beside the interpreter or the virtual environment's pyvenv.cfg."""
    name = f"python{minor[0]}.{minor[1]}"
    if exe:
        prefix = os.path.dirname(os.path.dirname(exe))
        for include in (f"{prefix}/include/{name}", f"{prefix}/include/{name}t"):
            text = _text(f"{root}{include}/patchlevel.h")
            if match := re.search(r"#define\s+PY_MICRO_VERSION\s+(\d+)", text):
                return int(match[1])
    candidates = [path for path in argv[:2] if path.startswith("/")]
    for path in candidates:
        text = _text(f"{root}{os.path.dirname(os.path.dirname(path))}/pyvenv.cfg")
        match = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
        if match and (int(match[1]), int(match[2])) == minor:
            return int(match[3])
    pyenv = re.search(rf"/{minor[0]}\.{minor[1]}\.(\d+)[^/]*/bin/", exe or "")
    return int(pyenv[1]) if pyenv else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


class Installed:
    """Distributions in site-packages directories, each directory listed once."""

    def __init__(self) -> None:
        self._listed: dict[str, Mapping[str, str]] = {}

    def version(self, paths: Paths, names: Iterable[str]) -> str | None:
        """Version of the first of `names` that is installed where the process takes its packages from."""
        directories = [paths.root + path for path in self._directories(paths)]
        for name in names:
            for directory in directories:
                if version := self._in(directory).get(_normal(name)):
                    return version
        return None

    @staticmethod
    def _directories(paths: Paths) -> list[str]:
        seen = (*(paths.maps or ()), *paths.argv)
        found = dict.fromkeys(match[1] for path in seen if (match := re.match(_PACKAGES, path)))
        python = find_python(paths)
        for path in (*paths.argv[:2], *([paths.exe] if paths.exe else [])):
            if python is not None and path.startswith("/") and "/bin/" in path:
                prefix = os.path.dirname(os.path.dirname(path))
                name = f"python{python.version[0]}.{python.version[1]}"
                found[f"{prefix}/lib/{name}{'t' if python.free_threaded else ''}/site-packages"] = None
                found[f"{prefix}/lib/python3/dist-packages"] = None
                found[f"{prefix}/local/lib/{name}/dist-packages"] = None
        return list(found)

    def _in(self, directory: str) -> Mapping[str, str]:
        if directory not in self._listed:
            try:
                names = os.listdir(directory)
            except OSError:
                names = []
            infos = (
                name[: -len(".dist-info")].partition("-") for name in names if name.endswith(".dist-info")
            )
            self._listed[directory] = {_normal(name): version for name, _, version in infos if version}
        return self._listed[directory]


def _normal(name: str) -> str:
    return re.sub(_NORMAL, "-", name).lower()
