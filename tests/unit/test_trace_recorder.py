"""The recorder: the past, the future, alerts, slow and full disks, and what the files look like."""

from __future__ import annotations

import gzip
import json
import os
import random
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prismtop.errors import PermissionDeniedError, UnavailableError, UsageError
from prismtop.model import Batch, Frame
from prismtop.trace import segments
from prismtop.trace.decode import Decoding, Noun, decode
from prismtop.trace.own import Dropped, GroundTruth, SessionInfo
from prismtop.trace.recorder import ALERT_FILES, Recorder, RecorderSettings
from prismtop.trace.ring import Ring
from prismtop.trace.segments import Archive, Segment, compress, create
from prismtop.trace.writer import Chunk, Limits, TraceWriter
from tests.factories import MS, make_batch, make_frame
from tests.unit.trace_frames import an_alert, events_in

S = 10**9
START = 10**12


def frame_at(second: float, *seqs: int, **changes: Any) -> Frame:
    """A frame of that second with these batches, which lie just before it."""
    now = START + int(second * S)
    batches = tuple(make_batch(seq, now - (len(seqs) - n) * 9 * MS) for n, seq in enumerate(seqs))
    return make_frame(0, time_ns=now, new_batches=batches, **changes)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def nouns(path: Path) -> list[Noun]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    state = Decoding()
    return [noun for event in json.loads(text) if (noun := decode(event, state)) is not None]


def seqs(path: Path) -> list[int]:
    return [noun.seq for noun in nouns(path) if isinstance(noun, Batch)]


def recorder(tmp_path: Path, **changes: Any) -> Recorder:
    return Recorder(RecorderSettings(**{"directory": tmp_path / "own", "on_alert": False, **changes}))


def test_a_recording_holds_what_came_before_it_and_what_came_after(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1, 2))
    made.take(frame_at(1, 3))
    made.start(tmp_path / "run.json")
    made.take(frame_at(2, 4, 5))
    recording, notes = made.stop()
    assert seqs(tmp_path / "run.json") == [1, 2, 3, 4, 5]
    assert recording is not None
    assert (recording.dropped, recording.error, notes) == (0, "", ())


