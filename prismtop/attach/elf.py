"""A minimal ELF64 little-endian reader: load segments, sections, dynamic symbols (elf(5))."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

EM_X86_64 = 62
EM_AARCH64 = 183
PT_LOAD = 1
SHT_DYNSYM = 11
_CLASS_64 = 2
_DATA_LSB = 1
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


class ElfError(ValueError):
    """The file is no ELF file, or one of a kind that is not read here (32-bit, big-endian, damaged)."""


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD program header; all in bytes."""

    flags: int
    offset: int
    vaddr: int
    file_size: int
    mem_size: int
    align: int


@dataclass(frozen=True)
class Section:
    name: str
    kind: int
    vaddr: int
    offset: int
    size: int
    link: int


def elf_class(header: bytes) -> int | None:
    """32 or 64 for an ELF header, None for anything else."""
    if header[:4] != b"\x7fELF" or len(header) < 5:
        return None
    return {1: 32, 2: 64}.get(header[4])


class ElfFile:
    """An ELF64 file mapped for reading; a context manager.

    Raises:
        ElfError: not an ELF64 little-endian file, or truncated.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < 64:
                raise ElfError("not an ELF file")
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        try:
            self._parse()
        except (struct.error, IndexError, OverflowError) as e:
            self._map.close()
            raise ElfError("damaged ELF file") from e
        except ElfError:
            self._map.close()
            raise

    def _parse(self) -> None:
        m = self._map
        if m[:4] != b"\x7fELF":
            raise ElfError("not an ELF file")
        if m[4] != _CLASS_64 or m[5] != _DATA_LSB:
            raise ElfError("not a 64-bit little-endian ELF file")
        (self.machine,) = struct.unpack_from("<H", m, 18)
        phoff, shoff = struct.unpack_from("<QQ", m, 32)
        phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<HHHHH", m, 54)
        self.segments: list[Segment] = []
        for i in range(phnum):
            kind, flags, offset, vaddr, _, fsz, msz, align = _SEGMENT.unpack_from(m, phoff + i * phentsize)
            if kind == PT_LOAD:
                self.segments.append(Segment(flags, offset, vaddr, fsz, msz, align))
        raw = [_SECTION.unpack_from(m, shoff + i * shentsize) for i in range(shnum)] if shoff else []
        names = raw[shstrndx][4] if raw else 0
        self.sections = [Section(self._text(names + s[0]), s[1], s[3], s[4], s[5], s[6]) for s in raw]

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()

    def _text(self, offset: int) -> str:
        end = self._map.find(b"\0", offset)
        return self._map[offset:end].decode("utf-8", "replace")

    def section(self, name: str) -> Section | None:
        """The section of that name; None when absent or when the section headers are stripped."""
        return next((s for s in self.sections if s.name == name), None)

    def load_bias(self, mapped_start: int, mapped_offset: int) -> int:
        """What to add to a virtual address of the file to get its address in a process.

        Args:
            mapped_start: address of any file-backed mapping of this file.
            mapped_offset: that mapping's offset into the file.

        The segment that holds the offset decides: the kernel maps whole pages of p_offset at p_vaddr
        (fs/binfmt_elf.c, elf_map).
        """
        page = os.sysconf("SC_PAGE_SIZE")
        # Two segments may share a page of the file; a mapping that starts there belongs to the later one.
        for s in sorted(self.segments, key=lambda s: s.offset, reverse=True):
            first = s.offset - s.offset % page
            if first <= mapped_offset < s.offset + max(s.file_size, 1):
                return mapped_start - mapped_offset - (s.vaddr - s.offset)
        raise ElfError("the mapping belongs to no loadable segment")

    def symbols(self, wanted: Iterable[str]) -> dict[str, tuple[int, int]]:
        """(virtual address, size in bytes) of exported dynamic symbols; absent ones are left out."""
        left = {name.encode(): name for name in wanted}
        found: dict[str, tuple[int, int]] = {}
        for table in self.sections:
            if table.kind != SHT_DYNSYM or not left:
                continue
            strings = self.sections[table.link]
            text = self._map[strings.offset : strings.offset + strings.size]
            offsets = {}
            for raw in left:
                at = text.find(raw + b"\0")
                while at >= 0:  # linkers merge a name into the tail of a longer one, so it may occur anywhere
                    offsets[at] = raw
                    at = text.find(raw + b"\0", at + 1)
            symbols = self._map[table.offset : table.offset + table.size - table.size % _SYMBOL.size]
            for name, _, _, index, value, size in _SYMBOL.iter_unpack(symbols):
                if index and value and name in offsets:
                    found[left[offsets[name]]] = (value, size)
        return found

    def read_vaddr(self, vaddr: int, size: int) -> bytes | None:
        """Initial contents at a virtual address, as stored in the file; None when it is not stored (.bss)."""
        for s in self.segments:
            if s.vaddr <= vaddr and vaddr + size <= s.vaddr + s.file_size:
                at = s.offset + vaddr - s.vaddr
                return self._map[at : at + size]
        return None

    def read_section(self, name: str) -> bytes:
        """Contents of a section; empty when it is absent or has none in the file."""
        s = self.section(name)
        return b"" if s is None or s.kind == 8 else self._map[s.offset : s.offset + s.size]

    def read_file(self, offset: int, size: int) -> bytes:
        """Raw bytes of the file."""
        return self._map[offset : offset + size]
