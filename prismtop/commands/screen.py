"""`prismtop`: find the engine, attach, open the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prismtop.commands.attaching import open_session
from prismtop.commands.choose import (
    Profiles,
    named_group,
    nothing_found,
    profiles_in_use,
    running_groups,
    several_found,
)
from prismtop.commands.context import Context, closing_session
from prismtop.errors import EXIT_OK, PrismtopError, UsageError
from prismtop.model import CaptureRequest, Group
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.commands import recordings
    from prismtop.session import Session
    from prismtop.tui.controls import Controls


def run(context: Context, pids: Sequence[int]) -> int:
    """Open the screen on the engine that `pids` name, on the only one, or on the one that is picked."""
    profiles = profiles_in_use()
    if pids:
        group: Group | None = named_group(pids, profiles)
    else:
        groups = running_groups(context, profiles)
        if not groups:
            raise nothing_found(profiles)
        group = groups[0] if len(groups) == 1 else _pick(context, groups)
    if group is None:
        return EXIT_OK
    if not context.interactive:
        raise UsageError(
            "the screen needs a terminal.", fix="Use `prismtop watch` for a table, `--json` for JSON lines."
        )
    return open_screen(context, group, profiles)


def open_screen(context: Context, group: Group, profiles: Profiles) -> int:
    """Attach to `group`, show it until the person quits, detach.

    When the terminal is lost while something is recorded, that goes on in a process without a terminal.
    """
    from prismtop.tui.app import check_screen, run_app

    check_screen(context.settings)
    lost = False

    def note() -> None:
        nonlocal lost
        lost = True

    session, rejoined = _open(context, group, profiles)
    with closing_session(context, session):
        if rejoined:
            session.tick()  # a recording begins with what is watched
            session.start_recording()
        code = run_app(session, settings=context.settings, controls=session_keys(context, session, note))
    if lost:
        _record_on(context, group)
    return code


def _open(context: Context, group: Group, profiles: Profiles) -> tuple[Session, bool]:
    """Attach; True when a recording that ran without a terminal was ended for it, which goes on here."""
    from prismtop.trace.recorder import Recorder, RecorderSettings

    def attach() -> Session:
        recorder = Recorder(RecorderSettings.of(context.settings))
        return open_session(context, group, profiles, counters=True, deepdive=True, recorder=recorder)

    try:
        return attach(), False
    except PrismtopError as error:
        from prismtop.commands import recordings

        # One process has one probe: the recording has to let go first.
        watching = (one for one in recordings.running() if f"(pid {one.pid})" in str(error))
        one = next(watching, None)
        if one is None or not _rejoined(context, one):
            raise
    return attach(), True


def _rejoined(context: Context, one: recordings.Running) -> bool:
    from prismtop.commands import recordings

    since = time.strftime("%H:%M", time.localtime(one.since))
    agreed = context.report.confirm(
        f"{one.what} is being recorded without a terminal since {since}, to {safe_text(one.path, 4096)}. "
        "Rejoin it? The recording then goes on here, in a second file."
    )
    if agreed:
        with context.report.status("waiting for the recording to complete its file"):
            recordings.stop(one)
    return bool(agreed)


def _record_on(context: Context, group: Group) -> None:
    from prismtop.commands import record

    pids = [member.id.pid for member in group.probed]
    try:
        record.detach(context, pids, record.RecordOptions())
    except PrismtopError as error:  # nobody may read it; the file so far is complete
        context.report.say(str(error))


def session_keys(context: Context, session: Session, lost: Callable[[], None]) -> Controls:
    """What `R` and `d` do, with sentences for a person; `lost` is called when the terminal was lost."""
    from prismtop.tui.controls import Controls

    def start() -> str:
        return safe_text(session.start_recording().path)

    def stop() -> str:
        recording, notes = session.stop_recording()
        if recording is None:
            return "there was no recording"
        size = f"{recording.bytes / 1e6:.1f} MB, {recording.events:,} events"
        return " ".join((f"{safe_text(recording.path)} ({size})", *map(safe_text, notes)))

    request = CaptureRequest(
        batches=context.settings.deepdive_batches, max_s=context.settings.deepdive_max_s, why="key"
    )

    def dive() -> str:
        session.deepdive(request)
        return "the same key cancels it"

    def cancel() -> str:
        return "" if session.cancel_deepdive() is not None else "no capture is running"

    return Controls(
        start_recording=start,
        stop_recording=stop,
        deepdive=dive,
        preview_deepdive=lambda: session.preview_deepdive(request),
        cancel_deepdive=cancel,
        replay=session.replay,
        lost=lost,
    )


def _pick(context: Context, groups: Sequence[Group]) -> Group | None:
    """The group that the person picks; None when they leave the picker."""
    if not context.interactive:
        raise several_found(groups)
    from prismtop.tui.picker import pick_group

    return pick_group(groups, settings=context.settings)
