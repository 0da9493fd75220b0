"""`prismtop record`: a trace of what a running engine does, without a screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from prismtop.commands import recordings
from prismtop.commands.attaching import open_session
from prismtop.commands.choose import describe, only_group, profiles_in_use
from prismtop.commands.context import Context, Interrupted, closing_session
from prismtop.errors import EXIT_OK, EXIT_UNAVAILABLE, PrismtopError, UnavailableError, UsageError
from prismtop.export import jsonl
from prismtop.model import AttachState, Frame, Recording
from prismtop.safe_text import safe_text

if TYPE_CHECKING:
    from prismtop.session import Session

_ENDED = (AttachState.GONE, AttachState.DETACHED)
_ALL_PAST_S = 3600.0


@dataclass(frozen=True)
class RecordOptions:
    """What to record.

    Attributes:
        output: the trace; None makes a name in the directory of the settings.
        duration_s: None is until a signal, or until the target ends.
        ready_fd: where a detached recording says that it has begun; None for others.
    """

    output: str | None = None
    duration_s: float | None = None
    ready_fd: int | None = None


@dataclass(frozen=True)
class _End:
    batches: int
    target_ended: bool
    seconds: float


def run(context: Context, pids: Sequence[int], options: RecordOptions) -> int:
    """Record the engine that `pids` name, or the only one that runs, until it is enough.

    Raises:
        UnavailableError: the disk was full, or failed.
    """
    from prismtop.trace.recorder import Recorder, RecorderSettings
    from prismtop.trace.segments import check_free

    if options.output is not None:
        check_free(Path(options.output).expanduser())
    profiles = profiles_in_use()
    group = only_group(context, pids, profiles)
    # It begins with the session, so that no past needs to be remembered, and no alert has to begin another.
    recorder = Recorder(replace(RecorderSettings.of(context.settings), past_s=0.0, on_alert=False))
    session = open_session(context, group, profiles, figures=False, counters=True, recorder=recorder)
    # A signal that comes before the first look at it ends the recording as any later one does.
    with closing_session(context, session), context.signals.deferred():
        first = session.tick()
        path = session.start_recording(options.output, _ALL_PAST_S).path
        with recordings.announced(path, describe(group)):
            if options.ready_fd is None:
                how = "" if options.duration_s else "; ctrl-c ends it"
                context.report.say(f"recording {describe(group)} to {safe_text(path)}{how}")
            else:
                _say_ready(options.ready_fd, path)
            end = _until_enough(context, session, first, options.duration_s)
            recording, notes = session.stop_recording()
    assert recording is not None
    return _conclude(context, recording, notes, end, describe(group))


def _until_enough(context: Context, session: Session, first: Frame, duration_s: float | None) -> _End:
    """Tick until the time is over, the target ended, the recording failed or a signal came."""
    period_s = 1 / context.settings.tick_hz
    began = time.monotonic()
    batches = len(first.new_batches)
    ended = False
    try:
        with context.signals.deferred():
            while True:
                started = time.monotonic()
                frame = session.tick()
                batches += len(frame.new_batches)
                for text in frame.warnings:
                    context.report.say(safe_text(text))
                ended = frame.state in _ENDED
                failed = frame.recording is not None and frame.recording.error
                now = time.monotonic()
                if ended or failed or (duration_s is not None and now - began >= duration_s):
                    break
                context.signals.check()
                time.sleep(max(0.0, started + period_s - now))
                context.signals.check()
    except Interrupted:  # the ordinary end of a recording without a duration
        pass
    return _End(batches, ended, time.monotonic() - began)


def _conclude(context: Context, recording: Recording, notes: Sequence[str], end: _End, name: str) -> int:
    for note in notes:
        context.report.say(note)
    if end.target_ended:
        context.report.say(f"{name} ended, or the probe left it")
    if context.json:
        context.write(
            jsonl.document(
                "recording",
                {
                    "path": safe_text(recording.path, 4096),
                    "seconds": round(end.seconds, 3),
                    "batches": end.batches,
                    "events": recording.events,
                    "bytes": recording.bytes,
                    "dropped": recording.dropped,
                    **({"error": safe_text(recording.error)} if recording.error else {}),
                },
            )
        )
    else:
        context.report.say(
            f"{end.batches} batches in {end.seconds:.1f} s: {recording.events} events, "
            f"{recording.bytes / 1e6:.1f} MB in {safe_text(recording.path)}"
        )
    # The sentence about the error is among the notes.
    return EXIT_UNAVAILABLE if recording.error else EXIT_OK


def detach(context: Context, pids: Sequence[int], options: RecordOptions) -> int:
    """Start the same recording in a session of its own, which no lost terminal ends; return once it has
    begun.

    Raises:
        PrismtopError: it did not begin; the sentence is that of the recording itself.
    """
    output = None if options.output is None else os.path.abspath(os.path.expanduser(options.output))
    read, write = os.pipe()
    argv = [sys.executable, "-m", "prismtop", "record", f"--ready-fd={write}"]
    argv += [f"--pid={pid}" for pid in pids]
    argv += [] if output is None else ["-o", output]
    argv += [] if options.duration_s is None else [f"--duration={options.duration_s}"]
    for name, origin in context.settings.origins.items():
        if origin == "flag":
            argv += ["--set", f"{name}={getattr(context.settings, name)}"]
    with open(read, "rb") as ready, tempfile.TemporaryFile() as errors:
        try:
            child = _start(argv, write, errors)
        finally:
            os.close(write)
        with context.report.status("starting the recording"):
            line = ready.readline()
        if not line:
            code = child.wait()
            errors.seek(0)
            said = errors.read(65536).decode("utf-8", "replace").strip().splitlines()
            text = (
                safe_text(said[-1], 500).removeprefix("prismtop: ")
                if said
                else "the recording did not start."
            )
            raise PrismtopError(text, exit_code=code if code > 0 else EXIT_UNAVAILABLE)
    began = json.loads(line)
    child.returncode = 0  # it runs on; nobody waits for it
    if context.json:
        context.write(jsonl.document("recording", {"pid": began["pid"], "path": began["path"]}))
    else:
        context.report.say(f"recording to {safe_text(began['path'])}")
        context.report.say(f"`prismtop record --stop {began['pid']}` ends it")
    return EXIT_OK


def _start(argv: Sequence[str], ready_fd: int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process in a session without a terminal, and without a parent once this one has ended."""
    with open(os.devnull, "r+b") as nothing:
        return subprocess.Popen(
            argv,
            stdin=nothing,
            stdout=nothing,
            stderr=errors,
            pass_fds=(ready_fd,),
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
        )


