"""Where a CPython process keeps its GIL, found from outside.

A thread that waits for the GIL sleeps in futex(2) on a word of the GIL's condition variable or mutex, and
that is part of `_PyRuntime`: `ceval.gil` up to 3.11, `_main_interpreter._gil` from 3.12 on
(Include/internal/pycore_runtime.h, pycore_gil.h). CPython's other locks are semaphores of their own, on the
heap or on a stack, so a futex inside `_PyRuntime` is the GIL's, but for ones held for microseconds.
"""

from __future__ import annotations

from prismtop.attach.elf import ElfError, ElfFile
from prismtop.attach.errors import AttachError
from prismtop.attach.image import executable, find_python, openable_path
from prismtop.attach.process import read_maps


def gil_range(pid: int) -> tuple[range, str]:
    """Addresses of the state that holds the GIL, or an empty range and why it is not known."""
    try:
        maps = read_maps(pid)
        image = find_python(pid, maps, executable(pid))
        if image.free_threaded:
            return range(0), "this Python has no GIL"
        mapping = next(m for m in maps if m.path == image.path and "x" in m.perms)
        with ElfFile(openable_path(pid, mapping)) as elf:
            at, size = elf.symbols(("_PyRuntime",)).get("_PyRuntime", (0, 0))
            section = elf.section(".PyRuntime")
            if not size and section is not None:
                at, size = section.vaddr, section.size
            bias = elf.load_bias(mapping.start, mapping.offset)
    except (AttachError, ElfError, OSError, StopIteration) as error:
        return range(0), str(error) or type(error).__name__
    if not size:
        return range(0), "the interpreter does not export where its state is"
    return range(at + bias, at + bias + size), ""
