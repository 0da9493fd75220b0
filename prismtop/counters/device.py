"""What a vendor's file gives to the sampler. A new vendor is one file here and its name in `VENDORS`.

The file has a function `open_reader(where)` that looks for the vendor's devices and returns

* a `Reader` (see `prismtop.counters.sheet`) whose `read` puts `gpu_*` readings on the sheet, one series per
  device, named `gpu N` or as the vendor's own tools name it, and `DEVICE pid N` for a process's share of it;
* or `Absent`, with the reason and what would help.

`open_reader` and `read` run in a thread of the sampler, never in the screen's. They may block; what they
raise is shown as a reader's failure. What a device does not have is a `sheet.gap` with the reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from prismtop.counters.catalogue import CATALOGUE
from prismtop.counters.sheet import Reader
from prismtop.model import Target

VENDORS = ("nvidia", "amd", "intel", "ascend", "drm")
"""Modules of this package, most common first; `drm` takes what no other one does."""


@dataclass(frozen=True)
class Where:
    """Where to look, and whose share of a device to tell.

    Attributes:
        targets: processes of the engine.
        proc, sys, dev: mount points.
    """

    targets: Sequence[Target] = field(default_factory=tuple)
    proc: str = "/proc"
    sys: str = "/sys"
    dev: str = "/dev"


@dataclass(frozen=True)
class Absent:
    """A vendor without devices here, or without a way to read them.

    Attributes:
        vendor: its module.
        reason: what was found, one sentence without a full stop.
        fix: what would help; empty when there is simply no such device.
        hardware: a device seems to be there, but cannot be read.
    """

    vendor: str
    reason: str
    fix: str = ""
    hardware: bool = False


def open_vendors(where: Where, vendors: Sequence[str] = VENDORS) -> tuple[list[Reader], list[Absent]]:
    """Readers of every vendor that has devices here, and why the others have none."""
    readers: list[Reader] = []
    absent: list[Absent] = []
    for name in vendors:
        opener: Callable[[Where], Reader | Absent]
        opener = importlib.import_module(f"prismtop.counters.{name}").open_reader
        try:
            found = opener(where)
        except Exception as error:  # a driver's library may raise anything; the other vendors still count
            found = Absent(name, f"{type(error).__name__}: {error}", hardware=True)
        if isinstance(found, Absent):
            absent.append(found)
        else:
            readers.append(found)
    return readers, absent


def missing(read: Iterable[str]) -> tuple[str, ...]:
    """The counters of a whole device that are not among those that a vendor's module reads: each needs a gap,
    with the reason, so that nothing is missing in silence.
    """
    known = set(read)
    return tuple(
        name
        for name, spec in CATALOGUE.items()
        if spec.signal.startswith("gpu.") and spec.labels == ("device",) and name not in known
    )


def why_no_device(absent: Sequence[Absent]) -> str:
    """One reason for a machine without any device: the one that can be fixed, else that there is none."""
    for one in absent:
        if one.hardware or one.fix:
            return f"{one.vendor}: {one.reason}"
    return "no accelerator was found"
