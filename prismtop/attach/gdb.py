"""The gdb way in, for where ptrace injection does not reach (aarch64, shadow stacks): the same single
pending call.

gdb stops all threads for 0.2 to 4 s, so it is used only when the user allows it. It loads no symbols (13 s
on a torch process otherwise) and allocates nothing: addresses come from `image`, memory from mmap.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from prismtop.attach.elf import ElfFile
from prismtop.attach.errors import AttachError, InjectionError, UnsupportedTargetError
from prismtop.attach.handshake import Handshake, Seen, look
from prismtop.attach.image import executable, find_python, openable_path, seems_initialized, verify_in_memory
from prismtop.attach.payload import TEMPLATE_HEAD
from prismtop.attach.process import Mapping, check_identity, read_maps, read_stat
from prismtop.safe_text import safe_text

_PAGE = 4096
_MOST, _UNMAPPED = (1 << 64) - _PAGE, -77
"""The highest address that mmap may return, and what is queued as where it returned an error beyond."""
_REHEARSAL_S = 0.2
_LIBC = re.compile(r"/(libc\.so\.6|libc-2\.\d+\.so|ld-musl-[^/]*)$")
_PRELUDE = (
    "set confirm off", "set pagination off", "set auto-solib-add off", "set auto-load off",
    "set debuginfod enabled off", "set unwindonsignal on", "set unwind-on-terminating-exception on",
)  # fmt: skip


@dataclass(frozen=True)
class GdbResult:
    """See `ladder.Injection`; `pause_us` is the whole run of gdb, an upper bound."""

    pause_us: float
    seen: Seen
    scratch: tuple[int, int]


def find_gdb() -> str | None:
    """Path of gdb, or None."""
    return shutil.which("gdb")


def missing() -> UnsupportedTargetError:
    """The error for a machine without gdb."""
    return UnsupportedTargetError("gdb is not installed.", fix="Install it, for example 'apt install gdb'.")


def inject(pid: int, start_time: int, source: str, handshake: Handshake, *, timeout_s: float) -> GdbResult:
    """Queue `source` for the main thread through gdb, after the same was done to a child of our own.

    Raises:
        UnsupportedTargetError: no gdb, or one that fails on the child.
        InjectionError: gdb did not do it, or Python is not initialised.
        AttachError: see `find_python`.
    """
    rehearse()
    pause_us, scratch = _queue(pid, start_time, source)
    deadline = time.monotonic() + timeout_s
    while True:
        seen = look(pid, handshake)
        if seen.started or seen.error is not None or time.monotonic() >= deadline:
            return GdbResult(pause_us, seen, scratch)
        check_identity(pid, start_time)
        time.sleep(0.002)


def rehearse() -> None:
    """Let gdb enter a child of our own first.

    A gdb that cannot write the registers of this machine's CPU (13.1 with AMX: "Couldn't write extended state
    status") fails in the middle of a call, and the process that it was attached to dies of it.

    Raises:
        UnsupportedTargetError: it failed; the target was not touched.
    """
    command = [sys.executable, "-S", "-c", "import time\nprint(1, flush=True)\nwhile True: time.sleep(0.01)"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        _queue(child.pid, read_stat(child.pid).start_time, TEMPLATE_HEAD)
        time.sleep(_REHEARSAL_S)
        if child.poll() is not None:
            raise InjectionError("the process ended")
    except AttachError as e:
        raise UnsupportedTargetError(
            f"gdb fails on this machine ({e.message.rstrip('.')}), as seen on a process of prismtop's own.",
            fix="Install a newer gdb, and try again.",
        ) from None
    finally:
        child.kill()
        child.communicate()


def _queue(pid: int, start_time: int, source: str) -> tuple[float, tuple[int, int]]:
    """One run of gdb; (microseconds, scratch mapping)."""
    gdb = find_gdb()
    if gdb is None:
        raise missing()
    maps = read_maps(pid)
    image = find_python(pid, maps, executable(pid))
    verify_in_memory(pid, image)
    if not seems_initialized(pid, image):
        raise InjectionError(
            f"Python in process {pid} is not initialised yet.", fix="Try again in a few seconds."
        )
    data = source.encode("ascii") + b"\0"
    size = (len(data) + _PAGE - 1) // _PAGE * _PAGE
    mmap = _find_mmap(pid, maps)
    add, run = image.symbols["Py_AddPendingCall"], image.symbols["PyRun_SimpleString"]
    with tempfile.NamedTemporaryFile(prefix="prismtop-") as f:
        f.write(data)
        f.flush()
        commands = [
            f"set $m = ((unsigned long (*)(void *, unsigned long, int, int, int, long)){mmap:#x})"
            f"((void *)0, {size}, 3, 0x22, -1, 0)",
            'printf "prismtop mapped %lu\\n", $m',
            f"restore {f.name} binary $m",
            # gdb goes on after an error: what is queued for an address that is none ends the process.
            f"set $r = $m > {_MOST:#x} ? {_UNMAPPED} : "
            f"((int (*)(void *, void *)){add:#x})((void *){run:#x}, (void *)$m)",
            'printf "prismtop queued %d\\n", $r',
            "detach",
        ]
        arguments = [gdb, "-nx", "-nh", "-batch"]
        for text in _PRELUDE:
            arguments += ["-iex", text]
        arguments += ["-p", str(pid)]
        for text in commands:
            arguments += ["-ex", text]
        check_identity(pid, start_time)
        began = time.perf_counter_ns()
        # No timeout: killing gdb in the middle of a call would kill the target.
        done = subprocess.run(
            arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        pause_us = (time.perf_counter_ns() - began) / 1e3
    mapped = re.search(r"^prismtop mapped (\d+)$", done.stdout, re.M)
    queued = re.search(r"^prismtop queued (-?\d+)$", done.stdout, re.M)
    if queued is not None and int(queued[1]) == _UNMAPPED:
        raise InjectionError(
            f"Process {pid} maps no more memory (its limit, or the system's).",
            fix="Raise that limit (`prlimit --as`, vm.max_map_count), or use --external-only.",
        )
    if mapped is None or queued is None or int(queued[1]) != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        told = next((line for line in lines if "Couldn't" in line or "Cannot" in line), (lines or [""])[-1])
        reason = safe_text(told, 200).rstrip(".") if lines else "no output"
        raise InjectionError(f"gdb could not enter process {pid}: {reason}.")
    return pause_us, (int(mapped[1]), size)


def _find_mmap(pid: int, maps: list[Mapping]) -> int:
    for mapping in maps:
        if "x" in mapping.perms and _LIBC.search(mapping.path):
            with ElfFile(openable_path(pid, mapping)) as elf:
                found = elf.symbols(("mmap",)).get("mmap")
                if found:
                    return found[0] + elf.load_bias(mapping.start, mapping.offset)
    raise UnsupportedTargetError(f"Process {pid} has no C library that prismtop knows.")
