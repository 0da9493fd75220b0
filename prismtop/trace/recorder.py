"""The recorder: a sink of a session that always remembers the last minutes, and writes them and what follows
when it is asked to, or when an alert opens.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prismtop.errors import PrismtopError, UnavailableError, UsageError
from prismtop.model import Frame, Recording
from prismtop.safe_text import safe_file_name, safe_text
from prismtop.settings import Settings
from prismtop.trace.events import Encoder, events_of
from prismtop.trace.own import GroundTruth
from prismtop.trace.ring import Ring
from prismtop.trace.segments import free_name
from prismtop.trace.writer import Chunk, Limits, TraceWriter

ALERT_FILES = 20
ALERT_BYTES = 64 << 20
ALERT_PAST_S = 60.0
ALERT_AFTER_S = 10.0
"""An alert's recording goes on for this long after the last open alert closed."""
ALERT_MOST_S = 120.0
LEAST_PAST_S = 1.0
_ALERT_NAME = re.compile(r"alert-\d{8}-\d{6}-[A-Za-z0-9._-]+\.json(\.gz)?")


@dataclass(frozen=True)
class RecorderSettings:
    """Where, how much, and when.

    Attributes:
        directory: of recordings without a name; None is the state directory of the platform.
        past_s: how far back a recording reaches.
        max_bytes: all files of one recording together.
        on_alert: whether every alert saves a recording of its own.
        limits: of the writer; `max_bytes` goes over its total.
    """

    directory: Path | None = None
    past_s: float = 180.0
    max_bytes: int = 2 << 30
    on_alert: bool = True
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(cls, settings: Settings) -> RecorderSettings:
        """What the user's settings say."""
        named = None if settings.record_dir == "auto" else Path(settings.record_dir).expanduser()
        return cls(named, settings.record_past_s, settings.record_max_mb << 20, settings.record_on_alert)


def state_dir() -> Path:
    """Where recordings go that were given no name."""
    import platformdirs

    return Path(platformdirs.user_state_dir("prismtop", appauthor=False)) / "recordings"