def test_the_past_reaches_as_far_as_asked_for(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    for second in range(100):
        made.take(frame_at(second, second))
    made.start(tmp_path / "run.json", past_s=20)
    made.stop()
    found = seqs(tmp_path / "run.json")
    assert found[-1] == 99
    assert 74 <= found[0] <= 79
    assert found == list(range(found[0], 100))


def test_without_a_past_a_recording_begins_now(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    made.start(tmp_path / "run.json", past_s=0)
    made.take(frame_at(1, 2))
    made.stop()
    assert seqs(tmp_path / "run.json") == [2]


def test_the_frame_says_how_the_recording_stands(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    assert made.take(frame_at(0, 1)) is None
    begun = made.start(tmp_path / "run.json")
    assert begun.path == str(tmp_path / "run.json")
    wait_until(lambda: (made.take(frame_at(1)) or begun).events > 0)
    standing = made.take(frame_at(1))
    assert standing is not None
    assert standing.bytes == (tmp_path / "run.json").stat().st_size
    made.stop()
    assert made.take(frame_at(2)) is None


def test_events_of_the_file_are_those_that_the_recorder_counts(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1, 2))
    made.start(tmp_path / "run.json")
    made.take(frame_at(1, 3))
    recording, _ = made.stop()
    events = events_in(tmp_path / "run.json")
    assert recording is not None
    assert events[-1]["name"] == "prismtop_end"
    assert events[-1]["args"] == {"events": recording.events, "dropped": 0}
    drawn = [event for event in events if event["ph"] != "M"]
    named = [event for event in events[:-1] if event["ph"] == "M"]
    # What the head of the file says is not counted; names of tracks within the stream are.
    assert len(drawn) <= recording.events <= len(drawn) + len(named)


def test_closing_ends_the_recording_and_says_where_it_is(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    made.start(tmp_path / "run.json.gz")
    (note,) = made.close()
    assert note.startswith("recorded ")
    assert note.endswith(f"to {tmp_path / 'run.json.gz'}")
    assert made.close() == ()


def test_closing_waits_for_a_recording_that_is_just_being_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = threading.Event()

    def slow(*args: Any) -> int:
        disk.wait(20)
        return compress(*args)

    monkeypatch.setattr("prismtop.trace.writer.compress", slow)
    made = recorder(tmp_path)
    made.take(frame_at(0, 1, 2))
    made.start(tmp_path / "run.json.gz")
    stopping = threading.Thread(target=made.stop)
    stopping.start()
    wait_until(lambda: made._writer is None)
    threading.Timer(0.2, disk.set).start()
    made.close()
    assert seqs(tmp_path / "run.json.gz") == [1, 2]
    stopping.join(20)


def test_a_name_with_gz_is_plain_while_it_is_written_and_one_member_afterwards(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    made.start(tmp_path / "run.json.gz")
    wait_until(lambda: b'"seq":1' in (tmp_path / "run.json").read_bytes())
    assert os.listdir(tmp_path) == ["run.json"]
    made.stop()
    assert os.listdir(tmp_path) == ["run.json.gz"]
    data = (tmp_path / "run.json.gz").read_bytes()
    import zlib

    member = zlib.decompressobj(31)
    member.decompress(data)
    assert member.eof
    assert member.unused_data == b""
    assert seqs(tmp_path / "run.json.gz") == [1]


def test_a_recording_without_a_name_gets_one_in_its_directory(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    first = made.start().path
    made.stop()
    second = made.start().path
    made.stop()
    assert Path(first).parent == tmp_path / "own"
    assert first != second
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700
    assert sorted(os.listdir(tmp_path / "own")) == sorted(Path(each).name for each in (first, second))


def test_only_the_owner_can_read_a_recording(tmp_path: Path) -> None:
    os.umask(os.umask(0o077) & 0)  # even where the umask would allow more
    made = recorder(tmp_path, limits=Limits(segment_bytes=500))
    made.take(frame_at(0, 1))
    made.start(tmp_path / "run.json")
    for second in range(1, 6):
        made.take(frame_at(second, second))
        wait_until(lambda: not made._writer._queue)  # type: ignore[union-attr]
    live = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("run*") if file.exists()}
    made.stop()
    done = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("run*")}
    assert live == done == {0o600}


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_a_file_that_exists_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    with pytest.raises(UsageError, match="exists already"):
        made.start(tmp_path / name)
    assert (tmp_path / name).read_text() == "precious"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
@pytest.mark.parametrize("dangling", [True, False])
def test_a_symbolic_link_is_never_followed(tmp_path: Path, name: str, dangling: bool) -> None:
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_text("precious")
    (tmp_path / name).symlink_to(victim)
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    with pytest.raises(UsageError, match="exists already"):
        made.start(tmp_path / name)
    assert victim.exists() is not dangling
    if not dangling:
        assert victim.read_text() == "precious"


def test_a_link_that_appears_at_the_last_moment_is_not_followed_either(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "x").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="exists"):
        create(tmp_path / "x")
    source = tmp_path / "run.json"
    source.write_text("[]")
    with pytest.raises(FileExistsError):
        compress(source, tmp_path / "x")
    assert (tmp_path / "victim").read_text() == "precious"
    assert source.read_text() == "[]"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["run", "run.txt", ".json", ".json.gz", "run.gz"])
def test_another_kind_of_name_is_refused_with_the_right_one(tmp_path: Path, name: str) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    with pytest.raises(UsageError, match=r"Call it .*\.json\.gz\."):
        made.start(tmp_path / name)


def test_a_directory_that_is_not_there_is_named_with_how_to_make_it(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    with pytest.raises(UsageError, match="mkdir -p"):
        made.start(tmp_path / "none" / "run.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours_is_a_matter_of_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    with pytest.raises(PermissionDeniedError):
        made.start(tmp_path / "run.json")


def test_two_recordings_at_once_are_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    made.start(tmp_path / "run.json")
    with pytest.raises(UsageError, match="runs already"):
        made.start(tmp_path / "other.json")
    made.take(frame_at(1, 2))
    made.stop()
    assert seqs(tmp_path / "run.json") == [1, 2]


def test_before_the_first_frame_there_is_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        recorder(tmp_path).start(tmp_path / "run.json")
    assert os.listdir(tmp_path) == []


def test_a_refused_recording_leaves_room_for_the_next(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    with pytest.raises(UsageError):
        made.start(tmp_path / "none" / "run.json")
    made.start(tmp_path / "run.json")
    made.stop()
    assert seqs(tmp_path / "run.json") == [1]


def test_an_injected_fault_is_recorded_with_the_batches(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json")
    fault = GroundTruth("cpu_swap", START - S, S, 4242, {"seed": 3})
    made.label(fault)
    made.stop()
    assert [noun for noun in nouns(tmp_path / "run.json") if isinstance(noun, GroundTruth)] == [fault]


def test_every_flush_is_one_write_and_no_event_crosses_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    write = os.write

    def spy(fd: int, data: bytes | memoryview) -> int:
        writes.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(segments.os, "write", spy)
    made = recorder(tmp_path)
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json", past_s=0)
    for n in range(1, 6):
        made.take(frame_at(n, *range(n * 20, n * 20 + 20)))
        wait_until(lambda: not made._writer._queue)  # type: ignore[union-attr]
    made.stop()
    head, *flushes, end = writes
    assert head.startswith(b'[\n{"ph":"M"')
    assert end.endswith(b"}\n]\n")
    assert len(flushes) == 5
    written = head
    pages = 0
    for flush in flushes:
        before = len(written)
        written += flush
        for page in range(-(-before // 4096) * 4096, len(written), 4096):
            json.loads(written[:page] + b"]")  # killed here, the file is whole
            pages += 1
    assert pages > 10
    assert written + end == (tmp_path / "run.json").read_bytes()


@pytest.mark.parametrize("offset", [0, 1, 4000, 4094, 4095, 4096, 9000])
def test_events_of_any_length_are_cut_at_pages_where_that_can_be(offset: int) -> None:
    rng = random.Random(offset)
    events = [
        b'{"a":"' + b"x" * rng.choice((1, 150, 400, 3000, 4085, 4086, 4090, 9000)) + b'"}' for _ in range(99)
    ]
    data = b"".join(b",\n" + event for event in events)
    at = offset
    made = b""
    for piece in segments._pages(data, offset):
        assert at // 4096 == (at + len(piece) - 1) // 4096 or (at % 4096 == 0 and piece.count(b"{") == 1)
        at += len(piece)
        made += piece
        json.loads(b"[0" + made + b"]")
    assert json.loads(b"[0" + made + b"]")[1:] == [json.loads(event) for event in events]


# -- rotation and limits


def rotated(tmp_path: Path, frames: int = 40, **limits: Any) -> Recorder:
    made = recorder(tmp_path, limits=Limits(**{"segment_bytes": 20_000, "flush_s": 0.0, **limits}))
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json")
    for n in range(1, frames):
        made.take(frame_at(n, *range(n * 10, n * 10 + 10)))
    return made


def test_segments_rotate_into_single_gzip_members_and_nothing_is_lost(tmp_path: Path) -> None:
    rotated(tmp_path).close()
    files = [*sorted(tmp_path.glob("run.0*.json.gz")), tmp_path / "run.json"]
    assert len(files) > 3
    assert sorted(os.listdir(tmp_path)) == sorted(file.name for file in files)
    assert [seq for file in files for seq in seqs(file)] == [0, *range(10, 400)]


def test_every_segment_begins_with_the_metadata_and_loads_alone(tmp_path: Path) -> None:
    rotated(tmp_path).close()
    numbers = []
    for file in [*sorted(tmp_path.glob("run.0*.json.gz")), tmp_path / "run.json"]:
        first = nouns(file)[0]
        assert isinstance(first, SessionInfo)
        numbers.append(first.segment)
        assert len({noun.start_ns for noun in nouns(file) if isinstance(noun, Batch)}) > 1
    assert numbers == list(range(len(numbers)))


def test_the_oldest_segments_go_when_all_together_are_too_large(tmp_path: Path) -> None:
    made = recorder(tmp_path, max_bytes=60_000, limits=Limits(segment_bytes=20_000, flush_s=0.0))
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json")
    for n in range(1, 200):
        made.take(frame_at(n, *range(n * 10, n * 10 + 10)))
        wait_until(lambda: not made._writer._queue)  # type: ignore[union-attr]
    made.close()
    names = sorted(os.listdir(tmp_path))
    assert "run.0000.json.gz" not in names
    assert sum((tmp_path / name).stat().st_size for name in names) <= 60_000
    assert seqs(tmp_path / "run.json")[-1] == 1999


# -- disks that are slow, full, or broken


class SlowSegment(Segment):
    """A disk that takes nothing while `stalled` is set."""

    stalled = threading.Event()

    def append(self, text: bytes) -> None:
        while self.stalled.is_set():
            time.sleep(0.005)
        super().append(text)


def test_a_slow_disk_costs_events_which_the_trace_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prismtop.trace.writer.Segment", SlowSegment)
    SlowSegment.stalled.set()
    made = recorder(tmp_path, limits=Limits(queue_bytes=20_000, flush_s=0.0))
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json")
    for n in range(1, 50):
        began = time.monotonic()
        standing = made.take(frame_at(n, *range(n * 10, n * 10 + 10)))
        assert time.monotonic() - began < 10  # it never waits for the disk
    assert standing is not None
    assert standing.dropped > 0
    SlowSegment.stalled.clear()
    wait_until(lambda: not made._writer._queue)  # type: ignore[union-attr]
    made.take(frame_at(60, 9_999))
    recording, notes = made.stop()
    found = nouns(tmp_path / "run.json")
    assert sum(noun.events for noun in found if isinstance(noun, Dropped)) == standing.dropped
    assert events_in(tmp_path / "run.json")[-1]["args"]["dropped"] == standing.dropped
    assert seqs(tmp_path / "run.json")[-1] == 9_999
    assert recording is not None
    assert notes == (f"{recording.dropped} events are missing: the disk was too slow",)


def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prismtop.trace.writer.Segment", SlowSegment)
    SlowSegment.stalled.set()
    made = recorder(tmp_path, limits=Limits(queue_bytes=20_000, flush_s=0.0))
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json")
    for n in range(1, 200):
        made.take(frame_at(n, *range(n * 10, n * 10 + 10)))
    writer = made._writer
    assert writer is not None
    waiting = sum(len(item.text) for item in writer._queue if isinstance(item, Chunk))
    SlowSegment.stalled.clear()
    made.stop()
    assert 0 < waiting <= 20_000


class FullSegment(Segment):
    """A disk that takes a part of the third write, and then no more."""

    writes = 0

    def append(self, text: bytes) -> None:
        FullSegment.writes += 1
        if FullSegment.writes >= 3:
            os.write(self._fd, text[: len(text) // 2])
            os.ftruncate(self._fd, self.size)
            raise OSError(28, "No space left on device")
        super().append(text)


def test_a_full_disk_ends_the_recording_and_not_the_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prismtop.trace.writer.Segment", FullSegment)
    FullSegment.writes = 0
    made = recorder(tmp_path, limits=Limits(flush_s=0.0))
    made.take(frame_at(0, 0))
    begun = made.start(tmp_path / "run.json")
    second = iter(range(1, 100_000))
    wait_until(lambda: bool((made.take(frame_at(next(second), 1)) or begun).error))
    standing = made.take(frame_at(200_000, 2))
    assert standing is not None
    assert standing.error == "No space left on device"
    assert len(events_in(tmp_path / "run.json")) > 0
    (note,) = made.close()
    assert note == f"the recording {tmp_path / 'run.json'} ended early: No space left on device"


def test_after_a_failure_a_new_recording_can_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FullSegment.writes = 3
    with monkeypatch.context() as patched:
        patched.setattr("prismtop.trace.writer.Segment", FullSegment)
        made = recorder(tmp_path, limits=Limits(flush_s=0.0))
        begun_frame = frame_at(0, 0)
        made.take(begun_frame)
        begun = made.start(tmp_path / "run.json")
        wait_until(lambda: bool((made.take(frame_at(1)) or begun).error))
    made.start(tmp_path / "other.json")
    made.stop()
    assert seqs(tmp_path / "other.json") == [0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_the_kernels_own_full_device_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "create", lambda path: os.open("/dev/full", os.O_WRONLY))
    monkeypatch.setattr(os, "ftruncate", lambda fd, size: None)
    made = recorder(tmp_path)
    made.take(frame_at(0, 0))
    with pytest.raises(UnavailableError, match="No space left on device"):
        made.start(tmp_path / "run.json")


def test_a_segment_that_cannot_be_compressed_stays_plain(tmp_path: Path) -> None:
    archive = Archive(10**9)
    plain = tmp_path / "run.0000.json"
    plain.write_text("[]")
    (tmp_path / "run.0000.json.gz").write_text("in the way")
    archive.add(plain, 2)
    assert archive.close(20)
    assert plain.read_text() == "[]"
    assert archive.problems == ["run.0000.json could not be compressed (File exists): it stays as it is"]


def test_a_writer_that_ended_takes_nothing_more(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 1))
    made.start(tmp_path / "run.json")
    writer = made._writer
    assert isinstance(writer, TraceWriter)
    made.stop()
    writer.put(Chunk(0, b"{}", 1))
    assert b"{}]" not in (tmp_path / "run.json").read_bytes()
    assert seqs(tmp_path / "run.json") == [1]


# -- the ring


def chunk_at(second: float, size: int = 1000) -> Chunk:
    return Chunk(int(second * S), os.urandom(size // 2).hex().encode(), 1)


def test_the_ring_forgets_what_is_too_old() -> None:
    ring = Ring(60)
    for second in range(300):
        ring.add(chunk_at(second))
    kept, first = ring.since(0)
    assert first is not None
    assert 60 <= 299 - first / S <= 70
    assert sum(each.events for each in kept) == 300 - first // S


def test_the_ring_is_bounded_by_size_whatever_its_time() -> None:
    ring = Ring(3600, max_bytes=500_000)
    for n in range(5000):
        ring.add(chunk_at(n / 1000))
    kept, _ = ring.since(0)
    assert sum(len(each.text) for each in kept) < 700_000
    assert ring.packed_bytes < 700_000


def test_the_ring_gives_back_what_it_was_given_in_order() -> None:
    ring = Ring(60)
    given = [chunk_at(n / 10) for n in range(500)]
    for chunk in given:
        ring.add(chunk)
    kept, _ = ring.since(0)
    assert b",\n".join(each.text for each in kept) == b",\n".join(chunk.text for chunk in given)


# -- alerts


def alert_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "own").glob("alert-*.json.gz")) if (tmp_path / "own").exists() else []


def with_alert(second: float, alert_id: int = 1, closed: bool = False, *seqs: int) -> Frame:
    alert = an_alert(id=alert_id, closed_ns=START + int(second * S) if closed else None)
    return frame_at(second, *seqs, changed_alerts=(alert,))


def test_an_alert_saves_the_minute_before_it_and_what_follows(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=True)
    for second in range(100):
        made.take(frame_at(second, second))
    made.take(with_alert(100, 1, False, 100))
    made.take(frame_at(101, 101))
    made.take(with_alert(102, 1, True, 102))
    made.take(frame_at(105, 105))
    made.take(frame_at(113, 113))
    made.take(frame_at(114, 114))
    notes = made.close()
    (file,) = alert_files(tmp_path)
    found = seqs(file)
    assert 34 <= found[0] <= 40
    assert found[-5:] == [100, 101, 102, 105, 113]
    assert notes == (f"recordings of 1 alert are in {tmp_path / 'own'}",)


def test_an_alert_that_changes_saves_one_file(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=True)
    for second in range(5):
        made.take(with_alert(second))
    made.close()
    assert len(alert_files(tmp_path)) == 1


def test_an_alert_during_another_is_in_the_same_file(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=True)
    made.take(with_alert(1, 1))
    made.take(with_alert(2, 2))
    made.take(with_alert(3, 1, True))
    made.take(frame_at(30, 30))
    made.close()
    (file,) = alert_files(tmp_path)
    assert seqs(file) == [30]


def test_an_alert_that_never_closes_ends_its_file_after_a_while(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=True)
    made.take(with_alert(1, 1))
    made.take(frame_at(100, 100))
    made.take(frame_at(200, 200))
    made.take(frame_at(201, 201))
    made.close()
    (file,) = alert_files(tmp_path)
    assert seqs(file) == [100, 200]


def test_an_alert_needs_no_file_of_its_own_during_a_recording(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=True)
    made.take(frame_at(0, 0))
    made.start(tmp_path / "run.json")
    made.take(with_alert(1, 1))
    made.close()
    assert alert_files(tmp_path) == []


def test_alerts_save_nothing_when_the_setting_says_so(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=False)
    made.take(with_alert(1, 1))
    assert made.close() == ()
    assert not (tmp_path / "own").exists()


def test_only_the_latest_alert_files_are_kept_and_no_other_file_is_touched(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for n in range(30):
        (own / f"alert-20260101-0000{n:02d}-shift-vllm-1-1.json.gz").touch()
    (own / "prismtop-20260101-000000-vllm.json.gz").touch()
    (own / "alert-notes.txt").touch()
    made = recorder(tmp_path, on_alert=True)
    made.take(with_alert(1, 1))
    made.close()
    assert len(alert_files(tmp_path)) == ALERT_FILES
    assert not (own / "alert-20260101-000010-shift-vllm-1-1.json.gz").exists()
    assert (own / "alert-20260101-000011-shift-vllm-1-1.json.gz").exists()
    assert (own / "prismtop-20260101-000000-vllm.json.gz").exists()
    assert (own / "alert-notes.txt").exists()


def test_an_alert_that_cannot_be_saved_is_said_and_disturbs_nothing(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("a file, no directory")
    made = recorder(tmp_path, on_alert=True)
    made.take(with_alert(1, 1))
    made.take(frame_at(2, 2))
    notes = made.close()
    assert len(notes) == 1
    assert "ended early" in notes[0]


def test_the_state_of_an_alert_says_nothing_about_a_recording(tmp_path: Path) -> None:
    made = recorder(tmp_path, on_alert=True)
    assert made.take(with_alert(1, 1)) is None
    made.close()


def test_frames_that_come_from_another_thread_are_all_recorded(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.take(frame_at(0, 0))
    ended = threading.Event()

    def tick() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            made.take(replace(frame_at(n / 100, n), time_ns=START + n * 10 * MS))

    thread = threading.Thread(target=tick)
    thread.start()
    made.start(tmp_path / "run.json", past_s=3600)
    time.sleep(0.1)
    made.stop()
    ended.set()
    thread.join()
    found = seqs(tmp_path / "run.json")
    assert found == list(range(len(found)))
