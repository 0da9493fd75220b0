"""The ELF reader, against the system's own tools and against damaged files."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from pathlib import Path

import pytest

from prismtop.attach.elf import ElfError, ElfFile, elf_class
from prismtop.attach.process import read_maps


def libc_path() -> str:
    for mapping in read_maps(os.getpid()):
        if mapping.path.rsplit("/", 1)[-1].startswith("libc.so") and "x" in mapping.perms:
            return mapping.path
    pytest.skip("no glibc here")


def test_a_symbol_is_found_where_the_dynamic_linker_finds_it() -> None:
    path = libc_path()
    executable = next(m for m in read_maps(os.getpid()) if m.path == path and "x" in m.perms)
    with ElfFile(path) as elf:
        value, size = elf.symbols(["getppid"])["getppid"]
        address = value + elf.load_bias(executable.start, executable.offset)
    assert address == ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value
    assert size > 0


def test_the_load_bias_is_the_same_from_every_mapping() -> None:
    path = libc_path()
    maps = [m for m in read_maps(os.getpid()) if m.path == path]  # before the reader maps the file once more
    with ElfFile(path) as elf:
        assert len({elf.load_bias(m.start, m.offset) for m in maps}) == 1


def test_absent_symbols_and_sections_are_left_out() -> None:
    with ElfFile(libc_path()) as elf:
        assert elf.symbols(["there_is_no_such_symbol"]) == {}
        assert elf.section(".there-is-no-such-section") is None
        assert elf.read_section(".there-is-no-such-section") == b""


def test_undefined_symbols_do_not_count_as_found(tmp_path: Path) -> None:
    source, library = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text("extern int missing_one(void); int present_one(void) { return missing_one(); }")
    built = subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], capture_output=True)
    if built.returncode != 0:
        pytest.skip("gcc is not installed")
    with ElfFile(str(library)) as elf:
        assert set(elf.symbols(["missing_one", "present_one"])) == {"present_one"}


def test_code_read_from_the_file_is_the_code_in_memory() -> None:
    path = libc_path()
    with ElfFile(path) as elf:
        value, _ = elf.symbols(["getppid"])["getppid"]
        stored = elf.read_vaddr(value, 8)
    function = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value
    assert function is not None
    assert stored == ctypes.string_at(function, 8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an ELF file, but long enough to be one" * 4,
        b"\x7fELF\x01\x01" + bytes(100),  # 32-bit
        b"\x7fELF\x02\x02" + bytes(100),  # big-endian
        b"\x7fELF\x02\x01" + b"\xff" * 100,  # tables beyond the end
        b"\x7fELF\x02\x01"
        + struct.pack("<10xHHIQQQIHHHHHH", 3, 62, 1, 0, 64, 1 << 40, 0, 64, 56, 9, 64, 9, 1),
    ],
)
def test_what_is_no_elf64_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ElfError):
        ElfFile(str(path))


def test_a_truncated_library_is_refused_or_gives_nothing_wrong(tmp_path: Path) -> None:
    whole = Path(libc_path()).read_bytes()
    for share in (0.1, 0.5, 0.9):
        path = tmp_path / "cut"
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            with ElfFile(str(path)) as elf:
                elf.symbols(["getppid"])
        except ElfError:
            pass


@pytest.mark.parametrize(
    ("header", "bits"), [(b"\x7fELF\x01", 32), (b"\x7fELF\x02", 64), (b"#!/bin/sh", None), (b"", None)]
)
def test_the_class_is_told_from_the_header(header: bytes, bits: int | None) -> None:
    assert elf_class(header) == bits