class Recorder:
    """Takes every frame of one session. Any thread may call any method; none waits for the disk but `start`,
    `stop` and `close`.
    """

    def __init__(self, settings: RecorderSettings | None = None) -> None:
        self._settings = settings or RecorderSettings()
        self._lock = threading.Lock()
        self._ring = Ring(max(LEAST_PAST_S, self._settings.past_s))
        self._encoder: Encoder | None = None
        self._now_ns = 0
        self._engine = ""
        self._writer: TraceWriter | None = None
        self._alert: _AlertRecording | None = None
        self._last_alert = 0
        self._ending: list[_AlertRecording] = []
        self._stopping: list[TraceWriter] = []
        """Writers that another thread waits for in `stop`: the process must not end before they do."""

    def take(self, frame: Frame) -> Recording | None:
        """Encode what is new, remember it, hand it to the recordings that run."""
        with self._lock:
            if self._encoder is None:
                self._encoder = Encoder(frame)
                self._engine = safe_file_name(frame.group.engine, 40)
            self._now_ns = frame.time_ns
            self._put(events_of(frame, self._encoder))
            self._follow_alerts(frame)
            return self._writer.status() if self._writer is not None else None

    def label(self, fault: GroundTruth) -> None:
        """Record a fault that was injected on purpose, once it is over. Before the first frame it is not
        taken.
        """
        with self._lock:
            if self._encoder is not None:
                self._put(self._encoder.ground_truth(fault))

    def _put(self, events: Sequence[str]) -> None:
        if not events:
            return
        chunk = Chunk(self._now_ns, ",\n".join(events).encode(), len(events))
        self._ring.add(chunk)
        if self._writer is not None:
            self._writer.put(chunk)
        if self._alert is not None:
            self._alert.writer.put(chunk)

    def start(self, path: str | Path | None = None, past_s: float | None = None) -> Recording:
        """Begin a recording with the past that is remembered.

        Args:
            path: ends in .json or .json.gz; None makes a name in the directory of the settings.
            past_s: how far back it reaches; None is what the settings say.

        Raises:
            UsageError: one runs already, or the name is taken or wrong.
            UnavailableError: nothing was seen yet, or the file cannot be created.
            PermissionDeniedError: the directory is not ours to write to.
        """
        target = self._own_name() if path is None else Path(path).expanduser()
        past = self._settings.past_s if past_s is None else past_s
        with self._lock:
            if self._writer is not None and not self._writer.error:
                shown = safe_text(str(self._writer.path))
                raise UsageError(f"a recording runs already: {shown}.", fix="Stop it first.")
            if self._encoder is None:
                raise UnavailableError("there is nothing to record yet.", fix="Try again in a second.")
            limits = replace(self._settings.limits, total_bytes=self._settings.max_bytes)
            writer = self._writer = self._begin(target, past, limits, self._encoder)
        try:
            writer.wait_open()
        except PrismtopError:
            with self._lock:
                if self._writer is writer:  # not one that began meanwhile
                    self._writer = None
            raise
        return writer.status()

    def stop(self) -> tuple[Recording | None, tuple[str, ...]]:
        """End the recording; how it ended (None without one), and what a person should know."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is None:
                return None, ()
            writer.last_words()
            self._stopping.append(writer)
        notes = writer.close()
        with self._lock:
            self._stopping.remove(writer)
        return writer.status(), notes

    def close(self) -> tuple[str, ...]:
        """End everything; sentences about what was written and where."""
        with self._lock:
            stopping = tuple(self._stopping)
        said = [note for writer in stopping for note in writer.close()]
        recording, notes = self.stop()
        said += notes
        if recording is not None and not recording.error:
            said.insert(0, f"recorded {recording.events} events to {safe_text(recording.path)}")
        with self._lock:
            if self._alert is not None:
                self._end_alert(self._alert)
            ending, self._ending = self._ending, []
        saved = 0
        for alert in ending:
            said += alert.writer.close()
            saved += not alert.writer.error
        if saved:
            count = "1 alert" if saved == 1 else f"{saved} alerts"
            said.append(f"recordings of {count} are in {safe_text(str(self._directory()))}")
        return tuple(dict.fromkeys(said))

    def _begin(
        self,
        path: Path,
        past_s: float,
        limits: Limits,
        encoder: Encoder,
        prepare: Callable[[], None] | None = None,
    ) -> TraceWriter:
        since = self._now_ns - int(past_s * 10**9)
        past, first_ns = self._ring.since(since) if past_s > 0 else ([], None)
        return TraceWriter(path, encoder, limits, past, first_ns or self._now_ns, prepare)

    def _directory(self) -> Path:
        return self._settings.directory or state_dir()

    def _own_name(self) -> Path:
        return free_name(self._directory(), f"prismtop-{_stamp()}-{self._engine}", "recordings")

    def _follow_alerts(self, frame: Frame) -> None:
        """Begin a recording with the first alert that opens, end it when the last one has been closed for a
        while. What a person records already needs no second file.
        """
        opened = [alert for alert in frame.changed_alerts if alert.closed_ns is None]
        new = [alert for alert in opened if alert.id > self._last_alert]
        self._last_alert = max((alert.id for alert in opened), default=self._last_alert)
        if self._alert is not None:
            self._alert.follow(frame)
            if self._alert.over(frame.time_ns):
                self._end_alert(self._alert)
        elif new and self._settings.on_alert and self._writer is None and self._encoder is not None:
            directory = self._directory()
            kind = safe_file_name(new[0].kind, 20)
            name = f"alert-{_stamp()}-{kind}-{self._engine}-{os.getpid()}-{new[0].id}.json.gz"
            limits = replace(self._settings.limits, total_bytes=ALERT_BYTES, rotate=False)
            past = min(ALERT_PAST_S, self._settings.past_s)

            def prepare() -> None:
                os.makedirs(directory, mode=0o700, exist_ok=True)
                _prune(directory)

            writer = self._begin(directory / name, past, limits, self._encoder, prepare)
            self._alert = _AlertRecording(writer, frame)

    def _end_alert(self, alert: _AlertRecording) -> None:
        """Finish its file in the background: a tick waits for no disk."""
        self._alert = None
        alert.writer.last_words()
        threading.Thread(target=alert.writer.close, name="prismtop-alert", daemon=True).start()
        self._ending = [*self._ending, alert][-ALERT_FILES:]


class _AlertRecording:
    """A recording that an alert began."""

    def __init__(self, writer: TraceWriter, frame: Frame) -> None:
        self.writer = writer
        self._began_ns = self._quiet_ns = frame.time_ns
        self._open: set[int] = set()
        self.follow(frame)

    def follow(self, frame: Frame) -> None:
        for alert in frame.changed_alerts:
            (self._open.add if alert.closed_ns is None else self._open.discard)(alert.id)
        if self._open:
            self._quiet_ns = frame.time_ns

    def over(self, now_ns: int) -> bool:
        if self.writer.error or self.writer.full:
            return True
        quiet, whole = now_ns - self._quiet_ns, now_ns - self._began_ns
        return quiet > ALERT_AFTER_S * 10**9 or whole > ALERT_MOST_S * 10**9


def _stamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def _prune(directory: Path) -> None:
    """Leave room for one more among the latest `ALERT_FILES` alert recordings."""
    names = sorted(name for name in os.listdir(directory) if _ALERT_NAME.fullmatch(name))
    for name in names[: max(0, len(names) - ALERT_FILES + 1)]:
        (directory / name).unlink(missing_ok=True)
