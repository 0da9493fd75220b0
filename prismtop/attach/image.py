"""Find CPython inside a process: which file holds it, where it is loaded, which version it is.

Files are opened through /proc/PID/root, so that the target may live in another mount namespace, or through
/proc/PID/map_files when the file was replaced or deleted on disk since the process started.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass

from prismtop.attach.elf import ElfError, ElfFile, elf_class
from prismtop.attach.errors import (
    AttachPermissionError,
    InjectionError,
    NoSuchProcessError,
    UnsupportedTargetError,
)
from prismtop.attach.memory import read
from prismtop.attach.process import Mapping
from prismtop.safe_text import safe_text

_LIBPYTHON = re.compile(r"/libpython(\d)\.(\d+)[a-z]*\.so[^/]*$")
_ANY_PYTHON = re.compile(r"/(lib)?python(\d)(\.\d+)?[a-z]*(\.so[^/]*)?$")
_MUSL = re.compile(r"/(ld-musl|libc\.musl)-[^/]*$")
ENTRY_POINTS = ("Py_AddPendingCall", "PyRun_SimpleString", "Py_IsInitialized", "PyCallable_Check")
CHECK_SIGNALS = "PyErr_CheckSignals"
_EVAL, _RUNTIME = "_PyEval_EvalFrameDefault", "_PyRuntime"
# Offset of `int initialized` in _PyRuntimeState by minor (Include/internal/pycore_runtime.h). From 3.13 on
# it is eight bytes before `_finalizing`, whose offset is in the debug offsets.
_INITIALIZED_AT = {9: 12, 10: 12, 11: 16, 12: 16}
_COOKIE = b"xdebugpy"  # Include/internal/pycore_debug_offsets.h, _Py_Debug_Cookie


@dataclass(frozen=True)
class PythonImage:
    """CPython as loaded in one process.

    Attributes:
        path: the file that holds the interpreter, as the target sees it (libpython, or the executable).
        version: (major, minor, micro), micro -1 when it cannot be told; None when not even the minor can.
        free_threaded: None when it cannot be told.
        symbols: addresses in the process of those `ENTRY_POINTS` that are exported.
        heads: the first bytes of each of them, from the file.
        eval_loop: [start, end) of the interpreter loop in the process; empty when it is not exported.
        span: [start, end) of all mappings of the file in the process.
        runtime: address of `_PyRuntime` (CPython >= 3.10 puts it in a section `.PyRuntime`), or None.
        machine: e_machine of the file.
        musl: the process runs on musl libc.
    """

    path: str
    version: tuple[int, int, int] | None
    free_threaded: bool | None
    symbols: dict[str, int]
    heads: dict[str, bytes]
    eval_loop: range
    span: range
    runtime: int | None
    machine: int
    musl: bool


def openable_path(pid: int, mapping: Mapping, proc: str = "/proc") -> str:
    """A path by which this process can open the file behind a mapping of `pid`.

    Raises:
        AttachPermissionError: the file is gone from disk and /proc/PID/map_files may not be used.
    """
    path = f"{proc}/{pid}/root{mapping.path}"
    if not mapping.deleted and os.path.exists(path):
        return path
    link = f"{proc}/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
    try:
        os.stat(link)
    except OSError:
        raise AttachPermissionError(
            f"{safe_text(os.path.basename(mapping.path))} was replaced on disk after process {pid} started.",
            fix="Run prismtop as root (it then reads the old file through /proc), or restart the process.",
        ) from None
    return link


def executable(pid: int, proc: str = "/proc") -> str:
    """Path of the executable as the target sees it.

    Raises:
        AttachPermissionError: the kernel does not let this user see it.
        NoSuchProcessError: no such process, or one without an executable (kernel thread, zombie).
    """
    try:
        return os.readlink(f"{proc}/{pid}/exe").removesuffix(" (deleted)")
    except PermissionError:
        raise AttachPermissionError(f"The executable of process {pid} may not be seen.") from None
    except OSError:
        raise NoSuchProcessError(f"Process {pid} has no executable.") from None


def find_python(pid: int, maps: list[Mapping], exe: str, proc: str = "/proc") -> PythonImage:
    """Find the interpreter of a process; reads files only.

    Raises:
        UnsupportedTargetError: a 32-bit process, no CPython, or one whose symbols are not exported.
        AttachPermissionError: its files may not be read.
    """
    # Executable mappings only: a process may also have mapped its own files just to read them.
    code = [m for m in maps if "x" in m.perms]
    candidates = [m for m in code if _LIBPYTHON.search(m.path)] + [m for m in code if m.path == exe]
    seen: set[str] = set()
    python_like = bool(_ANY_PYTHON.search(exe))
    musl = any(_MUSL.search(m.path) for m in maps)
    for mapping in candidates:
        if mapping.path in seen:
            continue
        seen.add(mapping.path)
        path = openable_path(pid, mapping, proc)
        with open(path, "rb") as f:
            if elf_class(f.read(16)) == 32:
                raise UnsupportedTargetError(
                    f"Process {pid} is a 32-bit program, which prismtop cannot enter."
                )
        python_like = python_like or bool(_LIBPYTHON.search(mapping.path))
        try:
            with ElfFile(path) as elf:
                bias = elf.load_bias(mapping.start, mapping.offset)
                found = elf.symbols((*ENTRY_POINTS, CHECK_SIGNALS, _EVAL, _RUNTIME))
                eval_at, eval_size = found.pop(_EVAL, (-bias, 0))
                runtime = found.pop(_RUNTIME, None)
                section = elf.section(".PyRuntime")
                runtime_at = section.vaddr if section else runtime[0] if runtime else None
                symbols = {name: value for name, (value, _) in found.items()}
                mine = [m for m in maps if m.path == mapping.path]
                if "Py_AddPendingCall" not in symbols and section is None:
                    continue
                version, free_threaded = python_version(elf, mapping.path)
                return PythonImage(
                    path=mapping.path,
                    version=version,
                    free_threaded=free_threaded,
                    symbols={name: value + bias for name, value in symbols.items()},
                    heads={name: elf.read_vaddr(value, 16) or b"" for name, value in symbols.items()},
                    eval_loop=range(eval_at + bias, eval_at + bias + eval_size),
                    span=range(mine[0].start, mine[-1].end),
                    runtime=None if runtime_at is None else runtime_at + bias,
                    machine=elf.machine,
                    musl=musl,
                )
        except ElfError:
            continue
    if python_like:
        raise UnsupportedTargetError(
            f"Process {pid} runs a Python whose symbols are not exported (a static or stripped build).",
            fix="Run the engine on a Python that exports its C API to attach; watching from outside works.",
        )
    name = safe_text(os.path.basename(exe))
    raise UnsupportedTargetError(
        f"Process {pid} ({name}) is not a CPython process.",
        fix="Run 'prismtop list' to see the processes that can be watched.",
    )


def python_version(elf: ElfFile, path: str) -> tuple[tuple[int, int, int] | None, bool | None]:
    """Version and free-threading of an interpreter, from its file alone.

    In this order: the debug offsets that CPython >= 3.13 keeps at the start of `.PyRuntime`; the exported
    constant `Py_Version` (>= 3.11, Include/pylifecycle.h); the version text in `.rodata`; the file name.
    """
    runtime = elf.read_section(".PyRuntime")[:24]
    if runtime[:8] == _COOKIE:
        number = int.from_bytes(runtime[8:16], "little")
        return _from_hex(number), runtime[16:24] != bytes(8)
    constant = elf.symbols(("Py_Version",)).get("Py_Version")
    word = elf.read_vaddr(constant[0], 8) if constant else None
    if word is not None:
        return _from_hex(int.from_bytes(word, "little")), False
    name = _LIBPYTHON.search(path) or re.search(r"/python(\d)\.(\d+)$", path)
    if name:
        minor = rf"{int(name[1])}\.{int(name[2])}"
    else:
        minor = r"3\.(?:[0-9]|10)"
    # The linker merges the text into the tail of longer ones (".../versions/3.10.13"), hence no leading NUL.
    texts = re.findall(rf"({minor}\.\d+)\+?\0".encode(), elf.read_section(".rodata"))
    if texts:
        major, second, micro = Counter(texts).most_common(1)[0][0].decode().split(".")
        return (int(major), int(second), int(micro)), False
    return ((int(name[1]), int(name[2]), -1), False) if name else (None, None)


def _from_hex(number: int) -> tuple[int, int, int]:
    """PY_VERSION_HEX, Include/patchlevel.h."""
    return (number >> 24) & 0xFF, (number >> 16) & 0xFF, (number >> 8) & 0xFF


def seems_initialized(pid: int, image: PythonImage) -> bool:
    """Whether Py_Initialize has finished in the target, by a read of its runtime state.

    False also means that it could not be told; `Py_IsInitialized` must then be asked.
    """
    minor = image.version[1] if image.version else 0
    if image.runtime is None:
        return False
    at = _INITIALIZED_AT.get(minor)
    if minor >= 13:
        # struct _Py_DebugOffsets: cookie, version, free_threaded, runtime_state {size, finalizing, ...}
        at = int.from_bytes(read(pid, image.runtime + 32, 8), "little") - 8
    if at is None or not 0 <= at < 1 << 16:
        return False
    return read(pid, image.runtime + at, 4) == b"\1\0\0\0"


def verify_in_memory(pid: int, image: PythonImage) -> None:
    """Make sure that the code in the process is the code of the file that the addresses came from.

    Raises:
        InjectionError: it is not: the file was replaced, or somebody patched the functions.
    """
    for name, address in image.symbols.items():
        head = image.heads.get(name, b"")
        if head and read(pid, address, len(head)) != head:
            raise InjectionError(
                f"{name} in process {pid} is not the code of {safe_text(image.path)}: the file was replaced, "
                "or another tool patched it.",
                fix="Restart the process, or detach the other tool (uprobes, Frida), then try again.",
            )
