"""Puts the probes of one engine in, all or none, and takes them out together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from prismtop.attach.helper_process import Helper
from prismtop.errors import PrismtopError
from prismtop.sources.probe_link import RING_WAIT_S, ProbeLink

_SETTLE_S = 0.1  # from the moment at which a probe may have started, unknown to us, to its memory


def attach_all(links: Sequence[ProbeLink], progress: Callable[[str], None] = lambda text: None) -> None:
    """Put every probe in; when one fails, or it is interrupted, take all of them out again and raise that."""
    entered: list[ProbeLink] = []

    def keep() -> None:
        for link in entered:
            link.keep()

    try:
        with Helper() as helper:
            for link in links:
                progress(f"attaching to {link.target.role} {link.pid}")
                entered.append(link)
                try:
                    link.attach(helper, keep)
                except BaseException:
                    _find(link)
                    raise
                helper.raise_held()
                keep()
    except BaseException:
        detach_all(entered)
        raise


def _find(link: ProbeLink) -> None:
    """After an attach without an end: what of it is in the process, so that it can be taken out."""
    if link.state != "detached":
        return
    link.state = "armed"
    started = link.injection is not None and link.injection.started
    end = time.monotonic() + (RING_WAIT_S if started else _SETTLE_S)
    with contextlib.suppress(PrismtopError):
        link.poll(time.monotonic_ns())
        while link.state == "armed" and time.monotonic() < end:
            time.sleep(0.002)
            link.poll(time.monotonic_ns())


def detach_all(links: Sequence[ProbeLink]) -> tuple[str, ...]:
    """Ask all first, then wait: batch boundaries of several processes pass side by side."""
    for link in links:
        link.ask_detach()
    return tuple(note for link in links for note in link.finish_detach())