def list_running(context: Context) -> int:
    """Print the recordings that run."""
    found = recordings.running()
    if context.json:
        rows = [
            {"pid": one.pid, "path": safe_text(one.path, 4096), "what": one.what, "since_s": one.since}
            for one in found
        ]
        context.write(jsonl.document("recordings", {"recordings": rows}))
        return EXIT_OK
    for one in found:
        minutes = max(0.0, time.time() - one.since) / 60
        context.write(f"{one.pid}  {minutes:.0f} min  {one.what}  {safe_text(one.path, 4096)}")
    if not found:
        context.report.say("no recording runs")
    return EXIT_OK


def stop(context: Context, pid: int | None) -> int:
    """End a recording: the one of `pid`, or the only one.

    Raises:
        UsageError: several run and none is named.
        UnavailableError: there is none.
    """
    found = recordings.running()
    chosen = found if pid is None else [one for one in found if one.pid == pid]
    if not chosen:
        which = "no recording runs" if pid is None else f"there is no recording {pid}"
        raise UnavailableError(f"{which}.", fix="`prismtop record --list` shows what runs.")
    if len(chosen) > 1:
        pids = ", ".join(str(one.pid) for one in chosen)
        raise UsageError(
            f"{len(chosen)} recordings run: {pids}.", fix=f"Choose one: `--stop {chosen[0].pid}`."
        )
    (one,) = chosen
    with context.report.status("waiting for the recording to end"):
        recordings.stop(one)
    if context.json:
        context.write(jsonl.document("recording", {"pid": one.pid, "path": safe_text(one.path, 4096)}))
    else:
        context.report.say(f"recorded to {safe_text(one.path, 4096)}")
    return EXIT_OK


def _say_ready(fd: int, path: str) -> None:
    try:
        os.write(fd, json.dumps({"pid": os.getpid(), "path": os.path.abspath(path)}).encode() + b"\n")
        os.close(fd)
    except OSError:  # whoever asked for it is gone; that is what detached means
        pass


def _import_path() -> list[str]:
    """So that the prismtop that runs is the one that is started."""
    import prismtop

    home = str(Path(prismtop.__file__).resolve().parent.parent)
    return [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
