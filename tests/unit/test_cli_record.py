"""`prismtop record`: when it ends, what it says, and which recordings it finds and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.commands import record, recordings
from prismtop.commands.record import RecordOptions
from prismtop.errors import EXIT_OK, EXIT_UNAVAILABLE, UnavailableError, UsageError
from prismtop.model import AttachState, Clock, Frame, Group
from prismtop.session import Session
from prismtop.sources.tick import SourceTick
from prismtop.targets.procfs import read_stat
from tests.factories import make_batch, make_group
from tests.unit.doubles import FakeReporter, FakeSignals, make_context
from tests.unit.trace_frames import events_in

START = 10**12


class FakeSource:
    """Two batches a poll; after `polls` the target is gone."""

    def __init__(self, polls: int = 10**9) -> None:
        self.group: Group = make_group()
        self.clock = Clock(0)
        self.polled = 0
        self.polls = polls
        self.closed = 0

    def poll(self) -> SourceTick:
        self.polled += 1
        now = START + self.polled * 20_000_000
        batches = (make_batch(2 * self.polled, now), make_batch(2 * self.polled + 1, now + 9_000_000))
        state = AttachState.GONE if self.polled >= self.polls else AttachState.LIVE
        return replace(SourceTick(now, state), batches=batches)

    def close(self) -> tuple[str, ...]:
        self.closed += 1
        return ()


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state directory of this test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> FakeSource:
    """An engine that is found and attached to."""
    made = FakeSource()

    def open_session(*args: object, recorder: Any, **options: object) -> Session:
        return Session(made, figures=False, recorder=recorder)

    monkeypatch.setattr(record, "open_session", open_session)
    monkeypatch.setattr(record, "only_group", lambda *args: made.group)
    return made


def batches_in(path: Path) -> int:
    return sum(event.get("cat") == "batch" for event in events_in(path))


def test_a_recording_ends_with_its_duration(tmp_path: Path, source: FakeSource) -> None:
    context, _, report = make_context()
    code = record.run(context, (), RecordOptions(str(tmp_path / "run.json"), 0.1))
    assert code == EXIT_OK
    assert batches_in(tmp_path / "run.json") == 2 * source.polled
    assert source.closed == 1
    assert report.said[0] == f"recording vllm 0.33.0 to {tmp_path / 'run.json'}"


def test_the_first_batches_after_the_attach_are_recorded_too(tmp_path: Path, source: FakeSource) -> None:
    context, _, _ = make_context()
    record.run(context, (), RecordOptions(str(tmp_path / "run.json"), 0.01))
    seqs = [e["args"]["seq"] for e in events_in(tmp_path / "run.json") if e.get("cat") == "batch"]
    assert seqs[:2] == [2, 3]


def test_a_signal_is_the_ordinary_end(tmp_path: Path, source: FakeSource) -> None:
    context, out, report = make_context(json=True, signals=FakeSignals(interrupt_at=7))
    assert record.run(context, (), RecordOptions(str(tmp_path / "run.json"))) == EXIT_OK
    line = json.loads(out.getvalue())
    assert (line["type"], line["path"]) == ("recording", str(tmp_path / "run.json"))
    assert line["batches"] == batches_in(tmp_path / "run.json") == 2 * source.polled
    assert line["bytes"] == (tmp_path / "run.json").stat().st_size
    assert "error" not in line
    assert report.said == [f"recording vllm 0.33.0 to {tmp_path / 'run.json'}; ctrl-c ends it"]


def test_a_recording_ends_with_its_target(tmp_path: Path, source: FakeSource) -> None:
    source.polls = 5
    context, _, report = make_context()
    assert record.run(context, (), RecordOptions(str(tmp_path / "run.json"))) == EXIT_OK
    assert "vllm 0.33.0 ended, or the probe left it" in report.said


def test_a_full_disk_ends_the_command_with_a_sentence(
    tmp_path: Path, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prismtop.trace.segments import Segment

    class Full(Segment):
        def append(self, text: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("prismtop.trace.writer.Segment", Full)
    context, out, report = make_context(json=True)
    assert record.run(context, (), RecordOptions(str(tmp_path / "run.json"))) == EXIT_UNAVAILABLE
    assert json.loads(out.getvalue())["error"] == "No space left on device"
    assert any("ended early: No space left on device" in text for text in report.said)


def test_a_name_that_is_taken_is_refused_before_anything_is_attached_to(
    tmp_path: Path, source: FakeSource
) -> None:
    (tmp_path / "run.json").touch()
    context, _, _ = make_context()
    with pytest.raises(UsageError, match="exists already"):
        record.run(context, (), RecordOptions(str(tmp_path / "run.json")))
    assert source.polled == 0


def test_without_a_name_the_recording_is_in_the_state_directory(tmp_path: Path, source: FakeSource) -> None:
    context, out, _ = make_context(json=True)
    record.run(context, (), RecordOptions(duration_s=0.01))
    path = Path(json.loads(out.getvalue())["path"])
    assert path.parent == tmp_path / "state" / "prismtop" / "recordings"
    assert path.exists()


def test_a_detached_recording_says_when_it_has_begun(tmp_path: Path, source: FakeSource) -> None:
    read, write = os.pipe()
    context, _, _ = make_context()
    record.run(context, (), RecordOptions(str(tmp_path / "run.json"), 0.01, write))
    with os.fdopen(read) as said:
        assert json.loads(said.read()) == {"pid": os.getpid(), "path": str(tmp_path / "run.json")}


def test_a_session_without_a_recorder_says_so(source: FakeSource) -> None:
    session = Session(source)
    with pytest.raises(UnavailableError):
        session.start_recording()
    assert session.stop_recording() == (None, ())


def test_the_frame_of_a_session_shows_its_recording(tmp_path: Path, source: FakeSource) -> None:
    from prismtop.trace.recorder import Recorder

    session = Session(source, recorder=Recorder())
    first: Frame = session.tick()
    session.start_recording(tmp_path / "run.json")
    second = session.tick()
    session.stop_recording()
    third = session.tick()
    session.close()
    assert (first.recording, third.recording) == (None, None)
    assert second.recording is not None
    assert second.recording.path == str(tmp_path / "run.json")


# -- recordings that run


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def announce(pid: int, start_time: int, **changes: Any) -> Path:
    directory = recordings._directory()
    directory.mkdir(parents=True, exist_ok=True)
    content = {"pid": pid, "start_time": start_time, "path": "/x/run.json", "what": "vllm", "since": 1.0}
    file = directory / f"{pid}-{start_time}.json"
    file.write_text(json.dumps({**content, **changes}))
    return file


def start_time(pid: int) -> int:
    stat = read_stat(pid)
    assert stat is not None
    return stat.start_time


def test_a_recording_is_announced_while_it_runs() -> None:
    with recordings.announced("run.json", "vllm 0.33"):
        (one,) = recordings.running()
        assert (one.pid, one.what, one.path) == (os.getpid(), "vllm 0.33", os.path.abspath("run.json"))
        (file,) = recordings._directory().iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
    assert recordings.running() == []


def test_a_process_that_took_over_the_pid_is_no_recording(sleeper: subprocess.Popen[bytes]) -> None:
    file = announce(sleeper.pid, start_time(sleeper.pid) - 1)
    assert recordings.running() == []
    assert not file.exists()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"{}", b'{"pid": "1"}', b"\xff", b"9" * 100_000], ids=range(7)
)
def test_a_damaged_announcement_is_removed(content: bytes) -> None:
    file = announce(1, 1)
    file.write_bytes(content)
    assert recordings.running() == []
    assert not file.exists()


def test_stopping_ends_the_process_and_no_other(sleeper: subprocess.Popen[bytes]) -> None:
    announce(sleeper.pid, start_time(sleeper.pid))
    context, _, report = make_context()
    assert record.stop(context, sleeper.pid) == EXIT_OK
    assert sleeper.wait() == -signal.SIGTERM
    assert report.said == ["recorded to /x/run.json"]


def test_a_process_with_another_start_time_is_never_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    stranger = recordings.Running(sleeper.pid, start_time(sleeper.pid) - 1, "/x", "vllm", 1.0)
    recordings.stop(stranger)
    assert sleeper.poll() is None


def test_the_only_recording_needs_no_name(sleeper: subprocess.Popen[bytes]) -> None:
    announce(sleeper.pid, start_time(sleeper.pid))
    context, _, _ = make_context()
    record.stop(context, None)
    assert sleeper.wait() == -signal.SIGTERM


def test_without_a_recording_there_is_nothing_to_stop() -> None:
    context, _, _ = make_context()
    with pytest.raises(UnavailableError, match="no recording runs"):
        record.stop(context, None)
    with pytest.raises(UnavailableError, match="there is no recording 77"):
        record.stop(context, 77)


def test_of_several_recordings_one_must_be_chosen(sleeper: subprocess.Popen[bytes]) -> None:
    announce(sleeper.pid, start_time(sleeper.pid))
    context, _, _ = make_context()
    with recordings.announced("run.json", "vllm"), pytest.raises(UsageError, match="2 recordings run"):
        record.stop(context, None)
    assert sleeper.poll() is None


def test_the_list_prints_nothing_that_a_terminal_obeys(sleeper: subprocess.Popen[bytes]) -> None:
    announce(sleeper.pid, start_time(sleeper.pid), what="\x1b[2J", path="/\x1b]0;x\x07")
    context, out, _ = make_context()
    assert record.list_running(context) == EXIT_OK
    assert "\x1b" not in out.getvalue()
    assert str(sleeper.pid) in out.getvalue()


def test_the_list_has_a_json_form() -> None:
    context, out, _ = make_context(json=True)
    with recordings.announced("/x/run.json", "vllm"):
        record.list_running(context)
    (one,) = json.loads(out.getvalue())["recordings"]
    assert (one["pid"], one["path"]) == (os.getpid(), "/x/run.json")


def test_a_state_directory_that_cannot_be_written_is_no_reason_not_to_record(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with recordings.announced("run.json", "vllm"):
        assert recordings.running() == []


def test_a_detached_recording_gets_the_settings_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Sequence[str]] = []

    def popen(argv: Sequence[str], **options: Any) -> Any:
        started.append(argv)
        assert options["start_new_session"]
        raise FileNotFoundError("enough seen")

    monkeypatch.setattr(subprocess, "Popen", popen)
    context, _, _ = make_context(reporter=FakeReporter())
    settings = replace(context.settings, lease_s=20.0, origins={"lease_s": "flag", "tick_hz": "default"})
    with pytest.raises(FileNotFoundError):
        record.detach(replace(context, settings=settings), (7, 8), RecordOptions("~/x.json", 5.0))
    argv = list(started[0])
    assert argv[argv.index("--set") + 1] == "lease_s=20.0"
    assert argv.count("--set") == 1
    assert "--pid=7" in argv
    assert "--pid=8" in argv
    assert "--duration=5.0" in argv
    assert argv[argv.index("-o") + 1] == str(Path.home() / "x.json")
