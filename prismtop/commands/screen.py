"""`prismtop`: find the engine, attach, open the screen."""

from __future__ import annotations

from collections.abc import Sequence
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
from prismtop.errors import EXIT_OK, UsageError
from prismtop.model import Group
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
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
    """Attach to `group`, show it until the person quits, detach."""
    from prismtop.trace.recorder import Recorder, RecorderSettings
    from prismtop.tui.app import run_app

    recorder = Recorder(RecorderSettings.of(context.settings))
    session = open_session(context, group, profiles, counters=True, recorder=recorder)
    with closing_session(context, session):
        return run_app(session, settings=context.settings, controls=recording_keys(session))


def recording_keys(session: Session) -> Controls:
    """What `R` does, with sentences for the status line."""
    from prismtop.tui.controls import Controls

    def start() -> str:
        return safe_text(session.start_recording().path)

    def stop() -> str:
        recording, notes = session.stop_recording()
        if recording is None:
            return "there was no recording"
        size = f"{recording.bytes / 1e6:.1f} MB, {recording.events:,} events"
        return " ".join((f"{safe_text(recording.path)} ({size})", *map(safe_text, notes)))

    return Controls(start_recording=start, stop_recording=stop, replay=session.replay)


def _pick(context: Context, groups: Sequence[Group]) -> Group | None:
    """The group that the person picks; None when they leave the picker."""
    if not context.interactive:
        raise several_found(groups)
    from prismtop.tui.picker import pick_group

    return pick_group(groups, settings=context.settings)
